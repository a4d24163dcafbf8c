"""What the rounds of a search found: costs for the trace, and the cheapest plan of all."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.planning.base import Plan, check_warm_start
from jepawm.planning.search_space import ActionSearchSpace


class Elites(NamedTuple):
    """The cheapest candidates of a round, the cheapest first.

    Attributes:
        search_BKHd: `[B,K,H,d]` the candidates.
        cost_BK: `[B,K]` their costs.
    """

    search_BKHd: Tensor
    cost_BK: Tensor


def elites_of(search_BNHd: Float[Tensor, "B N H d"], cost_BN: Float[Tensor, "B N"], num_elites: int) -> Elites:
    """The `num_elites` cheapest of each episode's candidates."""
    cost_BK, index_BK = cost_BN.topk(num_elites, dim=1, largest=False)
    index = index_BK[:, :, None, None].expand(-1, -1, *search_BNHd.shape[2:])
    return Elites(search_BNHd.gather(1, index), cost_BK)


class Rounds:
    """Collects a search round by round.

    Attributes:
        best_BHd: `[B,H,d]` the cheapest candidate of all rounds.
        best_cost_B: `[B]` its cost.
    """

    def __init__(self) -> None:
        self._best_cost: list[Tensor] = []
        self._mean_elite_cost: list[Tensor] = []
        self.best_BHd: Tensor
        self.best_cost_B: Tensor

    def add(self, elites: Elites) -> None:
        """Takes the elites of one round, the cheapest first."""
        found_BHd, cost_B = elites.search_BKHd[:, 0], elites.cost_BK[:, 0]
        if self._best_cost:
            better_B = cost_B < self.best_cost_B
            found_BHd = torch.where(better_B[:, None, None], found_BHd, self.best_BHd)
            self.best_cost_B = torch.where(better_B, cost_B, self.best_cost_B)
        else:
            self.best_cost_B = cost_B
        self.best_BHd = found_BHd
        self._best_cost.append(cost_B)
        self._mean_elite_cost.append(elites.cost_BK.mean(dim=1))

    def plan(self, space: ActionSearchSpace, search_BHd: Tensor, *, elites_BKHd: Tensor | None = None) -> Plan:
        """The plan `search_BHd` with the costs of all rounds."""
        return Plan(
            space.to_chunks(search_BHd),
            search_BHd,
            torch.stack(self._best_cost),
            torch.stack(self._mean_elite_cost),
            elites_BKHd,
        )


def start_of(
    warm_start_BHd: Tensor | None, num_episodes: int, horizon: int, space: ActionSearchSpace
) -> Float[Tensor, "B H d"]:
    """Where a search begins: the warm start, or 0, the data's mean action.

    Raises:
        PlanningError: A warm start of another shape than `[B,H,d]`.
    """
    shape = (num_episodes, horizon, space.dim)
    if warm_start_BHd is None:
        return torch.zeros(shape, device=space.device)
    check_warm_start(warm_start_BHd, shape)
    return warm_start_BHd
