"""Multi-block masks: unions of blocks at random places, as published with V-JEPA 2."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jepawm.config.masking import BlockSetConfig
from jepawm.errors import ConfigError
from jepawm.pretraining.masks.base import Cues, MaskSet, MaskStrategy, TokenGrid
from jepawm.pretraining.masks.sampling import ids_of

# Rounds of draws in which some clip stayed without context, before the setting counts as impossible.
MOST_ROUNDS = 1000


@dataclass(frozen=True)
class BlockSize:
    """Extent of a block in tokens."""

    times: int
    rows: int
    columns: int


class MultiblockMasks(MaskStrategy):
    """Targets are the union of blocks, context is the rest; lists are cut to the shortest of the batch.

    All blocks of a batch have one size, which depends on the counter alone; their places come from the generator. Draws
    follow the published code in number and order, so that equal generators give equal masks.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 2.1; Bardes et al. 2024, arXiv 2404.08471.
    """

    def draw(
        self,
        grid: TokenGrid,
        *,
        num_clips: int,
        rows: slice,
        counter: int,
        generator: torch.Generator,
        cues: Cues,
    ) -> tuple[MaskSet, ...]:
        return tuple(
            self._draw_set(one, grid, num_clips=num_clips, rows=rows, counter=counter, generator=generator)
            for one in self.config.sets
        )

    def _draw_set(
        self,
        config: BlockSetConfig,
        grid: TokenGrid,
        *,
        num_clips: int,
        rows: slice,
        counter: int,
        generator: torch.Generator,
    ) -> MaskSet:
        size = block_size(config, grid, counter)
        context_NL = ~_draw_hidden(config, grid, size, num_clips, generator)
        counts_N = context_NL.sum(1)
        context_keep, target_keep = int(counts_N.min()), grid.num_tokens - int(counts_N.max())
        if config.max_keep is not None:
            context_keep = min(context_keep, config.max_keep)
        context_BL = self._cut(context_NL, context_keep, rows, generator)
        target_BL = self._cut(~context_NL, target_keep, rows, generator)
        mean = counts_N.double().mean().item()
        lost_context, lost_targets = 1 - context_keep / mean, 1 - target_keep / (grid.num_tokens - mean)
        if config.full_complement:
            target_BL, target_keep, lost_targets = ~context_BL, grid.num_tokens - context_keep, 0.0
        elif config.pred_full_complement:
            context_BL, context_keep, lost_context = ~target_BL, grid.num_tokens - target_keep, 0.0
        context_ids, target_ids = ids_of(context_BL, context_keep), ids_of(target_BL, target_keep)
        if config.inv_block:
            return MaskSet(target_ids, context_ids, lost_context, lost_targets)
        return MaskSet(context_ids, target_ids, lost_targets, lost_context)

    def _cut(
        self, chosen_NL: Bool[Tensor, "N L"], keep: int, rows: slice, generator: torch.Generator
    ) -> Bool[Tensor, "B L"]:
        """This worker's clips with `keep` of the chosen tokens."""
        if self.config.cut == "end":
            chosen_BL = chosen_NL[rows]
            return chosen_BL & (chosen_BL.cumsum(1) <= keep)
        # Every chosen token is equally likely to stay.
        keys_BL = torch.rand(chosen_NL.shape, generator=generator)[rows].masked_fill(~chosen_NL[rows], -1)
        return torch.zeros_like(chosen_NL[rows]).scatter_(1, keys_BL.topk(keep, dim=1).indices, True)


def block_size(config: BlockSetConfig, grid: TokenGrid, counter: int) -> BlockSize:
    """Size of all blocks of a batch; only the counter is random about it.

    Args:
        config: Ranges of length, area and aspect ratio.
        grid: Tokens of a clip.
        counter: From 0.

    Raises:
        ConfigError: A block would have no patch, or be the whole clip.
    """
    generator = torch.Generator().manual_seed(counter)
    temporal, spatial, aspect = (
        low + torch.rand(1, generator=generator).item() * (high - low)
        for low, high in (config.temporal_scale, config.spatial_scale, config.aspect_ratio)
    )
    times = max(1, int(grid.times * temporal))
    rows, columns = (
        int(side)
        for side in block_sides(
            torch.tensor(spatial, dtype=torch.float64), torch.tensor(aspect, dtype=torch.float64), grid
        )
    )
    size = BlockSize(times, rows, columns)
    if size == BlockSize(grid.times, grid.rows, grid.columns):
        raise ConfigError(
            f"masks.sets: a block of {config.spatial_scale} of {grid.rows} x {grid.columns} patches over "
            f"{config.temporal_scale} of the clip is the whole clip, which leaves no context; lower spatial_scale or "
            "temporal_scale, or take more pixels"
        )
    return size


def block_sides(
    scale: Float[Tensor, "..."], aspect: Float[Tensor, "..."], grid: TokenGrid
) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."]]:
    """Rows and columns of blocks of about an area, no longer than the grid's.

    Args:
        scale: Areas as a share of the frame's patches, float64.
        aspect: Rows over columns, float64.
        grid: Tokens of a clip.

    Raises:
        ConfigError: A block would have no patch.
    """
    area = (grid.num_places * scale).trunc()
    rows = (area * aspect).sqrt().round().long().clamp(max=grid.rows)
    columns = (area / aspect).sqrt().round().long().clamp(max=grid.columns)
    if not (rows * columns).all():
        raise ConfigError(
            f"masks.sets: a block of {float(scale.min()):.3g} of {grid.rows} x {grid.columns} patches has no patch; "
            "raise spatial_scale, narrow aspect_ratio, or take more pixels"
        )
    return rows, columns


def draw_corners(
    num_clips: int, num_blocks: int, size: BlockSize, grid: TokenGrid, generator: torch.Generator
) -> Int[Tensor, "N K 3"]:
    """`[N,K,3]` top, left and first time of each block of each clip.

    The numbers are those of one `torch.randint(0, end, (1,))` after the other, for all of a clip's blocks before the
    next clip's, and the generator ends in the same state. A range of one value uses up a draw as well.

    Args:
        num_clips: `N`.
        num_blocks: `K`.
        size: Of every block.
        grid: Tokens of a clip.
        generator: On the CPU.
    """
    ends_3 = torch.tensor([grid.rows - size.rows + 1, grid.columns - size.columns + 1, grid.times - size.times + 1])
    amount = num_clips * num_blocks * 3
    # randint is a word of 32 bits, modulo the range. A number over all 64 bits is two words, the first one above.
    pairs = torch.empty(amount // 2, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None, generator=generator)
    words = torch.stack([(pairs >> 32) & 0xFFFFFFFF, pairs & 0xFFFFFFFF], dim=1).flatten()
    if amount % 2:
        words = torch.cat([words, torch.randint(0, int(ends_3[-1]), (1,), generator=generator)])
    return words.view(num_clips, num_blocks, 3) % ends_3


def span(first_N: Int[Tensor, " N"], extent: Int[Tensor, " N"] | int, length: int) -> Bool[Tensor, "N length"]:
    """`[N,length]` true at `extent` places from `first_N` on."""
    places = torch.arange(length)
    first_N1 = first_N[:, None]
    last_N1 = first_N1 + (extent if isinstance(extent, int) else extent[:, None])
    return (places >= first_N1) & (places < last_N1)


def union_of_blocks(corners_NK3: Int[Tensor, "N K 3"], size: BlockSize, grid: TokenGrid) -> Bool[Tensor, "N L"]:
    """`[N,L]` true inside any of the blocks of a clip.

    Args:
        corners_NK3: `[N,K,3]` top, left and first time of `K` blocks.
        size: Of every block.
        grid: Tokens of a clip.
    """
    inside = torch.zeros(len(corners_NK3), grid.times, grid.rows, grid.columns, dtype=torch.bool)
    for corner_N3 in corners_NK3.unbind(1):
        top_N, left_N, start_N = corner_N3.unbind(1)
        block_NYX = span(top_N, size.rows, grid.rows)[:, :, None] & span(left_N, size.columns, grid.columns)[:, None, :]
        inside |= span(start_N, size.times, grid.times)[:, :, None, None] & block_NYX[:, None]
    return inside.flatten(1)


def _draw_hidden(
    config: BlockSetConfig, grid: TokenGrid, size: BlockSize, num_clips: int, generator: torch.Generator
) -> Bool[Tensor, "N L"]:
    """`[N,L]` tokens that are not context, for all clips; blocks that leave no context are drawn again."""
    # A clip whose draw is refused draws again before the next clip draws. Draws are alike, so the accepted ones in
    # their order are those of the clips in their order, and a round draws as many as are missing.
    accepted: list[Tensor] = []
    missing = num_clips
    for _ in range(MOST_ROUNDS):
        hidden_NL = union_of_blocks(draw_corners(missing, config.num_blocks, size, grid, generator), size, grid)
        if config.max_temporal_keep < 1:
            hidden_NL[:, max(1, int(grid.times * config.max_temporal_keep)) * grid.num_places :] = True
        accepted.append(hidden_NL[~hidden_NL.all(1)])
        missing -= len(accepted[-1])
        if not missing:
            return torch.cat(accepted)
    raise ConfigError(
        f"masks.sets: {config.num_blocks} blocks of {size.times} x {size.rows} x {size.columns} tokens leave no "
        f"context on a grid of {grid.times} x {grid.rows} x {grid.columns} in {MOST_ROUNDS} rounds of draws; take "
        "fewer or smaller blocks"
    )
