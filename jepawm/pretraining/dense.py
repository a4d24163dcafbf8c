"""V-JEPA 2.1's weights of visible tokens: the nearer to a masked one, the heavier."""

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.pretraining.masks import MaskSet, TokenGrid

_SIXTEEN = 16


@torch.no_grad()
def context_weights(masks: MaskSet, grid: TokenGrid, *, in_sixteenths: bool = False) -> Float[Tensor, "B L"]:
    """`1 / sqrt(d)` of each visible token, `d` its Euclidean distance to the nearest token that is predicted.

    A step in time counts as one patch. Tokens that truncation took from the targets are not near anything.

    Args:
        masks: Visible tokens and those to predict; at least one of these.
        grid: Token grid of the clips.
        in_sixteenths: Divide distances by `rows // 16` first, so that a finer grid has the weights of one of 16 rows;
            below 32 rows that is 1.

    Returns:
        `[B,L]` float32 in (0, 1], or up to `sqrt(rows // 16)` in sixteenths.

    Reference: V-JEPA 2.1 as released in March 2026 (facebookresearch/vjepa2, app/vjepa_2_1).
    """
    unit = max(1, grid.rows // _SIXTEEN) if in_sixteenths else 1
    # One clip at a time: the distances of all pairs of a long clip take 100 MB.
    nearest = [
        torch.cdist(
            _places(context_L, grid), _places(target_M, grid), compute_mode="donot_use_mm_for_euclid_dist"
        ).amin(dim=1)
        for context_L, target_M in zip(masks.context_BL, masks.target_BM, strict=True)
    ]
    return (torch.stack(nearest) / unit).rsqrt()


def _places(index_L: Tensor, grid: TokenGrid) -> Float[Tensor, "L 3"]:
    """Time, row and column of tokens."""
    in_frame = index_L % grid.num_places
    places = (index_L // grid.num_places, in_frame // grid.columns, in_frame % grid.columns)
    return torch.stack(places, dim=-1).float()
