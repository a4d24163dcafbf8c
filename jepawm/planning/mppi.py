"""Model-predictive path integrals."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.planner import MPPIConfig
from jepawm.planning.base import Objective, Plan, Unroll, draw_normal, score
from jepawm.planning.rounds import Rounds, elites_of, start_of
from jepawm.planning.search_space import ActionSearchSpace


class MPPI:
    """Averages the elites with weights that fall exponentially with their cost, draws around that average, and again.

    `w_k = softmax(-cost_k / temperature)`, `mean' = sum w_k a_k`, `std'^2 = sum w_k (a_k - mean')^2`.

    Args:
        config: Samples, elites, iterations, temperature; what of them is executed.
        space: Bounds and units of what is searched.

    Reference: Williams et al. 2017, Information Theoretic MPC, arXiv 1707.02342; with elites and a fitted deviation as
        in Hansen et al. 2022, TD-MPC, arXiv 2203.04955.
    """

    def __init__(self, config: MPPIConfig, space: ActionSearchSpace) -> None:
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
        """Searches one plan per generator; see `Planner.plan`.

        Raises:
            PlanningError: Costs that no plan can be chosen from, or a warm start of another shape.
        """
        cfg, space = self.config, self.space
        B, N, H = len(generators), cfg.num_samples, cfg.horizon
        mean_BHd = start_of(warm_start_BHd, B, H, space)
        std_BHd = torch.full_like(mean_BHd, cfg.init_std)
        rounds = Rounds()
        for _ in range(cfg.num_iterations if warm_start_BHd is None else cfg.num_iterations_warm):
            noise_BNHd = draw_normal(generators, (N, H, space.dim), space.device)
            if cfg.keep_mean:
                noise_BNHd[:, 0] = 0
            search_BNHd = space.project(mean_BHd[:, None] + std_BHd[:, None] * noise_BNHd)
            cost_BN = score(
                unroll, objective, space, search_BNHd, max_candidates_per_forward=cfg.max_candidates_per_forward
            )
            elites = elites_of(search_BNHd, cost_BN, cfg.num_elites)
            weight_BK = self.weights(elites.cost_BK)
            mean_BHd, std_BHd = self.fit(elites.search_BKHd, weight_BK)
            rounds.add(elites)
        if cfg.execute == "sampled":
            chosen_BHd = _one_of(elites.search_BKHd, weight_BK, generators)
        else:
            chosen_BHd = mean_BHd if cfg.execute == "mean" else rounds.best_BHd
        if cfg.exploration_noise:
            chosen_BHd = space.project(chosen_BHd + std_BHd * draw_normal(generators, (1, space.dim), space.device))
        return rounds.plan(space, chosen_BHd)

    def weights(self, cost_BK: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Weights of the elites, which sum to 1 for each episode."""
        # Relative to the cheapest: softmax does not change, and large costs lose no digits.
        return torch.softmax(-(cost_BK - cost_BK[:, :1]) / self.config.temperature, dim=1)

    def fit(
        self, elites_BKHd: Float[Tensor, "B K H d"], weight_BK: Float[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B H d"], Float[Tensor, "B H d"]]:
        """Mean and standard deviation of the next iteration."""
        weight = weight_BK[:, :, None, None]
        mean_BHd = (weight * elites_BKHd).sum(dim=1)
        variance_BHd = (weight * (elites_BKHd - mean_BHd[:, None]).square()).sum(dim=1)
        return mean_BHd, variance_BHd.sqrt().clamp(self.config.min_std, self.config.max_std)


def _one_of(plans_BKHd: Tensor, weight_BK: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One plan of each episode, drawn with its weight: the first whose cumulated weight exceeds a uniform number."""
    uniform_B1 = draw_uniform(generators).to(weight_BK.device)
    last = weight_BK.shape[1] - 1
    # Rounding may leave the cumulated weight just below 1, and the uniform number above it.
    chosen_B = (weight_BK.double().cumsum(dim=1) <= uniform_B1).sum(dim=1).clamp_max(last)
    return plans_BKHd[torch.arange(len(plans_BKHd), device=chosen_B.device), chosen_B]


def draw_uniform(generators: Sequence[torch.Generator]) -> Float[Tensor, "B 1"]:
    """A number in [0, 1) for each episode, from its own generator."""
    rows = [torch.rand(1, generator=each, device=each.device, dtype=torch.float64) for each in generators]
    return torch.stack(rows)
