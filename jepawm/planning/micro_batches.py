"""Candidates in as many forward passes as memory asks for."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.errors import PlanningError

# What torch says on a CPU and on an Apple GPU; on CUDA it raises an error of its own.
_OUT_OF_MEMORY = ("can't allocate memory", "backend out of memory")


@runtime_checkable
class SizedUnroll(Protocol):
    """An unroll that knows what it needs of memory."""

    def __call__(self, chunks_BNHA: Tensor) -> Any:
        """Raw chunks `[B,N,H,A]` to predicted latents `[B,N,H]`."""
        ...

    def candidates_per_forward(
        self, objective: Callable[[Any], Tensor], chunks_BNHA: Tensor, asked: int | Literal["auto"] | None
    ) -> int:
        """Candidates of each episode in one forward pass: what was asked for, or what fits; 1 to `N`."""
        ...

    def did_not_fit(self, candidates: int) -> None:
        """Is told that memory did not suffice, and for how many candidates of each episode it then did."""
        ...


def micro_batch_size(
    unroll: Callable[[Tensor], Any],
    objective: Callable[[Any], Tensor],
    chunks_BNHA: Float[Tensor, "B N H A"],
    max_candidates_per_forward: int | Literal["auto"] | None,
) -> int:
    """Candidates of each episode in one forward pass, 1 to `N`.

    Args:
        unroll: Raw chunks to latents.
        objective: Latents to cost.
        chunks_BNHA: `[B,N,H,A]` raw chunks.
        max_candidates_per_forward: So many; `auto`: as many as free memory holds; None: all.

    Raises:
        PlanningError: `auto` for an unroll that does not know its memory.
    """
    if isinstance(unroll, SizedUnroll):
        return unroll.candidates_per_forward(objective, chunks_BNHA, max_candidates_per_forward)
    if max_candidates_per_forward == "auto":
        raise PlanningError(
            "max_candidates_per_forward 'auto' needs an unroll that knows its memory, as an Agent's does; give this "
            f"{type(unroll).__name__} a number of candidates, or None for all at once"
        )
    return min(max_candidates_per_forward or chunks_BNHA.shape[1], chunks_BNHA.shape[1])


def in_micro_batches(
    unroll: Callable[[Tensor], Any],
    objective: Callable[[Any], Tensor],
    chunks_BNHA: Float[Tensor, "B N H A"],
    *,
    max_candidates_per_forward: int | Literal["auto"] | None,
) -> Float[Tensor, "B N"]:
    """Costs of candidates; once more with half as many at once where memory does not suffice.

    Args:
        unroll: Raw chunks to latents.
        objective: Latents to cost.
        chunks_BNHA: `[B,N,H,A]` raw chunks.
        max_candidates_per_forward: Candidates per episode in one pass; `auto`: what fits; None: all.

    Raises:
        PlanningError: `auto` for an unroll that does not know its memory, or memory that does not suffice for half the
            candidates either.
    """
    size = micro_batch_size(unroll, objective, chunks_BNHA, max_candidates_per_forward)

    def costs(size: int) -> Tensor:
        return torch.cat([objective(unroll(part)) for part in chunks_BNHA.split(size, dim=1)], dim=1)

    found, why = _unless_out_of_memory(lambda: costs(size))
    if found is None and size > 1:
        half = (size + 1) // 2
        if chunks_BNHA.device.type == "cuda":
            torch.cuda.empty_cache()
        found, why = _unless_out_of_memory(lambda: costs(half))
        if found is not None and isinstance(unroll, SizedUnroll):
            unroll.did_not_fit(half)
    if found is None:
        tried = f"{size}" if size == 1 else f"{size} and with {(size + 1) // 2}"
        raise PlanningError(
            f"planning ran out of memory with {tried} candidates of {len(chunks_BNHA)} episodes in one forward pass: "
            f"{why}. Lower planner.max_candidates_per_forward, planner.horizon or the number of episodes that are "
            "planned together, or plan in planner.precision bfloat16"
        )
    return found


def _unless_out_of_memory(work: Callable[[], Tensor]) -> tuple[Tensor | None, str]:
    """What the work returns; or nothing and why, where memory did not suffice."""
    try:
        return work(), ""
    except RuntimeError as error:
        said = str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or any(words in said for words in _OUT_OF_MEMORY)):
            raise
        # The error holds the frames it passed, and they hold tensors; only its words go on.
        return None, said.splitlines()[0]
