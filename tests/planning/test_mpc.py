"""Model-predictive control: what a replan starts from, and a horizon that shrinks."""

from collections.abc import Sequence

import pytest
import torch
from chunk_world import HORIZON, Scripted, generators
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.planning import MPC, Plan


class Noting:
    """Plans that count upwards; remembers the horizon and the warm start of each."""

    def __init__(self, horizon: int, calls: list[tuple[int, Tensor | None]]) -> None:
        self.horizon, self.calls = horizon, calls

    def plan(
        self,
        unroll: object,
        objective: object,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        self.calls.append((self.horizon, warm_start_BHd))
        search = 100.0 * len(self.calls) + torch.arange(self.horizon).float()[None, :, None]
        search = search.repeat(len(generators), 1, 1)
        nothing = torch.zeros(1, len(generators))
        return Plan(search, search, nothing, nothing)


def control(horizon: int, replan_every: int, **settings: bool) -> tuple[MPC, list[tuple[int, Tensor | None]]]:
    calls: list[tuple[int, Tensor | None]] = []
    planner = Noting(horizon, calls)
    mpc = MPC(planner, replan_every=replan_every, shorter_planner=lambda left: Noting(left, calls), **settings)
    return mpc, calls


def nothing(_: object) -> Tensor:
    raise AssertionError("the planner of this test asks nobody")


def plan(mpc: MPC, times: int, *, episodes: int = 1, num_chunks: int | None = None) -> None:
    for _ in range(times):
        mpc.plan(nothing, nothing, [torch.Generator() for _ in range(episodes)], num_chunks)


@pytest.mark.parametrize(
    ("horizon", "replan_every", "horizons"),
    [(5, 1, [5, 4, 3, 2, 1, 5, 4]), (6, 2, [6, 4, 2, 6, 4]), (4, 4, [4, 4])],
)
def test_a_shrinking_horizon_ends_where_the_first_plan_ended(
    horizon: int, replan_every: int, horizons: list[int]
) -> None:
    mpc, calls = control(horizon, replan_every)
    plan(mpc, len(horizons))
    assert [length for length, _ in calls] == horizons
    for number, (length, start) in enumerate(calls):
        if length == horizon:
            assert start is None
        else:
            # The rest of the plan before, and nothing behind its end.
            expected = 100.0 * number + torch.arange(replan_every, replan_every + length).float()
            torch.testing.assert_close(start, expected[None, :, None])


def test_without_a_warm_start_the_horizon_shrinks_all_the_same() -> None:
    mpc, calls = control(3, 1, warm_start=False)
    plan(mpc, 4)
    assert [(length, start) for length, start in calls] == [(3, None), (2, None), (1, None), (3, None)]


def test_new_episodes_begin_with_a_whole_plan() -> None:
    mpc, calls = control(3, 1)
    plan(mpc, 2)
    mpc.reset()
    plan(mpc, 1)
    assert [length for length, _ in calls] == [3, 2, 3]


def test_episodes_that_go_on_keep_their_rest() -> None:
    mpc, calls = control(3, 1)
    plan(mpc, 1, episodes=3)
    mpc.keep([2])
    plan(mpc, 1, episodes=1)
    length, start = calls[-1]
    assert length == 2
    assert start is not None
    assert start.shape == (1, 2, 1)


def test_no_more_chunks_are_executed_than_are_left() -> None:
    mpc, _ = control(3, 2)
    plan(mpc, 1)
    with pytest.raises(PlanningError, match=r"a plan has 1 to 1 chunks to execute, found num_chunks 2"):
        plan(mpc, 1, num_chunks=2)


# -- a fixed horizon ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replan_every", [1, 3])
def test_a_replan_starts_from_the_rest_of_the_last_plan(replan_every: int) -> None:
    planner = Scripted()
    mpc = MPC(planner, replan_every=replan_every)
    first = mpc.plan(nothing, nothing, generators(1, 2))
    assert planner.warm_starts == [None]
    # The first episode is done; the second goes on with its own plan.
    mpc.keep([1])
    mpc.plan(nothing, nothing, generators(2))
    was = torch.arange(2 * HORIZON * 2.0).view(2, HORIZON, 2)[1:] + 100
    expected = torch.cat([was[:, replan_every:], was[:, -1:].expand(-1, replan_every, -1)], dim=1)
    assert planner.warm_starts[1] is not None
    torch.testing.assert_close(planner.warm_starts[1], expected)
    torch.testing.assert_close(first.chunks_BHA[1, 0, :2], was[0, 0])
    # New episodes start afresh.
    mpc.reset()
    mpc.plan(nothing, nothing, generators(1, 2))
    assert planner.warm_starts[2] is None


def test_the_planner_is_handed_the_objective() -> None:
    planner = Scripted()
    MPC(planner, replan_every=1).plan(nothing, nothing, generators(1, 2))
    assert planner.objectives == [nothing]


@pytest.mark.parametrize("replan_every", [HORIZON, None])
def test_a_plan_that_is_executed_to_its_end_leaves_no_warm_start(replan_every: int | None) -> None:
    planner = Scripted()
    mpc = MPC(planner, replan_every=replan_every)
    for _ in range(2):
        mpc.plan(nothing, nothing, generators(1))
    assert planner.warm_starts == [None, None]


def test_warm_starts_can_be_turned_off() -> None:
    planner = Scripted()
    mpc = MPC(planner, replan_every=1, warm_start=False)
    for _ in range(2):
        mpc.plan(nothing, nothing, generators(1))
    assert planner.warm_starts == [None, None]
