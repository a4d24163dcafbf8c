"""What fixes the widths of a head, besides its own configuration."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class HeadShape:
    """Widths that a head reads and gives.

    Attributes:
        grid: Rows and columns of the latents' patches.
        latent_dim: Width `D` of a visual token.
        proprio_dim: Width `E` of the latents' proprio part; 0 where the model sees pixels alone.
        image_size: Side of the frames that the model sees, pixels.
        chunk_dim: Width `A` of an action chunk.
        state_names: A name for each number of the simulator's state; empty where there is none.
    """

    grid: tuple[int, int]
    latent_dim: int
    proprio_dim: int
    image_size: int
    chunk_dim: int
    state_names: tuple[str, ...] = ()

    @property
    def num_patches(self) -> int:
        """Visual tokens `P` of a frame."""
        return self.grid[0] * self.grid[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "grid": list(self.grid), "state_names": list(self.state_names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "HeadShape":
        """Inverse of `to_dict`."""
        return cls(**{**data, "grid": tuple(data["grid"]), "state_names": tuple(data["state_names"])})
