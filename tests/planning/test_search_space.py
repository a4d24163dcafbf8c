"""What planners search: bounds in raw units, fixed dimensions, limits, and the way to chunks and back."""

import numpy as np
import pytest
import torch
from chunk_world import (
    BALL,
    BOX,
    BOX_AND_BALL,
    FRAMESKIP,
    FREE,
    HORIZON,
    MEAN,
    STD,
    Inside,
    make_space,
)

from jepawm.errors import PlanningError
from jepawm.planning import ActionSearchSpace
from jepawm.types import ActionSpec, Statistics


def test_bounds_that_fix_every_dimension_leave_nothing_to_plan() -> None:
    with pytest.raises(
        PlanningError, match=r"nothing to plan: the bounds fix all 2 action dimensions at \[0\.5, 1\.0\]"
    ):
        make_space(ActionSpec(2, (0.5, 1.0), (0.5, 1.0)))


def test_action_limits_narrow_the_bounds_and_fix_what_they_set_to_0() -> None:
    def limited(*limits: float) -> ActionSearchSpace:
        statistics = Statistics(MEAN, STD, np.zeros(1, np.float32), np.ones(1, np.float32))
        return ActionSearchSpace(BOX, statistics, frameskip=FRAMESKIP, hold=True, limits=limits)

    wide = 9.0 * torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    high, low = limited(0.35, 0.2).to_chunks(wide)[:, :2]
    torch.testing.assert_close(high, torch.tensor([0.35, 0.2]))
    torch.testing.assert_close(low, torch.tensor([-0.3, -0.2]))
    fixed = limited(0.0, 0.2)
    assert fixed.free_d.tolist() == [False, True]
    assert (fixed.to_chunks(wide)[:, 0] == 0).all()
    with pytest.raises(
        PlanningError, match=r"action_limits needs a number for each of the 2 action dimensions, found 1"
    ):
        limited(0.3)
    with pytest.raises(
        PlanningError, match=r"leaves no action in dimension 1: its bounds are 1 to 2, its limit is 0\.5"
    ):
        ActionSearchSpace(
            ActionSpec(2, (-1.0, 1.0), (1.0, 2.0)),
            Statistics(MEAN, STD, np.zeros(1, np.float32), np.ones(1, np.float32)),
            frameskip=1,
            hold=True,
            limits=(1.0, 0.5),
        )


@pytest.mark.parametrize("hold", [True, False])
def test_chunks_and_search_vectors_are_one_and_the_same(hold: bool) -> None:
    space = make_space(BOX, hold=hold)
    search = space.project(torch.randn(20, HORIZON, space.dim, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(space.from_chunks(space.to_chunks(search)), search, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(space.to_chunks(search, clip=False), space.to_chunks(search), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [FREE, BOX, BALL, BOX_AND_BALL])
@pytest.mark.parametrize("hold", [True, False])
def test_projecting_twice_is_projecting_once(spec: ActionSpec, hold: bool) -> None:
    space = make_space(spec, hold=hold)
    search = 4 * torch.randn(50, HORIZON, space.dim, generator=torch.Generator().manual_seed(0))
    once = space.project(search)
    torch.testing.assert_close(space.project(once), once, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(space.to_chunks(once), space.to_chunks(search), rtol=1e-5, atol=1e-5)
    Inside(spec).check(space.to_chunks(search))
    if spec is FREE:
        torch.testing.assert_close(once, search, rtol=1e-4, atol=1e-5)
    else:
        assert not torch.allclose(once, search)


def test_held_actions_repeat_and_free_ones_do_not() -> None:
    held, free = make_space(hold=True), make_space(hold=False)
    assert (held.dim, free.dim) == (2, FRAMESKIP * 2)
    search = torch.randn(1, 1, 2, generator=torch.Generator().manual_seed(0))
    chunk = held.to_chunks(search)
    assert chunk.shape == (1, 1, FRAMESKIP * 2)
    expected = torch.from_numpy(MEAN) + search[0, 0] * torch.from_numpy(STD)
    torch.testing.assert_close(chunk[0, 0], expected.repeat(FRAMESKIP))
    wide = torch.randn(1, 1, FRAMESKIP * 2, generator=torch.Generator().manual_seed(0))
    actions = free.to_chunks(wide).unflatten(-1, (FRAMESKIP, 2))[0, 0]
    torch.testing.assert_close(actions, torch.from_numpy(MEAN) + wide.view(FRAMESKIP, 2) * torch.from_numpy(STD))


def test_statistics_of_another_width_are_refused() -> None:
    with pytest.raises(PlanningError, match="has 3 dimensions, the statistics 2"):
        make_space(ActionSpec(3, (-1.0,) * 3, (1.0,) * 3))
