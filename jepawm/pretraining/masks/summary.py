"""What masks are in fact: shares of context and targets, what truncation took, and how much motion is hidden."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.masking import ShareSetConfig
from jepawm.pretraining.masks.base import Cues, MaskSet, MaskStrategy, TokenGrid


@dataclass(frozen=True)
class RealisedMasks:
    """One mask set of one batch, or the mean of many.

    Attributes:
        context_share: Tokens of the context over all tokens.
        target_share: Targets over all tokens.
        lost_targets: Share of the targets that truncation took.
        lost_context: Share of the context that truncation took.
        hidden_motion: Share of a clip's motion energy that lies under targets, mean over clips that have any; None: no
            clip has, or it was not asked for.
    """

    context_share: float
    target_share: float
    lost_targets: float
    lost_context: float
    hidden_motion: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Numbers by name, for a log."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "RealisedMasks":
        """Inverse of `to_dict`."""
        return cls(**data)

    def as_set(self) -> ShareSetConfig:
        """The exact set of another strategy that is compared with this one at equal shares."""
        return ShareSetConfig(self.target_share, self.context_share)


def realised(
    sets: Sequence[MaskSet], grid: TokenGrid, motion_BL: Float[Tensor, "B L"] | None = None
) -> tuple[RealisedMasks, ...]:
    """What the mask sets of one batch are in fact.

    Args:
        sets: As `draw` returned them.
        grid: Tokens of a clip.
        motion_BL: `[B,L]` motion energy of the same clips, from `motion.motion_energy`, on the masks' device.
    """
    return tuple(
        RealisedMasks(
            one.context_BL.shape[1] / grid.num_tokens,
            one.target_BM.shape[1] / grid.num_tokens,
            one.lost_targets,
            one.lost_context,
            None if motion_BL is None else _hidden_motion(one, motion_BL),
        )
        for one in sets
    )


def mean_shares(
    strategy: MaskStrategy,
    grid: TokenGrid,
    *,
    num_clips: int,
    num_batches: int,
    generator: torch.Generator,
    next_cues: Callable[[], Cues] = Cues,
) -> tuple[RealisedMasks, ...]:
    """What a strategy's sets are on average, so that others can be set to the same shares.

    Args:
        strategy: Any.
        grid: Tokens of a clip.
        num_clips: Clips of a batch; truncation takes more from larger batches.
        num_batches: Batches that are drawn, with counters from 0.
        generator: Of all draws.
        next_cues: The clips of the next batch, for strategies that look at them.
    """
    batches = [
        realised(
            strategy.draw(
                grid,
                num_clips=num_clips,
                rows=slice(0, num_clips),
                counter=counter,
                generator=generator,
                cues=next_cues(),
            ),
            grid,
        )
        for counter in range(num_batches)
    ]
    return tuple(
        RealisedMasks(
            *(
                sum(getattr(one, name) for one in of_set) / num_batches
                for name in ("context_share", "target_share", "lost_targets", "lost_context")
            )
        )
        for of_set in zip(*batches, strict=True)
    )


def _hidden_motion(masks: MaskSet, motion_BL: Tensor) -> float | None:
    total_B = motion_BL.sum(1)
    moving = total_B > 0
    if not moving.any():
        return None
    hidden_B = motion_BL.gather(1, masks.target_BM).sum(1)
    return (hidden_B[moving] / total_B[moving]).mean().item()
