"""Micro-batches where memory is short, and costs that are looked at once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.planning.base import CheckedAtTheEnd, check_costs
from jepawm.planning.micro_batches import in_micro_batches

CHUNKS = torch.randn(2, 10, 3, 4, generator=torch.Generator().manual_seed(0))
CPU = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def cost(latents: Tensor) -> Tensor:
    return latents.square().sum(dim=(-2, -1))


class Memory:
    """An unroll for which memory suffices up to a number of candidates."""

    def __init__(self, most: int, error: Exception) -> None:
        self.most, self.error = most, error
        self.widths: list[int] = []

    def __call__(self, chunks_BNHA: Tensor) -> Tensor:
        self.widths.append(chunks_BNHA.shape[1])
        if chunks_BNHA.shape[1] > self.most:
            raise self.error
        return chunks_BNHA


def costs(unroll: Any, size: Any = None) -> Tensor:
    return in_micro_batches(unroll, cost, CHUNKS, max_candidates_per_forward=size)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU)])
def test_half_as_many_are_tried_once(error: Exception) -> None:
    unroll = Memory(5, error)
    assert torch.equal(costs(unroll), cost(CHUNKS))
    assert unroll.widths == [10, 5, 5]
    unroll = Memory(2, error)
    assert torch.equal(costs(unroll, 3), cost(CHUNKS))
    assert unroll.widths == [3, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(("size", "tried"), [(None, "10 and with 5"), (7, "7 and with 4"), (1, "1")])
def test_then_the_error_names_the_settings(size: int | None, tried: str) -> None:
    with pytest.raises(PlanningError, match=f"with {tried} candidates of 2 episodes in one forward pass") as caught:
        costs(Memory(0, torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB")), size)
    for word in ("Tried 9 GiB", "planner.max_candidates_per_forward", "planner.horizon", "planner.precision"):
        assert word in str(caught.value)


def test_other_errors_are_not_about_memory() -> None:
    unroll = Memory(5, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        costs(unroll)
    assert unroll.widths == [10]


def test_auto_needs_an_unroll_that_knows_its_memory() -> None:
    with pytest.raises(PlanningError, match=r"'auto' needs an unroll that knows its memory, .* this Memory a number"):
        costs(Memory(10, RuntimeError()), "auto")


@pytest.mark.parametrize(
    ("row", "message"),
    [([1.0, float("nan"), 2.0], "candidate 1 of episode 1"), ([4.0, 4.0, 4.0], "all 3 candidates of episode 1")],
)
def test_bad_costs_are_named_at_once_or_at_the_end(row: list[float], message: str) -> None:
    good, bad = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]), torch.tensor([[1.0, 2.0, 3.0], row])
    search = CHUNKS[:, :3]
    check_costs(good, search)
    with pytest.raises(PlanningError, match=message):
        check_costs(bad, search)
    checked = CheckedAtTheEnd(cost)
    checked.check()
    checked.see(good, search)
    checked.check()
    checked.see(bad, search)
    checked.see(torch.full((2, 3), float("nan")), search)
    with pytest.raises(PlanningError, match=message):
        checked.check()
