"""Draws frames from latents with a transformer, and turns normalised colours into pixels."""

import math
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepawm.errors import CheckpointError, ConfigError
from jepawm.heads.vit import LatentTrunk, from_published, grid_of, num_blocks, published_head, shape_of
from jepawm.nn import weights

Normalization = Literal["symmetric", "imagenet"]
"""Of the frames a head was trained to draw: mean and deviation 0.5, or ImageNet's."""

_MEAN_STD = {
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def to_unit(images: Float[Tensor, "*batch 3 Y X"], normalization: Normalization) -> Float[Tensor, "*batch 3 Y X"]:
    """Normalised colours to colours in [0, 1], float32; what was drawn outside stays outside.

    Args:
        images: `[...,3,Y,X]` normalised colours.
        normalization: How they are normalised.
    """
    mean, std = _mean_std(images, normalization)
    return images.float() * std + mean


def from_unit(images: Float[Tensor, "*batch 3 Y X"], normalization: Normalization) -> Float[Tensor, "*batch 3 Y X"]:
    """Inverse of `to_unit`."""
    mean, std = _mean_std(images, normalization)
    return (images.float() - mean) / std


def to_pixels(images: Float[Tensor, "*batch 3 Y X"], normalization: Normalization) -> UInt8[Tensor, "*batch 3 Y X"]:
    """Normalised colours to uint8: undone, times 255, clipped to 0..255, and rounded to the nearest, ties to even.

    The published heads cut the fraction off instead, which is half a grey level darker on average.

    Args:
        images: `[...,3,Y,X]` normalised colours.
        normalization: How they are normalised.

    Returns:
        `[...,3,Y,X]` uint8.
    """
    return to_unit(images, normalization).mul(255).clamp(0, 255).round().to(torch.uint8)


def _mean_std(images: Tensor, normalization: Normalization) -> tuple[Tensor, Tensor]:
    mean, std = (images.new_tensor(values, dtype=torch.float32)[:, None, None] for values in _MEAN_STD[normalization])
    return mean, std


@runtime_checkable
class Decoder(Protocol):
    """A head that draws frames."""

    def decode(self, latents_BTPD: Float[Tensor, "B T P D"]) -> UInt8[Tensor, "B T 3 Y X"]:
        """`[B,T,P,D]` latents to `[B,T,3,Y,X]` uint8 frames."""
        ...


class ImageHead(nn.Module):
    """A transformer that draws each frame from its latent, patch by patch; the published image decoders.

    Args:
        latent_dim: Width `D` of the latents.
        image_size: Side of the frames it draws, pixels.
        normalization: Of the frames it was or will be trained to draw.
        patch_size: Side of a patch it draws, pixels.
        dim: Width inside.
        depth: Blocks; 24 in the published decoders of DINOv2-S and DINOv3-L, 12 in the others.
        num_heads: Attention heads.
        mlp_ratio: Width inside the feed-forward over `dim`.
        grid: Rows and columns of the latents' patches; None: they are a square. Resized bilinearly to the patches that
            are drawn.
        around_mean_frame: Add `mean_frame` to what the transformer draws; its last layer begins at zero.

    Attributes:
        mean_frame: `[3,Y,X]` normalised colours that are added to what is drawn, 0 before the training sets them; None
            where nothing is added.

    Raises:
        ConfigError: Patches that do not divide the frame.

    Reference: Terver et al. 2025, JEPA-WMs, arXiv 2512.24497.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        image_size: int = 224,
        normalization: Normalization = "imagenet",
        patch_size: int = 8,
        dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        grid: tuple[int, int] | None = None,
        around_mean_frame: bool = False,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ConfigError(f"image_size must be a multiple of patch_size ({patch_size}), found {image_size}")
        self.latent_dim = latent_dim
        self.patch_size = patch_size
        self.normalization: Normalization = normalization
        self.grid = grid
        side = image_size // patch_size
        self.trunk = LatentTrunk(
            latent_dim, (side, side), dim=dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio
        )
        self.view_token = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.proj = nn.Linear(dim, 3 * patch_size**2)
        nn.init.trunc_normal_(self.view_token, std=0.02)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)
        self.mean_frame: Tensor | None
        self.register_buffer("mean_frame", torch.zeros(3, image_size, image_size) if around_mean_frame else None)
        if around_mean_frame:
            nn.init.zeros_(self.proj.weight)

    def patches(self, latents_BTPD: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T L pixels"]:
        """`[B,T,L,p*q*3]` normalised colours of every patch drawn, by row `p`, column `q` and channel.

        Args:
            latents_BTPD: `[B,T,P,D]` latents.

        Raises:
            ConfigError: Latents of another width or number of patches.
        """
        grid = grid_of(latents_BTPD, self.latent_dim, self.grid)
        x = self.trunk(latents_BTPD.flatten(0, 1), grid, view_token=self.view_token)
        return self.proj(self.norm(x)).float().unflatten(0, latents_BTPD.shape[:2])

    def forward(self, latents_BTPD: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T 3 Y X"]:
        """`[B,T,P,D]` latents to `[B,T,3,Y,X]` normalised frames, float32."""
        rows, columns = self.trunk.grid
        patches = self.patches(latents_BTPD).unflatten(3, (self.patch_size, self.patch_size, 3))
        # [B,T,rows,columns,p,q,C] to [B,T,C,rows,p,columns,q]
        image = patches.unflatten(2, (rows, columns)).permute(0, 1, 6, 2, 4, 3, 5)
        image = image.flatten(5, 6).flatten(3, 4)
        return image if self.mean_frame is None else image + self.mean_frame

    @torch.no_grad()
    def decode(self, latents_BTPD: Float[Tensor, "B T P D"]) -> UInt8[Tensor, "B T 3 Y X"]:
        """`[B,T,P,D]` latents to `[B,T,3,Y,X]` uint8 frames; see `to_pixels` for the rounding."""
        return to_pixels(self(latents_BTPD), self.normalization)


def load_image_head(
    source: str, *, normalization: Normalization, num_heads: int = 16, part: str = "model"
) -> ImageHead:
    """A published image decoder; its widths and depth are read from the file.

    Args:
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.
        normalization: `imagenet` for the files named `INet`, `symmetric` for those named `05norm`.
        num_heads: Attention heads, which a file does not tell.
        part: Key of the tensors in the file.

    Raises:
        CheckpointError: The file is missing, damaged, or of another head.
    """
    hint = "take an image decoder (dinov2_vits_224_INet, dinov3_vitl_256_INet, ...) from the JEPA-WMs release"
    tensors, where = published_head(source, part, hint)
    dim, latent_dim = shape_of(tensors, "decoder_embed.weight", where)
    side = math.isqrt(shape_of(tensors, "decoder_pos_embed", where)[1])
    hidden_dim = shape_of(tensors, "decoder_blocks.0.mlp.fc1.weight", where)[0]
    patch_size = math.isqrt(shape_of(tensors, "decoder_proj.weight", where)[0] // 3)
    if shape_of(tensors, "view_tokens", where)[1] != 1:
        raise CheckpointError(f"{where} draws {tensors['view_tokens'].shape[1]} views; only heads of one view are read")
    head = ImageHead(
        latent_dim,
        image_size=side * patch_size,
        normalization=normalization,
        patch_size=patch_size,
        dim=dim,
        depth=num_blocks(tensors),
        num_heads=num_heads,
        mlp_ratio=hidden_dim / dim,
    )
    names = {"view_tokens": "view_token", "decoder_norm.": "norm.", "decoder_proj.": "proj."}
    weights.load_strict(head, from_published(tensors, names), where)
    return head
