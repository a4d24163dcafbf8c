"""Model-predictive control: plan, hand out the first chunks, shift the plan, and plan again."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.planning.base import Objective, Plan, Planner, Unroll


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

    def reset(self) -> None:
        """Forgets the last plans: the next ones are for new episodes."""
        self._rest_BHd = None
        self._chunks_left = 0

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with the given rows of the batch alone."""
        if self._rest_BHd is not None:
            self._rest_BHd = self._rest_BHd[torch.as_tensor(rows, dtype=torch.int64, device=self._rest_BHd.device)]

    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        generators: Sequence[torch.Generator],
        num_chunks: int | None = None,
    ) -> Plan:
        """Plans from the present.

        Args:
            unroll: Raw chunks `[B,N,H,A]` to latents, from each episode's present.
            objective: Latents to cost `[B,N]`.
            generators: One per episode.
            num_chunks: Chunks of this plan that are executed; None: `replan_every`.

        Returns:
            One plan per episode.

        Raises:
            PlanningError: `num_chunks` is not between 1 and the chunks of a plan.
        """
        start_BHd = self._rest_BHd if self.warm_start else None
        plan = self._planner_now().plan(unroll, objective, generators=generators, warm_start_BHd=start_BHd)
        horizon = plan.search_BHd.shape[1]
        if num_chunks is not None and not 1 <= num_chunks <= horizon:
            raise PlanningError(f"a plan has 1 to {horizon} chunks to execute, found num_chunks {num_chunks}")
        done = self.replan_every if num_chunks is None else num_chunks
        self._chunks_left = 0 if done is None else max(0, horizon - done)
        self._rest_BHd = None
        if done is not None and self._chunks_left:
            self._rest_BHd = plan.search_BHd[:, done:]
            if self._shorter_planner is None:
                # Past the plan's end its last action is the best guess there is.
                repeated_BHd = plan.search_BHd[:, -1:].expand(-1, done, -1)
                self._rest_BHd = torch.cat([self._rest_BHd, repeated_BHd], dim=1)
        return plan

    def _planner_now(self) -> Planner:
        """The planner of the chunks that are left of a shrinking plan; else the planner itself."""
        if self._shorter_planner is None or not self._chunks_left:
            return self.planner
        return self._shorter_planner(self._chunks_left)
