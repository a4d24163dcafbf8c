"""Random plans: the baseline beside every success rate, and the best of many."""

from collections.abc import Sequence

import torch
from torch import Tensor

from jepawm.config.planner import RandomPlansConfig, RandomShootingConfig
from jepawm.planning.base import Objective, Plan, Unroll, check_warm_start, draw_normal, score
from jepawm.planning.search_space import ActionSearchSpace


class RandomPlanner:
    """One random plan per episode, from the first distribution of the planner it stands beside.

    Args:
        config: Horizon and spread.
        space: Bounds and units of what is searched.
    """

    def __init__(self, config: RandomPlansConfig, space: ActionSearchSpace) -> None:
        self.config = config
        self.space = space

    @torch.no_grad()
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


class RandomShooting:
    """The cheapest of `num_samples` random plans; candidate 0 is the warm start, or the data's mean action.

    Args:
        config: Horizon, spread and number of candidates.
        space: Bounds and units of what is searched.

    Reference: Chua et al. 2018, PETS, arXiv 1805.12114 (random shooting as the baseline of model-predictive control).
    """

    def __init__(self, config: RandomShootingConfig, space: ActionSearchSpace) -> None:
        self.config = config
        self.space = space

    @torch.no_grad()
    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        """Searches one plan per generator; see `Planner.plan`."""
        cfg, space = self.config, self.space
        B, N, H = len(generators), cfg.num_samples, cfg.horizon
        check_warm_start(warm_start_BHd, (B, H, space.dim))
        noise_BNHd = draw_normal(generators, (N, H, space.dim), space.device)
        noise_BNHd[:, 0] = 0
        centre_BHd = 0.0 if warm_start_BHd is None else warm_start_BHd[:, None]
        search_BNHd = space.project(centre_BHd + cfg.init_std * noise_BNHd)
        cost_BN = score(
            unroll, objective, space, search_BNHd, max_candidates_per_forward=cfg.max_candidates_per_forward
        )
        best_cost_B, best_B = cost_BN.min(dim=1)
        search_BHd = search_BNHd[torch.arange(B, device=best_B.device), best_B]
        return Plan(space.to_chunks(search_BHd), search_BHd, best_cost_B[None], cost_BN.mean(dim=1)[None])
