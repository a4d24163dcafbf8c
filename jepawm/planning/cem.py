"""The cross-entropy method, over all episodes at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.planner import CEMConfig
from jepawm.planning.base import Objective, Plan, Unroll, draw_normal, score
from jepawm.planning.rounds import Elites, Rounds, elites_of, start_of
from jepawm.planning.search_space import ActionSearchSpace


class CEM:
    """Draws candidates from a normal distribution, keeps the elites, fits the distribution to them, and again.

    `mean' = m mean + (1 - m) mean(elites)`, `std' = s std + (1 - s) std(elites)` with momenta `m` and `s` (0 unless
    configured). Candidate 0 is the mean unless `keep_mean` is off. Candidates are projected into the action bounds
    before they are scored, so the fit sees what would really be executed.

    Args:
        config: Samples, elites, iterations, spread; what of them is executed.
        space: Bounds and units of what is searched.

    Reference: Rubinstein and Kroese 2004, The Cross-Entropy Method; settings as in DINO-WM, arXiv 2411.04983.
    """

    def __init__(self, config: CEMConfig, space: ActionSearchSpace) -> None:
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
        """Searches one plan per generator.

        Args:
            unroll: Raw chunks `[B,N,H,A]` to latents `[B,N,H,P,D]`.
            objective: Latents to cost `[B,N]`.
            generators: One per episode of the batch.
            warm_start_BHd: `[B,H,d]` mean to start from, with fewer iterations; None: zero, the data's mean action.

        Returns:
            The final means as chunks, or the cheapest candidates.

        Raises:
            PlanningError: Costs that no plan can be chosen from, or a warm start of another shape.
        """
        rounds, mean_BHd, _ = self.search(unroll, objective, generators, warm_start_BHd)
        return rounds.plan(self.space, mean_BHd if self.config.execute == "mean" else rounds.best_BHd)

    def search(
        self,
        unroll: Unroll,
        objective: Objective,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None,
    ) -> tuple[Rounds, Tensor, Elites]:
        """All iterations; see `plan`.

        Returns:
            What the rounds found, the last mean `[B,H,d]`, and the last elites.
        """
        cfg, space = self.config, self.space
        B, N, H = len(generators), cfg.num_samples, cfg.horizon
        mean_BHd = start_of(warm_start_BHd, B, H, space)
        init_std = cfg.init_std
        if warm_start_BHd is not None and cfg.init_std_warm is not None:
            init_std = cfg.init_std_warm
        std_BHd = torch.full_like(mean_BHd, init_std)
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
            mean_BHd, std_BHd = self.fit(mean_BHd, std_BHd, elites.search_BKHd)
            rounds.add(elites)
        return rounds, mean_BHd, elites

    def fit(
        self, mean_BHd: Float[Tensor, "B H d"], std_BHd: Float[Tensor, "B H d"], elites_BKHd: Float[Tensor, "B K H d"]
    ) -> tuple[Float[Tensor, "B H d"], Float[Tensor, "B H d"]]:
        """Mean and standard deviation of the next iteration, from those of this one and its elites."""
        cfg = self.config
        m, s = cfg.mean_momentum, cfg.std_momentum
        mean_BHd = m * mean_BHd + (1 - m) * elites_BKHd.mean(dim=1)
        std_BHd = s * std_BHd + (1 - s) * elites_BKHd.std(dim=1, correction=int(cfg.unbiased_std))
        return mean_BHd, std_BHd.clamp(cfg.min_std, cfg.max_std)
