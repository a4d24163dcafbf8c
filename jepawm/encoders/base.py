"""What every encoder offers, and what those that encode each frame by itself share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from jepawm.config.encoder import EncoderConfig, TransformerEncoderConfig
from jepawm.encoders.preprocess import Preprocess
from jepawm.errors import ConfigError
from jepawm.nn.precision import at_least_float32


class Encoder(nn.Module):
    """`[B,T,C,Y,X]` uint8 frames to `[B,L,P,D]` latents.

    Attributes:
        grid: Rows and columns of patches; (1, 1) with one token a frame.
        num_patches: Tokens `P` of one latent.
        latent_dim: Width `D`.
        frames_per_latent: Frames that one latent stands for; `L = T / frames_per_latent`.
    """

    grid: tuple[int, int]
    num_patches: int
    latent_dim: int
    frames_per_latent: int

    def __init__(self, *, grid: tuple[int, int], latent_dim: int, frames_per_latent: int = 1) -> None:
        super().__init__()
        self.grid = grid
        self.num_patches = grid[0] * grid[1]
        self.latent_dim = latent_dim
        self.frames_per_latent = frames_per_latent

    @property
    def storable(self) -> "Encoder":
        """The part whose latents a feature store holds: all of it, unless only a part is frozen."""
        return self

    def from_features(self, features_BTPF: Float[Tensor, "B T P F"]) -> Float[Tensor, "B T P F"]:
        """Latents from what `storable` makes of the frames.

        Args:
            features_BTPF: `[B,T,P,F]` features of `storable`, float.

        Returns:
            What `forward` returns for the same frames, float32.
        """
        return at_least_float32(features_BTPF)


class FrameEncoder(Encoder, ABC):
    """An encoder that sees each frame by itself; a subclass says what `tokens` are.

    Args:
        config: Normalisation and resizing.
        image_size: Side of the square input frames, pixels.
        grid: Rows and columns of patches.
        latent_dim: Width `D`.
    """

    def __init__(self, config: EncoderConfig, image_size: int, *, grid: tuple[int, int], latent_dim: int) -> None:
        super().__init__(grid=grid, latent_dim=latent_dim)
        self.preprocess = Preprocess(config, image_size)

    @abstractmethod
    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        """Tokens `[N,P,D]` of images `[N,3,Y,X]` that are resized and normalised already.

        Raises:
            ConfigError: A side that cannot be cut into patches.
        """

    def forward(self, pixels_BTCYX: Shaped[Tensor, "B T C Y X"]) -> Float[Tensor, "B T P D"]:
        """Encodes frames one by one.

        Args:
            pixels_BTCYX: `[B,T,3,Y,X]` uint8, 0 to 255.

        Returns:
            `[B,T,P,D]` latents, float32.

        Raises:
            ConfigError: Frames of another kind, number of channels or size than the encoder was built for.
        """
        images = self.preprocess(pixels_BTCYX.flatten(0, 1), compute_dtype(self, pixels_BTCYX.device))
        return at_least_float32(self.tokens(images)).unflatten(0, pixels_BTCYX.shape[:2])


def compute_dtype(module: nn.Module, device: torch.device) -> torch.dtype:
    """The dtype a module computes in: autocast's where it is on, else that of the module's parameters."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return next(module.parameters()).dtype


@dataclass(frozen=True)
class Widths:
    """Widths of a transformer.

    Attributes:
        dim: Token width `D`.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Width inside a block's feed-forward over `D`.
        gated: Whether the feed-forward is a SwiGLU.
    """

    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    gated: bool = False

    @property
    def hidden_dim(self) -> int:
        """Width inside a block's feed-forward."""
        return round(self.dim * self.mlp_ratio)


def widths_of(config: TransformerEncoderConfig, published: Mapping[str, Widths]) -> Widths:
    """The widths of the configured size (the first one, if none is), with those of the configuration in their place.

    Args:
        config: Of the encoder.
        published: Widths by size, smallest first.

    Raises:
        ConfigError: The width cannot be shared by the heads.
    """
    name: str = config.size or next(iter(published))
    size = published[name]
    found = replace(
        size,
        dim=config.latent_dim or size.dim,
        depth=config.depth or size.depth,
        num_heads=config.num_heads or size.num_heads,
        mlp_ratio=config.mlp_ratio or size.mlp_ratio,
    )
    if found.dim % found.num_heads:
        raise ConfigError(
            f"model.encoder.latent_dim must be divisible by model.encoder.num_heads, found {found.dim} and "
            f"{found.num_heads}"
        )
    return found


def patch_grid(rows_px: int, columns_px: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image.

    Raises:
        ConfigError: A side that is not a multiple of the patch.
    """
    if rows_px % patch_size or columns_px % patch_size or not rows_px or not columns_px:
        near = max(1, round(rows_px / patch_size)) * patch_size
        raise ConfigError(
            f"images of {rows_px} x {columns_px} px cannot be cut into patches of {patch_size} px; set "
            f"model.encoder.resize_to to a multiple of {patch_size}, e.g. {near}"
        )
    return rows_px // patch_size, columns_px // patch_size
