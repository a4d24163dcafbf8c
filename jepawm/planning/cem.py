"""The cross-entropy method, over all episodes at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from jepawm.config.planner import CEMConfig
from jepawm.planning.base import Objective, Plan, Unroll, check_warm_start, draw_normal, score
from jepawm.planning.search_space import ActionSearchSpace


class CEM:
    """Draws candidates from a normal distribution, keeps the elites, fits the distribution to them, and again.

    Candidate 0 is always the mean. Candidates are projected into the action bounds before they are scored, so the fit
    sees what would really be executed.

    Args:
        config: Samples, elites, iterations, spread.
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
            The final means, as chunks.

        Raises:
            PlanningError: Costs that no plan can be chosen from, or a warm start of another shape.
        """
        cfg, space = self.config, self.space
        B, N, K, H = len(generators), cfg.num_samples, cfg.num_elites, cfg.horizon
        shape = (B, H, space.dim)
        check_warm_start(warm_start_BHd, shape)
        mean_BHd = torch.zeros(shape, device=space.device) if warm_start_BHd is None else warm_start_BHd
        std_BHd = torch.full(shape, cfg.init_std, device=space.device)
        best, elite_means = [], []
        for _ in range(cfg.num_iterations if warm_start_BHd is None else cfg.num_iterations_warm):
            noise_BNHd = draw_normal(generators, (N, H, space.dim), space.device)
            noise_BNHd[:, 0] = 0
            search_BNHd = space.project(mean_BHd[:, None] + std_BHd[:, None] * noise_BNHd)
            cost_BN = score(
                unroll, objective, space, search_BNHd, max_candidates_per_forward=cfg.max_candidates_per_forward
            )
            elite_cost_BK, elite_BK = cost_BN.topk(K, dim=1, largest=False)
            elites_BKHd = search_BNHd.gather(1, elite_BK[:, :, None, None].expand(-1, -1, H, space.dim))
            mean_BHd = elites_BKHd.mean(dim=1)
            std_BHd = elites_BKHd.std(dim=1).clamp_min(cfg.min_std)
            best.append(elite_cost_BK[:, 0])
            elite_means.append(elite_cost_BK.mean(dim=1))
        return Plan(space.to_chunks(mean_BHd), mean_BHd, torch.stack(best), torch.stack(elite_means))
