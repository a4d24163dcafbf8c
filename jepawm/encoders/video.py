"""What the V-JEPA encoders share: pairs of frames become tokens of (time, row, column), which attend together."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.config.encoder import VideoEncoderConfig
from jepawm.encoders.base import Encoder, Widths, as_clips, compute_dtype, patch_grid
from jepawm.encoders.preprocess import Preprocess
from jepawm.errors import ConfigError
from jepawm.nn.precision import at_least_float32
from jepawm.nn.rotary import Pairing, RotaryTable, frame_rotary_table
from jepawm.nn.transformer import Block, init_transformer_

TUBELET = 2
_PATCH_SIZE = 16
_EPS = 1e-6
# Depths that are not evenly spaced as published, by (blocks, levels).
_PUBLISHED_DEPTHS = {(48, 4): (12, 24, 38, 48)}


@dataclass(frozen=True)
class EmbeddedClips:
    """Clips as tokens in front of the first block; every mask set of a clip starts from the same ones.

    Attributes:
        tokens_BLD: `[B,L,D]`, time by time, row by row.
        grid: Times, rows and columns.
        images: Whether the clips are single images, where the encoder tells them from videos.
    """

    tokens_BLD: Float[Tensor, "B L D"]
    grid: tuple[int, int, int]
    images: bool = False


class VideoTransformer(Encoder, ABC):
    """A video transformer whose tokens can be dropped in front of the first block; nothing in it is sized by the clip.

    Two frames at a time are cut into patches by one linear map; pre-norm blocks follow, without a class token.

    Tokenization (`config.tokenization`): `frame` doubles each frame and encodes it by itself; `duplicated` doubles each
    frame and lets the whole window attend together; `clip` takes frames in pairs; `image` encodes each frame by itself
    as an image, where the encoder takes images.

    Args:
        config: Pixel normalisation, tokenization, patch size.
        image_size: Side of the square frames of `forward`, pixels.
        widths: Of the transformer.

    Attributes:
        head_dim: Width of an attention head.
        patch_size: Side of a patch, pixels.
        depth: Blocks that are computed.
        rotary_pairing: Of the rotary embedding, see `jepawm.nn.rotary.rotary_table`.
        rotary_span: Of the rotary embedding, see `jepawm.nn.rotary.frame_rotary_table`.

    Raises:
        ConfigError: Patches or heads that do not come out even.
    """

    takes_images: bool = False
    rotary_pairing: Pairing = "published"
    rotary_span: float | None = None

    def __init__(self, config: VideoEncoderConfig, image_size: int, widths: Widths) -> None:
        if config.weights == "timm":
            raise ConfigError(f"timm has no weights of {config.name}; give a file as model.encoder.weights")
        if widths.dim // widths.num_heads % 2:
            raise ConfigError(
                f"{config.name} turns channels in pairs: model.encoder.latent_dim ({widths.dim}) over num_heads "
                f"({widths.num_heads}) must be even"
            )
        patch_size, side = config.patch_size or _PATCH_SIZE, config.resize_to or image_size
        super().__init__(
            grid=patch_grid(side, side, patch_size),
            latent_dim=widths.dim,
            frames_per_latent=config.frames_per_latent,
        )
        self.config = config
        self.image_size = image_size
        self.patch_size = patch_size
        self.head_dim = widths.dim // widths.num_heads
        self.widths = widths
        self.preprocess = Preprocess(config, image_size)
        self.patch_embed = self._patch_embedding(TUBELET)
        self.blocks = nn.ModuleList(
            Block(widths.dim, widths.num_heads, widths.hidden_dim, eps=_EPS) for _ in range(widths.depth)
        )

    def _patch_embedding(self, num_frames: int) -> nn.Conv3d:
        """The linear map of patches of `num_frames` frames."""
        kernel = (num_frames, self.patch_size, self.patch_size)
        embedding = nn.Conv3d(3, self.latent_dim, kernel, stride=kernel)
        nn.init.trunc_normal_(embedding.weight, std=0.02)
        assert embedding.bias is not None
        nn.init.zeros_(embedding.bias)
        return embedding

    def _norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.latent_dim, eps=_EPS)

    def _initialise(self) -> None:
        init_transformer_(self, self.blocks)

    def own_settings(self) -> dict[str, Any]:
        """Settings of `model.encoder` that the weights were trained with and need, as plain data."""
        config, widths = self.config, self.widths
        return {
            "name": config.name,
            "latent_dim": widths.dim,
            "depth": widths.depth,
            "num_heads": widths.num_heads,
            "mlp_ratio": widths.mlp_ratio,
            "patch_size": self.patch_size,
            "normalization": config.pixel_normalization,
        }

    def _drop_blocks_behind_the_layer(self) -> None:
        """Blocks behind `config.layer` have been checked against the file, and are not computed."""
        self.blocks = self.blocks[: self.config.layer]

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def forward(self, pixels_BTCYX: Shaped[Tensor, "B T C Y X"]) -> Float[Tensor, "B U P D"]:
        """Encodes windows of frames.

        Args:
            pixels_BTCYX: `[B,T,C,Y,X]` uint8, 0 to 255.

        Returns:
            `[B,T',P,D]` latents, float32; `T' = T`, or `T / 2` for tokenization `clip`, where latent `t` holds frames
            `2t` and `2t + 1`.

        Raises:
            ConfigError: Frames of another size than the encoder was built for; an odd `T` for tokenization `clip`.
        """
        B, T = pixels_BTCYX.shape[:2]
        images = self.preprocess(pixels_BTCYX.flatten(0, 1), compute_dtype(self, pixels_BTCYX.device))
        clip = as_clips(images.unflatten(0, (B, T)), self.config.tokenization, TUBELET)
        return at_least_float32(self.tokens(clip)).view(
            B, T // self.frames_per_latent, self.num_patches, self.latent_dim
        )

    def tokens(
        self, clip_BCTYX: Float[Tensor, "B C T Y X"], keep_BL: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """Normalised tokens of clips, time by time, row by row.

        Args:
            clip_BCTYX: `[B,C,T,Y,X]` normalised frames, `T` even; any size that patches divide. One frame is an image,
                where the encoder takes images.
            keep_BL: `[B,L]` the tokens to encode, by their place in the whole clip; the others are not seen, and those
                kept know their true positions. None: all `T/2 * rows * columns`.

        Returns:
            `[B,M,D]`, `M = L` or all tokens.

        Raises:
            ConfigError: Frames or patches that do not come out even.
        """
        return self.levels(self.embed(clip_BCTYX), keep_BL)

    def token_grid(self, num_frames: int, rows_px: int, columns_px: int) -> tuple[int, int, int]:
        """Times, rows and columns of the tokens of a clip.

        Raises:
            ConfigError: Frames or patches that do not come out even.
        """
        rows, columns = patch_grid(rows_px, columns_px, self.patch_size)
        if num_frames == 1 and self.takes_images:
            return 1, rows, columns
        if num_frames % TUBELET or not num_frames:
            raise ConfigError(f"a clip must have an even number of frames, found T = {num_frames}")
        return num_frames // TUBELET, rows, columns

    def embed(self, clip_BCTYX: Float[Tensor, "B C T Y X"]) -> EmbeddedClips:
        """Patches of clips as tokens, with what is added to them; see `tokens`."""
        grid = self.token_grid(*clip_BCTYX.shape[2:])
        images = self.takes_images and clip_BCTYX.shape[2] == 1
        x = self._patches(clip_BCTYX.to(compute_dtype(self, clip_BCTYX.device)), images)
        return EmbeddedClips(x.flatten(2).transpose(1, 2), grid, images)

    def _patches(self, clip_BCTYX: Tensor, images: bool) -> Tensor:
        """`[B,D,times,rows,columns]`."""
        patches: Tensor = self.patch_embed(clip_BCTYX)
        return patches

    def levels(
        self, clips: EmbeddedClips, keep_BL: Int[Tensor, "B L"] | None = None, *, num_levels: int = 1
    ) -> Float[Tensor, "B M E"]:
        """Normalised tokens after some of the blocks, the last one among them.

        Args:
            clips: From `embed`.
            keep_BL: See `tokens`.
            num_levels: Depths that are read, `K`, evenly spaced.

        Returns:
            `[B,M,K*D]`, the levels of a token side by side, the lowest first.

        Raises:
            ConfigError: Levels that the encoder does not have.
        """
        x, rotary = clips.tokens_BLD, self._rotary(clips)
        if keep_BL is not None:
            x = x.take_along_dim(keep_BL[:, :, None], dim=1)
            # One table a sample, alike for all heads.
            rotary = None if rotary is None else rotary.rows(keep_BL[:, None])
        depths = self.level_depths(num_levels)
        found: list[Tensor] = []
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, rotary=rotary)
            if depth in depths:
                found.append(self._normalised(x, len(found), num_levels))
        return found[0] if num_levels == 1 else torch.cat(found, dim=-1)

    def level_depths(self, num_levels: int) -> tuple[int, ...]:
        """Numbers of blocks, from 1, behind which the levels are read.

        Raises:
            ConfigError: More levels than blocks.
        """
        if not 1 <= num_levels <= self.depth:
            raise ConfigError(
                f"model.loss.target_levels must lie in [1, {self.depth}], the encoder's blocks; found {num_levels}"
            )
        even = tuple(round(self.depth * level / num_levels) for level in range(1, num_levels + 1))
        return _PUBLISHED_DEPTHS.get((self.depth, num_levels), even)

    @abstractmethod
    def _normalised(self, x_BLD: Tensor, level: int, num_levels: int) -> Tensor:
        """Tokens behind the blocks of a level, counted from 0, as the encoder gives them."""

    def _rotary(self, clips: EmbeddedClips) -> RotaryTable | None:
        """Angles of all tokens; None: positions were added."""
        times, rows, columns = clips.grid
        pairing, device = self.rotary_pairing, clips.tokens_BLD.device
        return frame_rotary_table(self.head_dim, times, (rows, columns), 0, pairing, device, span=self.rotary_span)

    def train_every_part(self) -> None:
        """Lets every parameter train; an encoder freezes what its tokenization never uses."""
        self.requires_grad_(True)


def normalised_without_parameters(x_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """Every token with mean 0 and deviation 1."""
    return F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=_EPS)
