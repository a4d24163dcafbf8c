"""What a planner searches, and how it becomes the action chunks that a model and an environment take."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.types import ActionSpec, Statistics


class ActionSearchSpace:
    """Search vectors in units of the data's standard deviation; chunks in raw units, inside the action bounds.

    A dimension whose bounds are equal is fixed: its search number is 0, its action the bound, and the others are
    searched.

    Args:
        spec: Bounds of one environment step's action; box bounds and, if given, the largest norm.
        statistics: Mean and standard deviation of the data's raw actions.
        frameskip: Actions in a chunk.
        hold: Search one action per chunk and hold it throughout; else search each of the `frameskip` actions.
        limits: `[a]` largest magnitude of each dimension, raw units, within the bounds; None: the bounds alone.
        device: Where candidates live.

    Attributes:
        dim: Numbers `d` searched for a chunk.
        free_d: `[d]` bool; False where the bounds fix a number.
        low_d: `[d]` lowest search numbers of the box; `-inf` where there is no bound.
        high_d: `[d]` highest ones.

    Raises:
        PlanningError: Statistics or limits of another width, limits that exclude all actions of the bounds, or bounds
            that fix every dimension.
    """

    def __init__(
        self,
        spec: ActionSpec,
        statistics: Statistics,
        *,
        frameskip: int,
        hold: bool,
        limits: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(statistics.action_mean) != spec.dim:
            raise PlanningError(
                f"the action specification has {spec.dim} dimensions, the statistics {len(statistics.action_mean)}"
            )
        low, high = (np.asarray(side, dtype=np.float64) for side in (spec.low, spec.high))
        if limits is not None:
            low, high = _limited(low, high, limits)
        fixed = low == high
        if fixed.all():
            raise PlanningError(
                f"there is nothing to plan: the bounds fix all {spec.dim} action dimensions at {low.tolist()}"
            )
        self.frameskip = frameskip
        self.hold = hold
        self.max_norm = spec.max_norm
        self.device = torch.device(device)
        self.actions_per_chunk = 1 if hold else frameskip
        self.dim = spec.dim * self.actions_per_chunk
        # A fixed dimension is measured from its bound in raw units: data that never moved has no useful deviation.
        mean = np.where(fixed, low, statistics.action_mean)
        std = np.where(fixed, 1.0, statistics.action_std)
        self._mean, self._std, self._low, self._high = (
            torch.as_tensor(values, dtype=torch.float32, device=device) for values in (mean, std, low, high)
        )
        self.free_d = torch.as_tensor(~fixed, device=device).repeat(self.actions_per_chunk)
        self.low_d, self.high_d = (
            ((side - self._mean) / self._std).repeat(self.actions_per_chunk) for side in (self._low, self._high)
        )

    def project(self, search: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The nearest search vectors whose actions lie inside the bounds: clipped to the box, then to the norm."""
        raw = self._raw(search)
        return ((raw - self._mean) / self._std).flatten(-2)

    def to_chunks(self, search: Float[Tensor, "*batch d"], *, clip: bool = True) -> Float[Tensor, "*batch A"]:
        """Raw action chunks, `A = frameskip * a`, inside the bounds.

        Args:
            search: Search vectors.
            clip: Off: for vectors that were projected before. Clipping has no gradient at a bound; without it a plan
                that lies on a bound can leave it again.
        """
        raw = self._raw(search) if clip else self._unclipped(search)
        if self.hold:
            raw = raw.expand(*raw.shape[:-2], self.frameskip, raw.shape[-1])
        return raw.flatten(-2)

    def from_chunks(self, chunks: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch d"]:
        """The search vectors of raw action chunks, projected; where actions are held, a chunk's mean action is."""
        raw = chunks.unflatten(-1, (self.frameskip, -1))
        if self.hold:
            raw = raw.mean(dim=-2, keepdim=True)
        return self.project(((raw - self._mean) / self._std).flatten(-2))

    def _unclipped(self, search: Tensor) -> Tensor:
        return search.unflatten(-1, (self.actions_per_chunk, -1)) * self._std + self._mean

    def _raw(self, search: Tensor) -> Tensor:
        raw = self._unclipped(search)
        raw = torch.minimum(torch.maximum(raw, self._low), self._high)
        if self.max_norm is not None:
            norm = raw.norm(dim=-1, keepdim=True)
            raw = raw * (self.max_norm / norm.clamp_min(1e-12)).clamp_max(1.0)
        return raw


def _limited(low: np.ndarray, high: np.ndarray, limits: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds with a largest magnitude for each dimension."""
    if len(limits) != len(low):
        raise PlanningError(
            f"planner.action_limits needs a number for each of the {len(low)} action dimensions, found {len(limits)}"
        )
    size = np.asarray(limits, dtype=np.float64)
    outside = (low > size) | (high < -size)
    if outside.any():
        worst = int(np.flatnonzero(outside)[0])
        raise PlanningError(
            f"planner.action_limits leaves no action in dimension {worst}: its bounds are {low[worst]:g} to "
            f"{high[worst]:g}, its limit is {size[worst]:g}"
        )
    return np.maximum(low, -size), np.minimum(high, size)
