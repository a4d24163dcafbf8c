"""Random plans: the baseline beside every success rate, the best of many, and the best of many around the last one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.planner import PredictiveSamplingConfig, RandomPlansConfig, RandomShootingConfig
from jepawm.planning.base import Objective, Plan, Unroll, draw_normal, score
from jepawm.planning.rounds import Rounds, elites_of, start_of
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
        centre_BHd = start_of(warm_start_BHd, B, H, space)
        noise_BNHd = draw_normal(generators, (N, H, space.dim), space.device)
        noise_BNHd[:, 0] = 0
        search_BNHd = space.project(centre_BHd[:, None] + cfg.init_std * noise_BNHd)
        cost_BN = score(
            unroll, objective, space, search_BNHd, max_candidates_per_forward=cfg.max_candidates_per_forward
        )
        rounds = Rounds()
        rounds.add(elites_of(search_BNHd, cost_BN, N))
        return rounds.plan(space, rounds.best_BHd)


class PredictiveSampling:
    """Draws candidates around the last plan, and goes on with the cheapest of them.

    Candidate 0 is the last plan itself, or the data's mean action. Noise is drawn at a few knots of the plan and
    interpolated between them, so that a candidate departs from the last plan smoothly.

    Args:
        config: Horizon, spread, candidates, knots.
        space: Bounds and units of what is searched.

    Reference: Howell et al. 2022, Predictive Sampling: Real-time Behaviour Synthesis with MuJoCo, arXiv 2212.00541.
    """

    def __init__(self, config: PredictiveSamplingConfig, space: ActionSearchSpace) -> None:
        self.config = config
        self.space = space
        num_knots = min(config.num_knots or config.horizon, config.horizon)
        self._weight_HM = knot_weights(config.horizon, num_knots, config.interpolation).to(space.device)

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
        B, N, M = len(generators), cfg.num_samples, self._weight_HM.shape[1]
        best_BHd = start_of(warm_start_BHd, B, cfg.horizon, space)
        rounds = Rounds()
        for _ in range(cfg.num_iterations if warm_start_BHd is None else cfg.num_iterations_warm):
            at_knots_BNMd = draw_normal(generators, (N, M, space.dim), space.device)
            noise_BNHd = torch.einsum("hm,bnmd->bnhd", self._weight_HM, at_knots_BNMd)
            noise_BNHd[:, 0] = 0
            search_BNHd = space.project(best_BHd[:, None] + cfg.init_std * noise_BNHd)
            cost_BN = score(
                unroll, objective, space, search_BNHd, max_candidates_per_forward=cfg.max_candidates_per_forward
            )
            rounds.add(elites_of(search_BNHd, cost_BN, N))
            best_BHd = rounds.best_BHd
        return rounds.plan(space, best_BHd)


def knot_weights(horizon: int, num_knots: int, interpolation: str) -> Float[Tensor, "H M"]:
    """What each knot contributes to each chunk of a plan.

    Args:
        horizon: Chunks `H`.
        num_knots: Knots `M`, spread evenly from the first chunk to the last; one knot holds throughout.
        interpolation: `zero` holds the last knot, `linear` is a straight line to the next one.

    Returns:
        `[H,M]`; each row sums to 1.
    """
    if num_knots == 1:
        return torch.ones(horizon, 1)
    # In float64 and rounded, for a chunk at a knot must not fall between two of them.
    place_H = (torch.arange(horizon, dtype=torch.float64) * (num_knots - 1) / (horizon - 1)).round(decimals=9)
    before_H = place_H.floor().long()
    after_share_H = place_H - before_H if interpolation == "linear" else torch.zeros_like(place_H)
    weight_HM = torch.zeros(horizon, num_knots, dtype=torch.float64)
    rows = torch.arange(horizon)
    weight_HM[rows, before_H] = 1 - after_share_H
    weight_HM[rows, (before_H + 1).clamp_max(num_knots - 1)] += after_share_H
    return weight_HM.float()
