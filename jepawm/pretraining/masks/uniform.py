"""Random tubes and random tokens, at an exact share."""

import torch

from jepawm.pretraining.masks.base import Cues, MaskSet, MaskStrategy, TokenGrid
from jepawm.pretraining.masks.sampling import draw_share


class UniformMasks(MaskStrategy):
    """Every place (`tubes`) or every token (`tokens`) is equally likely to be hidden.

    Reference: Bardes et al. 2024, V-JEPA, arXiv 2404.08471, table 4 (random tubes).
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
            draw_share(share, grid, None, unit=self.config.unit, num_clips=num_clips, rows=rows, generator=generator)
            for share in self.config.sets
        )
