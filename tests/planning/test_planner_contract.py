"""What every planner promises. A new planner joins `PLANNERS` and gets all of it."""

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from chunk_world import (
    BALL,
    BOX,
    BOX_AND_BALL,
    BOX_CLOSED,
    FRAMESKIP,
    HORIZON,
    MEAN,
    STD,
    Inside,
    Quadratic,
    Rippled,
    generators,
    make_space,
    targets,
    unroll,
)
from torch import Tensor

from jepawm.config import PlannerConfig, RunConfig
from jepawm.config.command_line import parse
from jepawm.config.planner import FunctionPlannerConfig
from jepawm.errors import ConfigError, PlanningError
from jepawm.latent import Latent
from jepawm.planning import ActionSearchSpace, Plan, Planner, build_planner
from jepawm.planning.base import draw_normal, score
from jepawm.types import ActionSpec, Statistics


class Case(NamedTuple):
    """How a planner is put to the test.

    Attributes:
        settings: With which it should find a good plan.
        cost_left: The share of the mean action's cost that its plan of a quadratic has at most.
        num_candidates: Candidates of an episode that it scores together, in its first iteration.
        rippled_left: The share of the way from the best plan's cost to the mean action's that its plan of a bounded
            cost with many minima has at most.
        package: What must be installed for it; None: nothing more.
    """

    settings: dict[str, Any]
    cost_left: float
    num_candidates: int
    rippled_left: float
    package: str | None = None


def narrowing(
    unroll: Any,
    objective: Any,
    space: ActionSearchSpace,
    *,
    config: FunctionPlannerConfig,
    generators: Sequence[torch.Generator],
    start_BHd: Tensor,
) -> Tensor:
    """A user's own search: the best of many plans around the best one so far, nearer and nearer."""
    best_BHd, rows = start_BHd, torch.arange(len(generators))
    for number in range(config.num_iterations):
        noise_BNHd = draw_normal(generators, (config.num_samples, *start_BHd.shape[1:]), space.device)
        noise_BNHd[:, 0] = 0
        search_BNHd = space.project(best_BHd[:, None] + config.init_std * 0.8**number * noise_BNHd)
        cost_BN = score(
            unroll, objective, space, search_BNHd, max_candidates_per_forward=config.max_candidates_per_forward
        )
        best_BHd = search_BNHd[rows, cost_BN.argmin(dim=1)]
    return best_BHd


# Every kind that searches. A new planner joins here and gets all of these tests.
PLANNERS: dict[str, Case] = {
    "cem": Case(
        {"num_samples": 256, "num_elites": 26, "num_iterations": 25, "num_iterations_warm": 10}, 0.01, 256, 0.1
    ),
    "icem": Case(
        {"num_samples": 256, "num_elites": 26, "num_iterations": 25, "num_iterations_warm": 10}, 0.01, 256, 0.1
    ),
    "mppi": Case(
        {"num_samples": 256, "num_elites": 26, "num_iterations": 25, "num_iterations_warm": 10, "temperature": 2.0},
        *(0.01, 256, 0.1),
    ),
    "predictive_sampling": Case({"num_samples": 512, "num_iterations": 8}, 0.5, 512, 0.3),
    "random_shooting": Case({"num_samples": 2048}, 0.5, 2048, 0.3),
    "gradient": Case({"num_samples": 48, "num_iterations": 40, "learning_rate": 0.2}, 0.01, 48, 0.1),
    "cem_gradient": Case(
        {"num_samples": 256, "num_elites": 26, "num_iterations": 8, "num_iterations_warm": 4, "num_gradient_steps": 15},
        *(0.01, 256, 0.1),
    ),
    # The world's costs are of whole plans, so there is no distance of a single step to the goal.
    "grasp": Case(
        {"num_samples": 48, "num_iterations": 40, "sync_every": 10, "learning_rate": 0.2, "goal_weight": 0.0},
        *(0.01, 48, 0.1),
    ),
    "function": Case(
        {"num_samples": 256, "num_iterations": 12, "function": "test_planner_contract:narrowing"}, 0.1, 256, 0.3
    ),
    # An ask and a tell take a millisecond; what it finds in more of them is tested in test_search_details.py.
    "nevergrad": Case({"num_samples": 16, "num_iterations": 8, "execute": "best"}, 0.7, 16, 0.7, "nevergrad"),
}
SEARCHING = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            case.package is not None and importlib.util.find_spec(case.package) is None,
            reason=f"{case.package} is not installed",
        ),
    )
    for name, case in PLANNERS.items()
]
BOTH = [*SEARCHING, "random"]


def make_planner(name: str, space: ActionSearchSpace, **changes: object) -> Planner:
    settings = PLANNERS[name].settings if name in PLANNERS else {}
    return build_planner(PlannerConfig(**{"name": name, "horizon": HORIZON, **settings, **changes}), space)


def plan(name: str, space: ActionSearchSpace, target: Tensor, seeds: Sequence[int], **changes: object) -> Plan:
    planner = make_planner(name, space, **changes)
    return planner.plan(unroll, Quadratic(target), generators=generators(*seeds))


def test_every_kind_that_searches_is_put_to_the_test() -> None:
    kinds, tested = {*PlannerConfig.kinds}, {*PLANNERS, "random"}
    assert kinds <= tested, (
        f"add {', '.join(sorted(kinds - tested))} to PLANNERS in tests/planning/test_planner_contract.py, and a row to "
        "the table of docs/planning.md"
    )
    assert tested <= kinds, f"PlannerConfig.kinds in jepawm/config/planner/base.py lacks {sorted(tested - kinds)}"


@pytest.mark.parametrize("name", PlannerConfig.kinds)
def test_a_kind_is_called_what_its_dataclass_says(name: str) -> None:
    kind = PlannerConfig.kind(name)
    assert kind.name == name, f"{kind.__name__}.name must be '{name}', its key in PlannerConfig.kinds"


# -- it plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("hold", [True, False])
def test_a_quadratic_is_solved(name: str, hold: bool) -> None:
    target, space = targets(0, hold=True), make_space(hold=hold)
    found = plan(name, space, target, (1, 2, 3))
    assert found.chunks_BHA.shape == (3, HORIZON, FRAMESKIP * 2)
    objective, mean = Quadratic(target), torch.zeros(3, HORIZON, space.dim)
    cost_B = objective(unroll(found.chunks_BHA[:, None]))[:, 0]
    of_mean_B = objective(unroll(space.to_chunks(mean)[:, None]))[:, 0]
    # Without holding, three times as many numbers are searched; random plans may then lose to the mean action, which
    # is always among the candidates.
    assert (cost_B <= (PLANNERS[name].cost_left if hold else 1.0) * of_mean_B).all()
    assert (found.best_cost_IB <= found.mean_elite_cost_IB).all()
    assert found.best_cost_IB.shape[1] == 3
    torch.testing.assert_close(space.to_chunks(found.search_BHd), found.chunks_BHA)


@pytest.mark.parametrize("name", SEARCHING)
def test_a_warm_start_makes_no_plan_worse(name: str) -> None:
    target, space = targets(0), make_space()
    first = plan(name, space, target, (1, 2, 3))
    again = make_planner(name, space).plan(
        unroll, Quadratic(target), generators=generators(4, 5, 6), warm_start_BHd=first.search_BHd
    )
    # Candidate 0 is the plan it starts from, so the best one is at least that good.
    of_first = Quadratic(target)(unroll(first.chunks_BHA[:, None]))[:, 0]
    assert (again.best_cost_IB[0] <= of_first + 1e-6).all()


@pytest.mark.parametrize("name", SEARCHING)
def test_a_bounded_cost_with_many_minima_is_solved(name: str) -> None:
    horizon, bound = 2, 1.2
    edge = bound * STD.astype(np.float64)
    space = make_space(ActionSpec(2, tuple(MEAN - edge), tuple(MEAN + edge)))
    centre = 1.5 * torch.rand(3, horizon, 2, generator=torch.Generator().manual_seed(5)) * torch.tensor([1.0, -1.0])
    assert (centre.abs() > bound).any(), "some of the lowest costs lie on the bound"
    objective = Rippled(centre)
    found = make_planner(name, space, horizon=horizon).plan(unroll, objective, generators=generators(1, 2, 3))
    cost_B, of_mean_B = (
        objective(unroll(space.to_chunks(plans)[:, None]))[:, 0]
        for plans in (found.search_BHd, torch.zeros_like(found.search_BHd))
    )
    lowest_B = objective.lowest_B(bound)
    assert (cost_B >= lowest_B - 1e-3).all()
    assert ((cost_B - lowest_B) / (of_mean_B - lowest_B)).max() <= PLANNERS[name].rippled_left


@pytest.mark.parametrize("name", BOTH)
def test_a_plan_carries_no_graph_and_needs_no_outer_gradients(name: str) -> None:
    target, space = targets(0), make_space(BALL)
    before = plan(name, space, target, (1, 2, 3))
    with torch.no_grad():
        inside = plan(name, space, target, (1, 2, 3))
    assert torch.equal(before.chunks_BHA, inside.chunks_BHA)
    for found in (before.chunks_BHA, before.search_BHd, before.best_cost_IB, before.mean_elite_cost_IB):
        assert not found.requires_grad


@pytest.mark.parametrize("hold", [True, False])
def test_cem_finds_the_quadratics_minimum(hold: bool) -> None:
    target, space = targets(0, hold=hold), make_space(hold=hold)
    settings = {"num_samples": 512, "num_elites": 50, "num_iterations": 40, "min_std": 0.01}
    found = plan("cem", space, target, (1, 2, 3), **settings)
    scale = torch.from_numpy(STD).repeat(FRAMESKIP)
    assert ((found.chunks_BHA - target) / scale).abs().max() < 0.1
    assert (found.mean_elite_cost_IB[-1] < 0.02 * found.mean_elite_cost_IB[0]).all()
    assert found.best_cost_IB.shape == (40, 3)


def test_cem_replans_in_fewer_iterations() -> None:
    warm = make_planner("cem", make_space()).plan(
        unroll, Quadratic(targets(0)), generators=generators(1, 2, 3), warm_start_BHd=torch.zeros(3, HORIZON, 2)
    )
    assert warm.best_cost_IB.shape == (10, 3)


# -- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("spec", [BOX, BALL, BOX_AND_BALL])
def test_candidates_and_plan_stay_inside_the_bounds(name: str, hold: bool, spec: ActionSpec) -> None:
    inside, space = Inside(spec), make_space(spec, hold=hold)
    # The best action lies far outside, so the search is pressed against the bound.
    far = torch.full((2, HORIZON, FRAMESKIP * 2), 9.0)
    planner = make_planner(name, space, init_std=3.0)
    found = planner.plan(inside, Quadratic(far), generators=generators(1, 2))
    inside.check(found.chunks_BHA)
    # A warm start outside is brought back as well, in the very first candidates.
    outside = torch.full((2, HORIZON, space.dim), 3.0)
    again = planner.plan(inside, Quadratic(far), generators=generators(1, 2), warm_start_BHd=outside)
    inside.check(again.chunks_BHA)
    if name == "cem" and spec.max_norm is not None:
        norm = found.chunks_BHA.unflatten(-1, (FRAMESKIP, 2)).norm(dim=-1)
        assert norm.min() > 0.8 * spec.max_norm


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("spec", [ActionSpec(2, (0.3, -6.0), (0.3, 6.0)), ActionSpec(2, (0.3, -np.inf), (0.3, np.inf))])
def test_a_dimension_whose_bounds_are_equal_is_fixed_and_the_other_is_searched(name: str, spec: ActionSpec) -> None:
    """Its deviation in the data may be anything: all but 0 once made an error of 5e15."""
    still = Statistics(MEAN, np.array([1e-9, STD[1]], np.float32), np.zeros(1, np.float32), np.ones(1, np.float32))
    space = ActionSearchSpace(spec, still, frameskip=FRAMESKIP, hold=True)
    target = targets(0)
    found = plan(name, space, target, (1, 2, 3))
    actions = found.chunks_BHA.unflatten(-1, (FRAMESKIP, 2))
    assert (actions[..., 0] == np.float32(0.3)).all()
    assert (found.search_BHd[..., 0] == 0).all()
    if name != "random":
        second = target.unflatten(-1, (FRAMESKIP, 2))[..., 1]
        other = (actions[..., 1] - second).square().sum(dim=(-2, -1))
        of_mean = (MEAN[1] - second).square().sum(dim=(-2, -1))
        assert (other <= PLANNERS[name].cost_left * of_mean).all()


# -- what a plan may depend on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("size", [7, 64, 300])
def test_micro_batches_do_not_change_the_plan(name: str, size: int) -> None:
    target, space = targets(0), make_space()
    whole = plan(name, space, target, (1, 2, 3))
    objective = Quadratic(target)
    planner = make_planner(name, space, max_candidates_per_forward=size)
    parts = planner.plan(unroll, objective, generators=generators(1, 2, 3))
    assert max(objective.widths) == min(size, PLANNERS[name].num_candidates)
    torch.testing.assert_close(parts.chunks_BHA, whole.chunks_BHA)
    torch.testing.assert_close(parts.best_cost_IB, whole.best_cost_IB)


@pytest.mark.parametrize("name", BOTH)
def test_an_episodes_plan_does_not_depend_on_the_others(name: str) -> None:
    target, space = targets(0), make_space(BALL)
    together = plan(name, space, target, (1, 2, 3)).chunks_BHA
    backwards = plan(name, space, target.flip(0), (3, 2, 1)).chunks_BHA
    torch.testing.assert_close(backwards.flip(0), together)
    for row, seed in enumerate((1, 2, 3)):
        alone = plan(name, space, target[row : row + 1], (seed,)).chunks_BHA
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize("name", BOTH)
def test_the_generator_fixes_the_plan(name: str) -> None:
    target = targets(0, 1)
    one, same, other = (plan(name, make_space(), target, (seed,)).chunks_BHA for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_noise_of_an_episode_comes_from_its_own_generator() -> None:
    rows = draw_normal(generators(1, 2), (3, 4), torch.device("cpu"))
    assert rows.shape == (2, 3, 4)
    assert torch.equal(rows[1], torch.randn(3, 4, generator=torch.Generator().manual_seed(2)))


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHING)
def test_a_warm_start_of_another_shape_is_refused(name: str) -> None:
    planner = make_planner(name, make_space())
    with pytest.raises(PlanningError, match=r"warm start: expected shape \[2, 4, 2\], found \[2, 3, 2\]"):
        planner.plan(unroll, Quadratic(targets(0, 2)), generators=generators(1, 2), warm_start_BHd=torch.zeros(2, 3, 2))


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_costs_that_are_not_finite_are_an_error(name: str, value: float) -> None:
    def objective(latents: Tensor) -> Tensor:
        cost = latents.sum(dim=(2, 3, 4))
        cost[1, 5] = value
        return cost

    with pytest.raises(PlanningError, match=r"candidate 5 of episode 1 in the batch is not finite"):
        make_planner(name, make_space()).plan(unroll, objective, generators=generators(1, 2))


@pytest.mark.parametrize("name", SEARCHING)
def test_costs_that_are_all_equal_are_an_error(name: str) -> None:
    def objective(latents: Tensor) -> Tensor:
        cost = latents.sum(dim=(2, 3, 4))
        cost[1] = 3.0
        return cost

    with pytest.raises(
        PlanningError, match=rf"all {PLANNERS[name].num_candidates} candidates of episode 1 in the batch cost the same"
    ):
        make_planner(name, make_space()).plan(unroll, objective, generators=generators(1, 2))


def test_candidates_that_all_lie_in_one_corner_may_cost_the_same() -> None:
    """Without a floor the spread shrinks to nothing, and the best plan lies in a corner of the bounds."""
    space = make_space(BOX_CLOSED)
    far = torch.full((1, HORIZON, FRAMESKIP * 2), 99.0)
    found = plan("cem", space, far, (1,), min_std=0.0, num_iterations=40)
    torch.testing.assert_close(found.chunks_BHA[0, 0, :2], torch.tensor(BOX_CLOSED.high))


# -- a function ------------------------------------------------------------------------------------------------------


def no_plans(*_: Any, start_BHd: Tensor, **__: Any) -> Tensor:
    return start_BHd[:, :1]


def far_away(*_: Any, start_BHd: Tensor, **__: Any) -> Tensor:
    return start_BHd + 50


def test_a_functions_plans_are_checked_and_are_no_worse_than_their_start() -> None:
    target, space = targets(0), make_space(BOX_CLOSED)
    with pytest.raises(PlanningError, match=r"no_plans must return plans of shape \[3, 4, 2\], found \[3, 1, 2\]"):
        plan("function", space, target, (1, 2, 3), function="test_planner_contract:no_plans")
    found = plan("function", space, target, (1, 2, 3), function="test_planner_contract:far_away")
    of_start, of_found = (
        Quadratic(target)(unroll(space.to_chunks(each)[:, None]))[:, 0]
        for each in (torch.zeros_like(found.search_BHd), found.search_BHd)
    )
    assert (of_found <= of_start).all()
    torch.testing.assert_close(found.best_cost_IB[0], of_found)


def test_a_function_is_named_by_module_and_attribute() -> None:
    for name, message in (("narrowing", "written module:function, found 'narrowing'"), ("math:pi", "is no function")):
        with pytest.raises(ConfigError, match=message):
            make_planner("function", make_space(), function=name)
    with pytest.raises(ConfigError, match="written module:function, found ''"):
        RunConfig(planner=PlannerConfig(name="function"))
    config, _ = parse(["--planner.name", "function", "--planner.function", "my_search:narrowing"])
    assert config.planner == PlannerConfig(name="function", function="my_search:narrowing", init_std=1.5)


# -- what else ---------------------------------------------------------------------------------------------------------


class TwoParts:
    """The world with a proprio part that never changes."""

    def __call__(self, chunks: Tensor) -> Latent:
        return Latent(unroll(chunks), torch.zeros_like(unroll(chunks)))

    def steps(self, virtual: Latent, chunks: Tensor) -> Latent:
        assert virtual.lead == (*chunks.shape[:2], chunks.shape[2] - 1)
        return self(chunks)


@pytest.mark.parametrize("name", SEARCHING)
def test_planners_hand_on_whatever_the_world_predicts(name: str) -> None:
    """An unroll may return latents of any kind, if the objective reads them."""
    target, space = targets(0), make_space()
    quadratic = Quadratic(target)
    # Noise on the latents of a second part would be drawn from the same generator.
    changes = {"virtual_noise": 0.0} if name == "grasp" else {}
    plain = plan(name, space, target, (1, 2, 3), **changes)
    found = make_planner(name, space, max_candidates_per_forward=100, **changes).plan(
        TwoParts(),
        lambda latents: quadratic(latents.visual),
        generators=generators(1, 2, 3),
    )
    torch.testing.assert_close(found.chunks_BHA, plain.chunks_BHA)


def test_random_plans_ask_no_model_and_spread_like_the_data() -> None:
    def never(_: Tensor) -> Tensor:
        raise AssertionError("a random planner needs no world model")

    seeds = range(300)
    found = make_planner("random", make_space(), init_std=0.5).plan(never, never, generators=generators(*seeds))
    actions = found.chunks_BHA.reshape(-1, FRAMESKIP, 2)[:, 0].numpy()
    np.testing.assert_allclose(actions.mean(axis=0), MEAN, atol=0.2)
    np.testing.assert_allclose(actions.std(axis=0), 0.5 * STD, rtol=0.1)
