"""What every encoder offers, and what those that encode each frame by itself share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from jepawm.config.encoder import EncoderConfig, Tokenization, TransformerEncoderConfig
from jepawm.encoders.preprocess import PixelFormat, Preprocess
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
        own: What the model's own configuration says of pixels, where it has one.
    """

    def __init__(
        self,
        config: EncoderConfig,
        image_size: int,
        *,
        grid: tuple[int, int],
        latent_dim: int,
        own: PixelFormat | None = None,
    ) -> None:
        super().__init__(grid=grid, latent_dim=latent_dim)
        self.preprocess = Preprocess(config, image_size, own)

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


def as_clips(
    frames_BTCYX: Float[Tensor, "B T C Y X"], tokenization: Tokenization, tubelet: int
) -> Float[Tensor, "N C U Y X"]:
    """Clips for a video encoder that embeds `tubelet` frames at a time.

    Args:
        frames_BTCYX: `[B,T,C,Y,X]` normalised frames.
        tokenization: `frame`: each frame is a clip, repeated; `duplicated`: each frame is repeated within its clip;
            `clip`: as they are; `image`: each frame is a clip of one frame.
        tubelet: Frames of a tubelet.

    Returns:
        `[B*T,C,tubelet,Y,X]` with `frame`, `[B*T,C,1,Y,X]` with `image`, `[B,C,tubelet*T,Y,X]` with `duplicated`, else
        `[B,C,T,Y,X]`.

    Raises:
        ConfigError: Frames of `clip` that do not come out even.
    """
    T = frames_BTCYX.shape[1]
    if tokenization == "image":
        return frames_BTCYX.flatten(0, 1)[:, :, None]
    if tokenization == "frame":
        return frames_BTCYX.flatten(0, 1)[:, :, None].expand(-1, -1, tubelet, -1, -1)
    clip = frames_BTCYX.transpose(1, 2)
    if tokenization == "duplicated":
        return clip.repeat_interleave(tubelet, dim=2)
    if T % tubelet:
        raise ConfigError(
            f"model.encoder.tokenization 'clip' takes frames in pairs, found T = {T}; give an even number of "
            "frames, or use 'frame' or 'duplicated'"
        )
    return clip


def compute_dtype(module: nn.Module, device: torch.device) -> torch.dtype:
    """The dtype a module computes in: autocast's where it is on, else that of its parameters, else the default."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    parameter = next(module.parameters(), None)
    return torch.get_default_dtype() if parameter is None else parameter.dtype


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
        ConfigError: The width cannot be shared by the heads, or there are fewer blocks than the layer asks for.
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
    check_layer(config.layer, found.depth)
    return found


def check_layer(layer: int | None, depth: int, what: str = "blocks") -> int:
    """The number of layers that are computed, of `depth` that there are.

    Raises:
        ConfigError: Fewer layers than the one that is asked for.
    """
    if layer is not None and layer > depth:
        raise ConfigError(f"model.encoder.layer is {layer}, and the encoder has {depth} {what}: take 1 to {depth}")
    return layer or depth


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
