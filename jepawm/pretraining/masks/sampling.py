"""Draws without replacement, and from what was drawn to lists of ids."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jepawm.config.masking import ShareSetConfig, Unit
from jepawm.errors import ConfigError
from jepawm.pretraining.masks.base import MaskSet, TokenGrid


def ids_of(chosen_BL: Bool[Tensor, "B L"], amount: int) -> Int[Tensor, "B K"]:
    """`[B,K]` ascending ids of the chosen tokens, of which each clip has `amount`."""
    return chosen_BL.nonzero()[:, 1].view(len(chosen_BL), amount)


def places_of(share: ShareSetConfig, grid: TokenGrid) -> tuple[int, int]:
    """Places of a frame that are targets and context, as whole numbers.

    Raises:
        ConfigError: The grid is so small that one of them would be empty.
    """
    places = grid.num_places
    # A product such as 100 * (1 - .9) lies a rounding error below the whole number that is meant.
    visible = math.floor(places * (1 - share.target_share) + 1e-9)
    context = visible if share.context_share is None else math.floor(places * share.context_share + 1e-9)
    context = min(context, visible)
    if context == 0 or visible == places:
        raise ConfigError(
            f"masks.sets: a target_share of {share.target_share} and a context_share of {share.context_share} leave "
            f"{places - visible} targets and {context} context places of the {places} places of a frame "
            f"({grid.rows} x {grid.columns} patches); choose shares that leave at least one of each, or more pixels"
        )
    return places - visible, context


def gumbel_noise(num_clips: int, units: int, rows: slice, generator: torch.Generator) -> Float[Tensor, "B U"]:
    """`[B,U]` float64 Gumbel noise of this worker's rows; the generator moves on as for all clips."""
    waiting = torch.empty(num_clips, units, dtype=torch.float64).exponential_(generator=generator)
    return -waiting[rows].log()


def draw_weighted(
    logits_BU: Float[Tensor, "B U"] | None,
    amount: int,
    *,
    num_clips: int,
    units: int,
    rows: slice,
    generator: torch.Generator,
) -> Bool[Tensor, "B U"]:
    """Draws units without replacement, each time in proportion to the weights of those that are left.

    Weighted keys with Gumbel noise give the same law as drawing one after the other (the Gumbel-top-k trick).

    Args:
        logits_BU: `[B,U]` logarithms of weights of this worker's clips; None: all equal.
        amount: Units that are drawn from each clip.
        num_clips: Clips of the whole batch.
        units: `U` places or tokens of a clip.
        rows: This worker's clips.
        generator: Of the noise, at the same state on every worker.

    Returns:
        `[B,U]` true where drawn.

    Reference: Kool et al. 2019, Stochastic Beams and Where to Find Them, arXiv 1903.06059, section 2.
    """
    keys_BU = gumbel_noise(num_clips, units, rows, generator)
    if logits_BU is not None:
        keys_BU = keys_BU + logits_BU.detach().cpu().double()
    chosen = keys_BU.topk(amount, dim=1).indices
    return torch.zeros_like(keys_BU, dtype=torch.bool).scatter_(1, chosen, True)


def mask_set_of(
    target_BU: Bool[Tensor, "B U"],
    amounts: tuple[int, int],
    grid: TokenGrid,
    *,
    num_clips: int,
    rows: slice,
    generator: torch.Generator,
) -> MaskSet:
    """The mask set of given targets, with context that is drawn evenly from the rest.

    Args:
        target_BU: `[B,U]` targets of this worker's clips: places of a frame, or tokens of the clip.
        amounts: Units of a clip that are targets, and that are context. Where these are all, nothing is drawn.
        grid: Tokens of a clip.
        num_clips: Clips of the whole batch.
        rows: This worker's clips.
        generator: Of the draw, at the same state on every worker.
    """
    units = target_BU.shape[1]
    targets, context = amounts
    context_BU = ~target_BU
    if targets + context < units:
        rest_BU = torch.zeros(target_BU.shape, dtype=torch.float64).masked_fill(target_BU, -math.inf)
        context_BU = draw_weighted(rest_BU, context, num_clips=num_clips, units=units, rows=rows, generator=generator)
    times = grid.num_tokens // units
    return MaskSet(
        ids_of(context_BU.repeat(1, times), context * times), ids_of(target_BU.repeat(1, times), targets * times)
    )


def draw_share(
    share: ShareSetConfig,
    grid: TokenGrid,
    logits_BU: Float[Tensor, "B U"] | None,
    *,
    unit: Unit,
    num_clips: int,
    rows: slice,
    generator: torch.Generator,
) -> MaskSet:
    """One mask set of exact shares, whose targets are drawn by weight.

    Args:
        share: Shares of targets and context.
        grid: Tokens of a clip.
        logits_BU: `[B,U]` logarithms of weights of this worker's clips; None: all equal.
        unit: What `U` counts: places of a frame, or tokens of the clip.
        num_clips: Clips of the whole batch.
        rows: This worker's clips.
        generator: Of the draw, at the same state on every worker.

    Raises:
        ConfigError: The grid is too small for the shares.
    """
    # Tokens are counted in tubes as well, so that both units have exactly the same shares.
    times = 1 if unit == "tubes" else grid.times
    targets, context = (places * times for places in places_of(share, grid))
    target_BU = draw_weighted(
        logits_BU, targets, num_clips=num_clips, units=grid.num_places * times, rows=rows, generator=generator
    )
    return mask_set_of(target_BU, (targets, context), grid, num_clips=num_clips, rows=rows, generator=generator)
