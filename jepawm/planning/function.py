"""A search that is a function: the shortest way to a planner of one's own."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.planner import FunctionPlannerConfig
from jepawm.config.tagged import import_object
from jepawm.errors import ConfigError, PlanningError
from jepawm.planning.base import Objective, Plan, Unroll, score
from jepawm.planning.rounds import Elites, Rounds, start_of
from jepawm.planning.search_space import ActionSearchSpace


class SearchFunction(Protocol):
    """What `planner.function` names."""

    def __call__(
        self,
        unroll: Unroll,
        objective: Objective,
        space: ActionSearchSpace,
        *,
        config: FunctionPlannerConfig,
        generators: Sequence[torch.Generator],
        start_BHd: Tensor,
    ) -> Tensor:
        """Searches one plan per generator.

        Args:
            unroll: Raw chunks `[B,N,H,A]` to latents.
            objective: Latents to cost `[B,N]`.
            space: Bounds and units; `project` search vectors before they are scored.
            config: `horizon`, `init_std`, `num_samples`, `num_iterations`, `max_candidates_per_forward`, ...
            generators: One per episode: all that is random in its plan.
            start_BHd: `[B,H,d]` where the search begins, inside the bounds: the rest of the last plan, or the data's
                mean action.

        Returns:
            `[B,H,d]` plans in search units.
        """
        ...


class FunctionPlanner:
    """Asks a function for plans, and takes the better of its plan and its start.

    Args:
        config: Which function, and what it is told.
        space: Bounds and units of what is searched.

    Raises:
        ConfigError: `function` is not written module:function, or it cannot be imported or called.
    """

    def __init__(self, config: FunctionPlannerConfig, space: ActionSearchSpace) -> None:
        self.config = config
        self.space = space
        config.check_function()
        self._search: SearchFunction = import_object(config.function, "planner.function")
        if not callable(self._search):
            raise ConfigError(f"planner.function: {config.function} is no function")

    @torch.no_grad()
    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        """Searches one plan per generator; see `Planner.plan`.

        Raises:
            PlanningError: Plans of another shape than `[B,H,d]`, or costs that no plan can be chosen from.
        """
        cfg, space = self.config, self.space
        start_BHd = space.project(start_of(warm_start_BHd, len(generators), cfg.horizon, space))
        found_BHd = self._search(unroll, objective, space, config=cfg, generators=generators, start_BHd=start_BHd)
        if not isinstance(found_BHd, Tensor) or found_BHd.shape != start_BHd.shape:
            shape = list(found_BHd.shape) if isinstance(found_BHd, Tensor) else type(found_BHd).__name__
            raise PlanningError(
                f"planner.function {cfg.function} must return plans of shape {list(start_BHd.shape)}, found {shape}"
            )
        search_B2Hd: Float[Tensor, "B 2 H d"] = torch.stack([space.project(found_BHd), start_BHd], dim=1)
        cost_B2 = score(
            unroll, objective, space, search_B2Hd, max_candidates_per_forward=cfg.max_candidates_per_forward
        )
        cost_B2, order_B2 = cost_B2.sort(dim=1, stable=True)
        best = order_B2[:, :, None, None].expand(-1, -1, *search_B2Hd.shape[2:])
        rounds = Rounds()
        rounds.add(Elites(search_B2Hd.gather(1, best), cost_B2))
        return rounds.plan(space, rounds.best_BHd)
