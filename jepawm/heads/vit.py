"""What the transformer heads share: their trunk, and how their published files are read."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.errors import CheckpointError, ConfigError, did_you_mean
from jepawm.nn import weights
from jepawm.nn.embeddings import sincos_2d
from jepawm.nn.transformer import Block, init_transformer_

_EPS = 1e-5


class LatentTrunk(nn.Module):
    """Embeds latents on a grid of its own, adds their place, and lets each frame's tokens attend to each other.

    Places are a fixed table of sines and cosines, of the row in the first half of the channels and of the column in the
    second. It is part of the weights: a file's own table is the one that its head was trained with.

    Args:
        latent_dim: Width `D` of the latents.
        grid: Rows and columns of the tokens inside; latents on another grid are resized bilinearly.
        dim: Width inside.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Width inside the feed-forward over `dim`.

    Raises:
        ConfigError: `dim` is not a multiple of 4, or of `num_heads`.
    """

    position_table: Tensor

    def __init__(
        self, latent_dim: int, grid: tuple[int, int], *, dim: int, depth: int, num_heads: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        if dim % 4 or dim % num_heads:
            raise ConfigError(f"dim must be a multiple of 4 and of num_heads ({num_heads}), found {dim}")
        self.latent_dim = latent_dim
        self.grid = grid
        self.embed = nn.Linear(latent_dim, dim)
        # Here the row comes first.
        self.register_buffer("position_table", sincos_2d(dim, *grid).roll(dim // 2, dims=1))
        self.blocks = nn.ModuleList(Block(dim, num_heads, round(dim * mlp_ratio), eps=_EPS) for _ in range(depth))
        init_transformer_(self, self.blocks)

    def forward(
        self,
        latents_NPD: Float[Tensor, "N P D"],
        grid: tuple[int, int],
        *,
        view_token: Tensor | None = None,
        first_token: Tensor | None = None,
    ) -> Float[Tensor, "N L d"]:
        """Tokens after the last block.

        Args:
            latents_NPD: `[N,P,D]` latents of single frames.
            grid: Rows and columns of the `P` patches.
            view_token: `[d]`, added to every token.
            first_token: `[d]`, put before all others, without a place.

        Returns:
            `[N,L,d]`, one token a cell of the trunk's grid, and the first token before them.
        """
        x = self.embed(latents_NPD)
        if grid != self.grid:
            image = x.transpose(1, 2).unflatten(2, grid)
            x = F.interpolate(image, size=self.grid, mode="bilinear").flatten(2).transpose(1, 2)
        x = x + self.position_table.to(x.dtype)
        if view_token is not None:
            x = x + view_token.to(x.dtype)
        if first_token is not None:
            x = torch.cat([first_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return x


def grid_of(latents_BTPD: Tensor, latent_dim: int, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """Rows and columns of the patches of `[B,T,P,D]` latents.

    Args:
        latents_BTPD: `[B,T,P,D]`.
        latent_dim: Expected `D`.
        grid: Expected rows and columns; None: a square.

    Raises:
        ConfigError: Latents of another width or number of patches.
    """
    P, D = latents_BTPD.shape[2:]
    if latent_dim != D:
        raise ConfigError(f"the head takes latents of width D = {latent_dim}, found {D}")
    if grid is None:
        grid = (math.isqrt(P), math.isqrt(P))
    if grid[0] * grid[1] != P:
        raise ConfigError(f"the head takes latents of {grid[0]} x {grid[1]} patches, found P = {P}; give it the `grid`")
    return grid


def published_head(source: str, part: str, hint: str) -> tuple[dict[str, Tensor], str]:
    """One part of a head's file, without the prefix of a distributed module.

    Args:
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.
        part: Key of the state dict in the file.
        hint: Where to get the file.

    Returns:
        Tensors by published name; the file and part, for errors.

    Raises:
        CheckpointError: The file is missing or damaged, or has no such part.
    """
    path = weights.locate(source, hint=hint)
    found = weights.read_tensors(path)
    if part not in found:
        raise CheckpointError(
            f"{path} has no '{part}'{did_you_mean(part, [str(key) for key in found])}; pass `part`, the key of the "
            "head's tensors in that file"
        )
    where = f"{Path(path).name} ({part})"
    tensors = weights.only_tensors(found[part], where)
    return {key.removeprefix("module."): value for key, value in tensors.items()}, where


def shape_of(tensors: Mapping[str, Tensor], key: str, where: str) -> torch.Size:
    """Shape of a tensor that tells how a head was built.

    Raises:
        CheckpointError: There is none.
    """
    if key not in tensors:
        raise CheckpointError(f"{where} has no tensor '{key}'; is it the file of another head?")
    return tensors[key].shape


def num_blocks(tensors: Mapping[str, Tensor]) -> int:
    """Number of published transformer blocks."""
    return len({key.split(".")[1] for key in tensors if key.startswith("decoder_blocks.")})


def from_published(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Published tensors by a head's own names; single tokens and the table lose their leading ones.

    Args:
        tensors: By published name.
        names: Published prefix to own prefix, beside those of the trunk.
    """
    trunk = {
        "decoder_embed.": "trunk.embed.",
        "decoder_pos_embed": "trunk.position_table",
        "decoder_blocks.": "trunk.blocks.",
    }
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = key
        for before, after in (trunk | dict(names)).items():
            if key.startswith(before):
                name = after + key.removeprefix(before)
        if key == "decoder_pos_embed" and value.ndim == 3:
            value = value[0]
        elif key.endswith(("_token", "_tokens")):
            value = value.flatten()
        renamed[name] = value
    return renamed
