"""What planners share: the callables they are given, and how candidates are scored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.planning.micro_batches import in_micro_batches
from jepawm.planning.search_space import ActionSearchSpace

Unroll = Callable[[Tensor], Any]
"""Raw chunks `[B,N,H,A]` to predicted latents `[B,N,H]`, of whatever kind the objective reads."""

Objective = Callable[[Any], Tensor]
"""Predicted latents `[B,N,H]` to cost `[B,N]`, lower is better."""


@runtime_checkable
class StepUnroll(Protocol):
    """An unroll that also predicts single model steps, from latents that it is given."""

    def __call__(self, chunks_BNHA: Tensor) -> Any:
        """Raw chunks `[B,N,H,A]` to predicted latents `[B,N,H]`."""
        ...

    def steps(self, virtual: Any, chunks_BNHA: Tensor) -> Any:
        """Predicts the latent after each chunk: chunk 0 starts from the present, chunk `h` from `virtual[h - 1]`.

        Args:
            virtual: Latents `[B,N,H-1]`, of the kind that a call returns; entry `h` stands for what chunk `h` led to.
            chunks_BNHA: `[B,N,H,A]` raw chunks.

        Returns:
            Predicted latents `[B,N,H]`. They do not depend on each other, so they are computed side by side.
        """
        ...


# Candidates that differ by less, in standard deviations of the data's actions, may well cost the same: the search has
# converged, or is pressed into a corner of the bounds.
CONVERGED = 1e-3


@dataclass
class Plan:
    """What a planner chose.

    An iteration is one round of candidates that are scored together. Its costs are those of the candidates, not of the
    plan: a planner may execute a mean that was never scored. For planners that follow gradients, row 0 is of the
    starts and row `i` of what they became after `i` updates.

    Attributes:
        chunks_BHA: `[B,H,A]` raw action chunks, inside the bounds.
        search_BHd: `[B,H,d]` the same in search units, for a warm start.
        best_cost_IB: `[I,B]` lowest candidate cost of each iteration; NaN where nothing was scored.
        mean_elite_cost_IB: `[I,B]` mean cost of each iteration's elites; of all candidates where there are no elites.
        elites_BKHd: `[B,K,H,d]` plans in search units that the next search should begin with beside the warm start;
            None: none. `MPC` shifts them and hands them back as `elites_BKHd`.
    """

    chunks_BHA: Tensor
    search_BHd: Tensor
    best_cost_IB: Tensor
    mean_elite_cost_IB: Tensor
    elites_BKHd: Tensor | None = None


@runtime_checkable
class Planner(Protocol):
    """Searches `B` plans at once."""

    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        """Returns one plan per generator; an episode's plan depends on its own generator only.

        A planner whose plans have `elites_BKHd` takes them as a keyword of that name as well.

        Args:
            unroll: Raw chunks `[B,N,H,A]` to latents `[B,N,H]`.
            objective: Latents to cost `[B,N]`.
            generators: One per episode: all that is random in its plan.
            warm_start_BHd: `[B,H,d]` plans in search units to start from, perhaps outside the bounds; they are
                candidates, so no search ends with a plan whose measured cost is higher. None: start at 0, the data's
                mean action.
        """
        ...


def check_warm_start(warm_start_BHd: Tensor | None, shape: tuple[int, int, int]) -> None:
    """Refuses a warm start of another shape than `[B,H,d]`.

    Raises:
        PlanningError: Names what was expected and found.
    """
    if warm_start_BHd is not None and tuple(warm_start_BHd.shape) != shape:
        raise PlanningError(f"warm start: expected shape {list(shape)}, found {list(warm_start_BHd.shape)}")


def draw_normal(
    generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "B *shape"]:
    """Standard normal noise `[B, *shape]`, row `b` from generator `b` alone.

    An episode's candidates then do not depend on which other episodes are planned beside it.
    """
    rows = [torch.randn(shape, generator=generator, device=generator.device) for generator in generators]
    noise = torch.stack(rows)
    if device.type == "cuda" and noise.device.type == "cpu":
        # From pinned memory the copy is queued behind the GPU's work, and the host goes on.
        return noise.pin_memory().to(device, non_blocking=True)
    return noise.to(device)


def score(
    unroll: Unroll,
    objective: Objective,
    space: ActionSearchSpace,
    search_BNHd: Float[Tensor, "B N H d"],
    *,
    max_candidates_per_forward: int | Literal["auto"] | None = None,
) -> Float[Tensor, "B N"]:
    """Costs of candidates, in as many forward passes as memory asks for.

    Args:
        unroll: Raw chunks to latents.
        objective: Latents to cost.
        space: Search vectors to raw chunks.
        search_BNHd: `[B,N,H,d]` candidates, inside the bounds.
        max_candidates_per_forward: Candidates per episode in one pass; `auto`: as many as free memory holds, which an
            unroll that is a `SizedUnroll` knows; None: all.

    Returns:
        `[B,N]` costs.

    Raises:
        PlanningError: A cost that is not finite, all costs of an episode equal, memory that does not suffice for half
            the candidates either, or `auto` for an unroll that does not know its memory.
    """
    cost_BN = in_micro_batches(
        unroll, objective, space.to_chunks(search_BNHd), max_candidates_per_forward=max_candidates_per_forward
    ).float()
    if isinstance(objective, CheckedAtTheEnd):
        objective.see(cost_BN, search_BNHd)
    else:
        check_costs(cost_BN, search_BNHd)
    return cost_BN


def check_costs(cost_BN: Float[Tensor, "B N"], search_BNHd: Float[Tensor, "B N H d"]) -> None:
    """Refuses costs that no plan can be chosen from.

    Args:
        cost_BN: `[B,N]` costs.
        search_BNHd: `[B,N,H,d]` what they are costs of.

    Raises:
        PlanningError: A cost that is not finite, or different candidates of an episode that all cost the same.
    """
    bad = ~torch.isfinite(cost_BN)
    if bool(bad.any()):
        row, column = (int(value) for value in bad.nonzero()[0])
        raise PlanningError(
            f"the cost of candidate {column} of episode {row} in the batch is not finite; the world model predicts "
            "NaN or infinite latents for actions inside the bounds: check its training metrics"
        )
    if cost_BN.shape[1] > 1:
        flat = cost_BN.amax(dim=1) == cost_BN.amin(dim=1)
        if bool(flat.any()):
            flat &= (search_BNHd.amax(dim=1) - search_BNHd.amin(dim=1)).flatten(1).amax(dim=1) > CONVERGED
        if bool(flat.any()):
            raise PlanningError(
                f"all {cost_BN.shape[1]} candidates of episode {int(flat.nonzero()[0])} in the batch cost the same; "
                "the latents have collapsed or ignore the actions: look at diagnostics/ in the metrics"
            )


class CheckedAtTheEnd:
    """An objective whose costs are checked once, after the search.

    On a GPU a look at a cost waits for all the work that is queued, and the queue runs empty meanwhile.

    Args:
        objective: Latents to cost.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, latents: Any) -> Tensor:
        return self.objective(latents)

    def see(self, cost_BN: Float[Tensor, "B N"], search_BNHd: Float[Tensor, "B N H d"]) -> None:
        """Remembers costs, and what they are costs of, until `check`."""
        self._seen.append((cost_BN, search_BNHd))

    def check(self) -> None:
        """Raises what `check_costs` raises, of the first costs that are bad; looks at the device once if none is."""
        # A cost that is not finite makes the difference NaN, which is above nothing.
        suspicious = [~(cost_BN.amax(dim=1) - cost_BN.amin(dim=1) > 0).all() for cost_BN, _ in self._seen]
        if suspicious and bool(torch.stack(suspicious).any()):
            for cost_BN, search_BNHd in self._seen:
                check_costs(cost_BN, search_BNHd)
