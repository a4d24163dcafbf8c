"""What a planner searches, and how it becomes the action chunks that a model and an environment take."""

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.types import ActionSpec, Statistics


class ActionSearchSpace:
    """Search vectors in units of the data's standard deviation; chunks in raw units, inside the action bounds.

    Args:
        spec: Bounds of one environment step's action; box bounds and, if given, the largest norm.
        statistics: Mean and standard deviation of the data's raw actions.
        frameskip: Actions in a chunk.
        hold: Search one action per chunk and hold it throughout; else search each of the `frameskip` actions.
        device: Where candidates live.
    """

    def __init__(
        self,
        spec: ActionSpec,
        statistics: Statistics,
        *,
        frameskip: int,
        hold: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(statistics.action_mean) != spec.dim:
            raise PlanningError(
                f"the action specification has {spec.dim} dimensions, the statistics {len(statistics.action_mean)}"
            )
        self.frameskip = frameskip
        self.hold = hold
        self.max_norm = spec.max_norm
        self.device = torch.device(device)
        self.actions_per_chunk = 1 if hold else frameskip
        self.dim = spec.dim * self.actions_per_chunk
        self._mean, self._std, self._low, self._high = (
            torch.as_tensor(values, dtype=torch.float32, device=device)
            for values in (statistics.action_mean, statistics.action_std, spec.low, spec.high)
        )

    def project(self, search: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The nearest search vectors whose actions lie inside the bounds: clipped to the box, then to the norm."""
        raw = self._raw(search)
        return ((raw - self._mean) / self._std).flatten(-2)

    def to_chunks(self, search: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch A"]:
        """Raw action chunks, `A = frameskip * a`, inside the bounds."""
        raw = self._raw(search)
        if self.hold:
            raw = raw.expand(*raw.shape[:-2], self.frameskip, raw.shape[-1])
        return raw.flatten(-2)

    def _raw(self, search: Tensor) -> Tensor:
        raw = search.unflatten(-1, (self.actions_per_chunk, -1)) * self._std + self._mean
        raw = torch.minimum(torch.maximum(raw, self._low), self._high)
        if self.max_norm is not None:
            norm = raw.norm(dim=-1, keepdim=True)
            raw = raw * (self.max_norm / norm.clamp_min(1e-12)).clamp_max(1.0)
        return raw
