"""Blocks that cover exactly the target share of every clip."""

import torch
from jaxtyping import Bool
from torch import Tensor

from jepawm.config.masking import AreaSetConfig
from jepawm.pretraining.masks.base import Cues, MaskSet, MaskStrategy, TokenGrid
from jepawm.pretraining.masks.multiblock import block_sides, span
from jepawm.pretraining.masks.sampling import mask_set_of, places_of


class BlockMasks(MaskStrategy):
    """Multi-block geometry with exact shares: blocks of random size and place, until the target share is covered.

    Blocks span the whole clip. The block that reaches the target share is trimmed from a random side, so that it fits.
    Every clip of a batch therefore has equally many targets, and nothing is cut afterwards.
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
        sets = []
        for share in self.config.sets:
            targets, context = places_of(share, grid)
            covered_NS = _cover(share, grid, targets, num_clips, generator)
            sets.append(
                mask_set_of(
                    covered_NS[rows],
                    (targets, context),
                    grid,
                    num_clips=num_clips,
                    rows=rows,
                    generator=generator,
                )
            )
        return tuple(sets)


def _cover(
    share: AreaSetConfig, grid: TokenGrid, targets: int, num_clips: int, generator: torch.Generator
) -> Bool[Tensor, "N S"]:
    """`[N,S]` places under blocks, exactly `targets` of each clip."""
    covered_NS = torch.zeros(num_clips, grid.num_places, dtype=torch.bool)
    orders_4S = _orders(grid)
    # A round draws a block for each clip of the whole batch, full or not, so that every worker draws alike.
    while int(covered_NS.sum()) < num_clips * targets:
        block_NS = _random_blocks(share, grid, num_clips, generator)
        order_NS = orders_4S[torch.randint(0, 4, (num_clips,), generator=generator)]
        fresh_NS = (block_NS & ~covered_NS).gather(1, order_NS)
        room_N1 = targets - covered_NS.sum(1, keepdim=True)
        fitting_NS = fresh_NS & (fresh_NS.cumsum(1) <= room_N1)
        covered_NS |= torch.zeros_like(covered_NS).scatter_(1, order_NS, fitting_NS)
    return covered_NS


def _random_blocks(
    share: AreaSetConfig, grid: TokenGrid, num_clips: int, generator: torch.Generator
) -> Bool[Tensor, "N S"]:
    """`[N,S]` places under one block of each clip."""
    area_N, aspect_N, top_N, left_N = torch.rand(4, num_clips, generator=generator, dtype=torch.float64)
    scale_N = share.spatial_scale[0] + area_N * (share.spatial_scale[1] - share.spatial_scale[0])
    ratio_N = share.aspect_ratio[0] + aspect_N * (share.aspect_ratio[1] - share.aspect_ratio[0])
    rows_N, columns_N = block_sides(scale_N, ratio_N, grid)
    first_row_N = (top_N * (grid.rows - rows_N + 1)).long()
    first_column_N = (left_N * (grid.columns - columns_N + 1)).long()
    in_rows_NY = span(first_row_N, rows_N, grid.rows)
    in_columns_NX = span(first_column_N, columns_N, grid.columns)
    return (in_rows_NY[:, :, None] & in_columns_NX[:, None, :]).flatten(1)


def _orders(grid: TokenGrid) -> Tensor:
    """`[4,S]` places from the top, from the bottom, from the left and from the right; the last ones are trimmed."""
    by_row = torch.arange(grid.num_places)
    by_column = by_row.view(grid.rows, grid.columns).T.flatten()
    return torch.stack([by_row, by_row.flip(0), by_column, by_column.flip(0)])
