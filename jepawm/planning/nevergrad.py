"""Any optimiser of Nevergrad as a planner, one for each episode, asked for many candidates at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepawm.config.planner import NevergradConfig
from jepawm.errors import ConfigError, did_you_mean, require
from jepawm.planning.base import Objective, Plan, Unroll, score
from jepawm.planning.rounds import Rounds, elites_of, start_of
from jepawm.planning.search_space import ActionSearchSpace


class NevergradPlanner:
    """Asks an optimiser of Nevergrad for candidates, tells it their costs, and again.

    The optimiser searches the free numbers of a plan, from the warm start or the data's mean action, with deviation
    `init_std`. Where all of them have finite bounds the optimiser knows these; bounds that it cannot know (a largest
    norm, or some dimensions alone) are kept by projecting what it asks for.

    Args:
        config: Optimiser, candidates, iterations.
        space: Bounds and units of what is searched.

    Raises:
        MissingDependencyError: Nevergrad is not installed.
        ConfigError: Nevergrad has no such optimiser.

    Reference: Rapin and Teytaud 2018, Nevergrad; as a planner in JEPA-WMs, arXiv 2512.24497.
    """

    def __init__(self, config: NevergradConfig, space: ActionSearchSpace) -> None:
        self._nevergrad: Any = require("nevergrad", "search")
        known = self._nevergrad.optimizers.registry
        if config.optimizer not in known:
            raise ConfigError(
                f"planner.optimizer: Nevergrad has no '{config.optimizer}'{did_you_mean(config.optimizer, known)}"
            )
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
        start_BHd = space.project(start_of(warm_start_BHd, len(generators), cfg.horizon, space))
        num_iterations = cfg.num_iterations if warm_start_BHd is None else cfg.num_iterations_warm
        suggest = cfg.keep_mean or warm_start_BHd is not None
        optimizers = [
            self._optimizer(start, num_iterations, _random_state(generator), suggest=suggest)
            for start, generator in zip(start_BHd.cpu().numpy(), generators, strict=True)
        ]
        rounds = Rounds()
        for _ in range(num_iterations):
            asked = [[optimizer.ask() for _ in range(cfg.num_samples)] for optimizer in optimizers]
            search_BNHd = self._to_plans([[candidate.value for candidate in each] for each in asked])
            cost_BN = score(
                unroll, objective, space, search_BNHd, max_candidates_per_forward=cfg.max_candidates_per_forward
            )
            for optimizer, candidates, costs in zip(optimizers, asked, cost_BN.tolist(), strict=True):
                for candidate, cost in zip(candidates, costs, strict=True):
                    optimizer.tell(candidate, cost)
            rounds.add(elites_of(search_BNHd, cost_BN, cfg.num_samples))
        if cfg.execute == "best":
            return rounds.plan(space, rounds.best_BHd)
        recommended = [[optimizer.provide_recommendation().value] for optimizer in optimizers]
        return rounds.plan(space, self._to_plans(recommended)[:, 0])

    def _optimizer(self, start_Hd: np.ndarray, num_iterations: int, state: Any, *, suggest: bool) -> Any:
        """An optimiser for one episode; with `suggest` the start is its first candidate."""
        cfg, free = self.config, self.space.free_d.cpu().numpy()
        low, high = (side.cpu().numpy()[free].astype(np.float64) for side in (self.space.low_d, self.space.high_d))
        # A projected start may leave its bound by a rounding, which Nevergrad refuses.
        start = np.clip(start_Hd[:, free].astype(np.float64), low, high)
        numbers = self._nevergrad.p.Array(init=start)
        numbers.set_mutation(sigma=cfg.init_std)
        if np.isfinite(low).all() and np.isfinite(high).all():
            numbers.set_bounds(np.tile(low, (cfg.horizon, 1)), np.tile(high, (cfg.horizon, 1)))
        numbers.random_state = state
        optimizer = self._nevergrad.optimizers.registry[cfg.optimizer](
            parametrization=numbers, budget=num_iterations * cfg.num_samples, num_workers=cfg.num_samples
        )
        if suggest:
            optimizer.suggest(start)
        return optimizer

    def _to_plans(self, values: list[list[np.ndarray]]) -> Tensor:
        """Search vectors `[B,N,H,d]` inside the bounds, of the numbers `[H,free]` that an optimiser searches."""
        found = torch.as_tensor(np.asarray(values), dtype=torch.float32, device=self.space.device)
        plans = torch.zeros(*found.shape[:-1], self.space.dim, device=self.space.device)
        plans[..., self.space.free_d] = found
        return self.space.project(plans)


def _random_state(generator: torch.Generator) -> np.random.RandomState:
    seed = torch.randint(2**32, (1,), generator=generator, device=generator.device, dtype=torch.int64)
    return np.random.RandomState(int(seed))
