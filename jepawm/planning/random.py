"""The baseline beside every success rate: plans from the planner's own first distribution, unseen by any model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from jepawm.config import PlannerConfig
from jepawm.planning.actions import ActionSearchSpace
from jepawm.planning.cost import Objective, Plan, Unroll, draw_normal


class RandomPlanner:
    """One draw per plan: the same search space, bounds and horizon as the planner it stands beside.

    Args:
        config: Horizon and initial spread.
        space: Bounds and units.
    """

    def __init__(self, config: PlannerConfig, space: ActionSearchSpace) -> None:
        self.config = config
        self.space = space

    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        """Draws one plan per generator; neither callable is asked, and a warm start is ignored."""
        shape = (self.config.horizon, self.space.dim)
        search_BHd = self.space.project(self.config.init_std * draw_normal(generators, shape, self.space.device))
        nothing = torch.full((1, len(generators)), float("nan"))
        return Plan(self.space.to_chunks(search_BHd), search_BHd, nothing, nothing)
