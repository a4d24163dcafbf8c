"""What a world model makes of an observation: visual tokens, and what it knows of the robot's own state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Latent:
    """A latent with any leading axes (batch, time, candidates), the same for both parts.

    Attributes:
        visual: `[*lead,P,D]` tokens of patches.
        proprio: `[*lead,Q,E]`, or None: the encoded proprio at every patch (`Q = P`), or as one token (`Q = 1`).
    """

    visual: Tensor
    proprio: Tensor | None = None

    @property
    def lead(self) -> torch.Size:
        """The leading axes."""
        return self.visual.shape[:-2]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Latent":
        """Applies a function to each part; it may touch leading axes only."""
        return Latent(function(self.visual), None if self.proprio is None else function(self.proprio))

    def __getitem__(self, index: Any) -> "Latent":
        """Indexes leading axes."""
        return self.map(lambda part: part[index])

    def parts(self) -> dict[str, Tensor]:
        """The parts there are, by name."""
        return {"visual": self.visual} if self.proprio is None else {"visual": self.visual, "proprio": self.proprio}


def _joined(latents: Sequence[Latent], join: Callable[[list[Tensor]], Tensor]) -> Latent:
    with_proprio = [latent.proprio for latent in latents if latent.proprio is not None]
    if len(with_proprio) not in (0, len(latents)):
        raise ValueError(f"{len(with_proprio)} of {len(latents)} latents have a proprio part; all must, or none")
    return Latent(join([latent.visual for latent in latents]), join(with_proprio) if with_proprio else None)


def concatenate(latents: Sequence[Latent], axis: int) -> Latent:
    """Joins latents along a leading axis; with a proprio part all of them, or none."""
    return _joined(latents, lambda parts: torch.cat(parts, dim=axis))


def stack(latents: Sequence[Latent], axis: int) -> Latent:
    """Joins latents along a new leading axis."""
    return _joined(latents, lambda parts: torch.stack(parts, dim=axis))
