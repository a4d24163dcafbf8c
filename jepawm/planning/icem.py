"""The improved cross-entropy method."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.planner import ICEMConfig
from jepawm.errors import PlanningError
from jepawm.planning.base import Objective, Plan, Unroll, draw_normal, score
from jepawm.planning.rounds import Rounds, elites_of, start_of
from jepawm.planning.search_space import ActionSearchSpace


class ICEM:
    """The cross-entropy method with five changes, so that fewer candidates do.

    Noise is coloured along the plan (its power falls as `1 / f^b`), so candidates go somewhere instead of shivering.
    A share of the elites are candidates again in the next iteration, and shifted in the next replan. Each iteration
    draws `sample_decay` times fewer candidates. The mean is a candidate in the last iteration alone. The cheapest
    candidate of all is executed.

    Args:
        config: Samples, elites, iterations, noise.
        space: Bounds and units of what is searched.

    Reference: Pinneri et al. 2020, Sample-efficient Cross-Entropy Method, arXiv 2008.06389.
    """

    def __init__(self, config: ICEMConfig, space: ActionSearchSpace) -> None:
        self.config = config
        self.space = space
        self._noise_HH = coloured_basis(config.horizon, config.noise_exponent).to(space.device)

    @torch.no_grad()
    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
        elites_BKHd: Tensor | None = None,
    ) -> Plan:
        """Searches one plan per generator.

        Args:
            unroll: Raw chunks `[B,N,H,A]` to latents.
            objective: Latents to cost `[B,N]`.
            generators: One per episode of the batch.
            warm_start_BHd: `[B,H,d]` mean to start from, and a candidate of the first iteration; None: zero.
            elites_BKHd: `[B,K,H,d]` further candidates of the first iteration: the shifted elites of the last plan.

        Raises:
            PlanningError: Costs that no plan can be chosen from, or a start of another shape.
        """
        cfg, space = self.config, self.space
        B, K, H = len(generators), cfg.num_elites, cfg.horizon
        mean_BHd = start_of(warm_start_BHd, B, H, space)
        std_BHd = torch.full_like(mean_BHd, cfg.init_std)
        carried_BMHd = mean_BHd[:, None][:, : 0 if warm_start_BHd is None else 1]
        if elites_BKHd is not None:
            if elites_BKHd.shape[0] != B or elites_BKHd.shape[2:] != mean_BHd.shape[1:]:
                raise PlanningError(f"elites: expected shape {[B, 'K', H, space.dim]}, found {list(elites_BKHd.shape)}")
            carried_BMHd = torch.cat([carried_BMHd, elites_BKHd], dim=1)
        rounds, num_kept = Rounds(), math.ceil(cfg.kept_elites * K)
        num_iterations = cfg.num_iterations if warm_start_BHd is None else cfg.num_iterations_warm
        for number in range(num_iterations):
            N = max(int(cfg.num_samples * cfg.sample_decay**-number), min(2 * K, cfg.num_samples))
            drawn_BNHd = mean_BHd[:, None] + std_BHd[:, None] * self._draw(generators, N)
            if number == num_iterations - 1:
                carried_BMHd = torch.cat([carried_BMHd, mean_BHd[:, None]], dim=1)
            search_BNHd = space.project(torch.cat([drawn_BNHd, carried_BMHd], dim=1))
            cost_BN = score(
                unroll, objective, space, search_BNHd, max_candidates_per_forward=cfg.max_candidates_per_forward
            )
            elites = elites_of(search_BNHd, cost_BN, K)
            mean_BHd, std_BHd = self._fit(mean_BHd, std_BHd, elites.search_BKHd)
            carried_BMHd = elites.search_BKHd[:, :num_kept]
            rounds.add(elites)
        chosen_BHd = mean_BHd if cfg.execute == "mean" else rounds.best_BHd
        return rounds.plan(space, chosen_BHd, elites_BKHd=carried_BMHd)

    def _draw(self, generators: Sequence[torch.Generator], num_samples: int) -> Tensor:
        white_BNHd = draw_normal(generators, (num_samples, self.config.horizon, self.space.dim), self.space.device)
        return torch.einsum("kh,bnkd->bnhd", self._noise_HH, white_BNHd)

    def _fit(self, mean_BHd: Tensor, std_BHd: Tensor, elites_BKHd: Tensor) -> tuple[Tensor, Tensor]:
        cfg, m = self.config, self.config.momentum
        mean_BHd = m * mean_BHd + (1 - m) * elites_BKHd.mean(dim=1)
        std_BHd = m * std_BHd + (1 - m) * elites_BKHd.std(dim=1)
        return mean_BHd, std_BHd.clamp(cfg.min_std, cfg.max_std)


def coloured_basis(horizon: int, exponent: float) -> Float[Tensor, "H H"]:
    """The map from independent normal numbers to coloured noise along a plan.

    The rows are the waves that fit into the plan, each with amplitude `f^(-exponent / 2)`; the constant counts with
    the lowest frequency. A sum of the rows with independent standard normal weights is stationary noise of unit
    variance.

    Args:
        horizon: Chunks in a plan.
        exponent: Of the power spectrum `1 / f^exponent`; 0 is white noise.

    Returns:
        `[H,H]`, one wave a row.

    Reference: Timmer and Koenig 1995, On generating power law noise.
    """
    time = torch.arange(horizon, dtype=torch.float64)
    rows = []
    for number in range(horizon // 2 + 1):
        amplitude = max(number, 1) ** (-exponent / 2)
        phase = 2 * math.pi * number * time / horizon
        if number == 0 or 2 * number == horizon:
            rows.append(amplitude * torch.cos(phase))
        else:
            rows += [amplitude * math.sqrt(2) * torch.cos(phase), amplitude * math.sqrt(2) * torch.sin(phase)]
    basis = torch.stack(rows)
    return (basis / basis.square().sum(dim=0).sqrt()).float()
