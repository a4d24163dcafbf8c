"""Model-predictive control: plan, hand out the first chunks, shift the plan, and plan again."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.planning.base import Objective, Plan, Planner, Unroll
from jepawm.planning.starts import cheapest_start


class MPC:
    """Plans for a batch of episodes, and starts each replan from the unexecuted rest of the last plan.

    Args:
        planner: Searches the plans.
        replan_every: Chunks of a plan that are executed before the next one; None: all of them.
        warm_start: Off: every search starts afresh.
        shorter_planner: Makes the same planner with another number of chunks in a plan. With it the horizon shrinks: a
            replan ends where the plan before it ended, so it is shorter by the executed chunks, and when no chunk is
            left a whole plan is made afresh. None: every plan has the planner's own horizon.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        replan_every: int | None,
        warm_start: bool = True,
        shorter_planner: Callable[[int], Planner] | None = None,
    ) -> None:
        self.planner = planner
        self.replan_every = replan_every
        self.warm_start = warm_start
        self._shorter_planner = shorter_planner
        self._chunks_left = 0
        self._rest_BHd: Tensor | None = None
        self._elites_BKHd: Tensor | None = None

    def reset(self) -> None:
        """Forgets the last plans: the next ones are for new episodes."""
        self._rest_BHd = self._elites_BKHd = None
        self._chunks_left = 0

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with the given rows of the batch alone."""
        self._rest_BHd = _rows_of(self._rest_BHd, rows)
        self._elites_BKHd = _rows_of(self._elites_BKHd, rows)

    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        generators: Sequence[torch.Generator],
        num_chunks: int | None = None,
        *,
        starts_BMHA: Tensor | None = None,
    ) -> Plan:
        """Plans from the present.

        Args:
            unroll: Raw chunks `[B,N,H,A]` to latents, from each episode's present.
            objective: Latents to cost `[B,N]`.
            generators: One per episode.
            num_chunks: Chunks of this plan that are executed; None: `replan_every`.
            starts_BMHA: `[B,M,H,A]` raw chunks of plans to start from besides the rest of the last plan, e.g. of a
                policy; the search starts from the cheapest of all these. A plan that shrank takes their first chunks.
                None: no further starts.

        Returns:
            One plan per episode.

        Raises:
            PlanningError: `num_chunks` is not between 1 and the chunks of a plan, or starts that are no plans.
        """
        start_BHd = self._rest_BHd if self.warm_start else None
        planner = self._planner_now()
        if starts_BMHA is not None:
            if self._shorter_planner is not None and self._chunks_left:
                starts_BMHA = starts_BMHA[:, :, : self._chunks_left]
            start_BHd = cheapest_start(unroll, objective, planner, starts_BMHA, start_BHd)
        # Planners whose plans have no elites take no such keyword.
        carried: dict[str, Any] = {} if self._elites_BKHd is None else {"elites_BKHd": self._elites_BKHd}
        plan = planner.plan(unroll, objective, generators=generators, warm_start_BHd=start_BHd, **carried)
        horizon = plan.search_BHd.shape[1]
        if num_chunks is not None and not 1 <= num_chunks <= horizon:
            raise PlanningError(f"a plan has 1 to {horizon} chunks to execute, found num_chunks {num_chunks}")
        done = self.replan_every if num_chunks is None else num_chunks
        self._chunks_left = 0 if done is None else max(0, horizon - done)
        self._rest_BHd = self._elites_BKHd = None
        if done is not None and self._chunks_left:
            self._rest_BHd = self._rest_of(plan.search_BHd, done)
            if self.warm_start and plan.elites_BKHd is not None:
                self._elites_BKHd = self._rest_of(plan.elites_BKHd, done)
        return plan

    def _rest_of(self, plans: Tensor, num_chunks: int) -> Tensor:
        """What the next search starts from: the chunks that are left, and further ones unless the horizon shrinks."""
        return plans[..., num_chunks:, :] if self._shorter_planner is not None else shifted(plans, num_chunks)

    def _planner_now(self) -> Planner:
        """The planner of the chunks that are left of a shrinking plan; else the planner itself."""
        if self._shorter_planner is None or not self._chunks_left:
            return self.planner
        return self._shorter_planner(self._chunks_left)


def shifted(plans: Float[Tensor, "*batch H d"], num_chunks: int) -> Float[Tensor, "*batch H d"]:
    """Plans whose first chunks are executed; past its end a plan's last action is the best guess there is."""
    repeated = plans[..., -1:, :].expand(*plans.shape[:-2], num_chunks, plans.shape[-1])
    return torch.cat([plans[..., num_chunks:, :], repeated], dim=-2)


def _rows_of(plans: Tensor | None, rows: Sequence[int]) -> Tensor | None:
    return None if plans is None else plans[torch.as_tensor(rows, dtype=torch.int64, device=plans.device)]
