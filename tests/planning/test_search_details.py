"""What single planners do that the others do not: noise, weights, knots, optimisers, what is executed and kept."""

import importlib.util
import math
from typing import Any

import chunk_world
import pytest
import test_planner_contract as contract
import torch
from torch import Tensor

from jepawm.config import PlannerConfig
from jepawm.errors import ConfigError, MissingDependencyError, PlanningError
from jepawm.planning import MPC, CandidateLog, build_planner
from jepawm.planning.base import draw_normal
from jepawm.planning.gradient import cost_and_gradient
from jepawm.planning.icem import coloured_basis
from jepawm.planning.mppi import draw_uniform
from jepawm.planning.random_plans import knot_weights

HORIZON = contract.HORIZON


def search(name: str, **changes: Any) -> Any:
    settings = {"horizon": HORIZON, "num_iterations": 5, **changes}
    return build_planner(PlannerConfig(name=name, **settings), contract.make_space())


# -- the cross-entropy method ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_cem_without_its_variants_is_the_plain_one_bit_for_bit(warm: bool) -> None:
    """The defaults are those of before there were variants; recorded success rates depend on them."""
    target, space = contract.targets(0), contract.make_space(contract.BALL)
    objective = contract.Quadratic(target)
    start = torch.full((3, HORIZON, 2), 0.3) if warm else None
    found = build_planner(PlannerConfig(horizon=HORIZON, num_samples=64, num_elites=8), space).plan(
        contract.unroll, objective, generators=contract.generators(1, 2, 3), warm_start_BHd=start
    )
    generators = contract.generators(1, 2, 3)
    mean = torch.zeros(3, HORIZON, 2) if start is None else start
    std = torch.ones(3, HORIZON, 2)
    for _ in range(4 if warm else 10):
        noise = draw_normal(generators, (64, HORIZON, 2), torch.device("cpu"))
        noise[:, 0] = 0
        plans = space.project(mean[:, None] + std[:, None] * noise)
        best = objective(contract.unroll(space.to_chunks(plans))).topk(8, dim=1, largest=False).indices
        elites = plans.gather(1, best[:, :, None, None].expand(-1, -1, HORIZON, 2))
        mean, std = elites.mean(dim=1), elites.std(dim=1).clamp_min(0.05)
    assert torch.equal(found.search_BHd, mean)


@pytest.mark.parametrize("name", ["cem", "icem", "mppi"])
def test_the_best_plan_is_the_cheapest_of_all_candidates(name: str) -> None:
    objective = contract.Quadratic(contract.targets(0))
    log = CandidateLog(contract.unroll, objective)
    # A momentum and a high floor keep the candidates moving, so the cheapest is not always of the last iteration.
    found = search(name, execute="best", min_std=0.5, num_samples=32, num_elites=4, num_iterations=12).plan(
        log.unroll, log.objective, generators=contract.generators(1, 2, 3)
    )
    cheapest = log.cost_BN.amin(dim=1)
    assert torch.equal(found.best_cost_IB.amin(dim=0), cheapest)
    torch.testing.assert_close(objective(contract.unroll(found.chunks_BHA[:, None]))[:, 0], cheapest)


def test_momentum_keeps_a_share_of_the_old_mean() -> None:
    plain, slow = (
        search("cem", num_iterations=1, mean_momentum=share).plan(
            contract.unroll, contract.Quadratic(contract.targets(0)), generators=contract.generators(1, 2, 3)
        )
        for share in (0.0, 0.25)
    )
    torch.testing.assert_close(slow.search_BHd, 0.75 * plain.search_BHd)


def test_a_replan_searches_with_a_spread_of_its_own() -> None:
    start = torch.full((3, HORIZON, 2), 0.3)
    spreads = {}
    for warm_start in (None, start):
        log = CandidateLog(contract.unroll, contract.Quadratic(contract.targets(0)))
        search("cem", num_samples=200, num_iterations=1, num_iterations_warm=1, init_std=0.2, init_std_warm=0.02).plan(
            log.unroll, log.objective, generators=contract.generators(1, 2, 3), warm_start_BHd=warm_start
        )
        spreads[warm_start is None] = log.chunks_BNHA.std(dim=1).mean()
    # The same noise, a tenth as wide.
    torch.testing.assert_close(spreads[True] / spreads[False], torch.tensor(10.0), rtol=0.05, atol=0)


# -- iCEM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 2, 5, 6, 25])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_is_stationary_of_unit_variance_and_its_power_falls(horizon: int, exponent: float) -> None:
    basis = coloured_basis(horizon, exponent).double()
    covariance = basis.T @ basis
    torch.testing.assert_close(covariance.diag(), torch.ones(horizon, dtype=torch.float64), rtol=0, atol=1e-6)
    if exponent == 0:
        torch.testing.assert_close(covariance, torch.eye(horizon, dtype=torch.float64), rtol=0, atol=1e-6)
    # The power at frequency k is the covariance's Fourier coefficient.
    power = torch.fft.rfft(covariance[0]).real
    for k in range(1, horizon // 2 + 1):
        assert power[k] / power[1] == pytest.approx(k**-exponent, rel=1e-4)


def test_slow_noise_moves_less_from_chunk_to_chunk() -> None:
    neighbours = [float((basis.T @ basis)[0, 1]) for basis in (coloured_basis(10, e) for e in (0.0, 1.0, 2.0, 4.0))]
    assert neighbours == sorted(neighbours)
    assert neighbours[0] == pytest.approx(0.0, abs=1e-6)
    assert neighbours[-1] > 0.7


def test_icem_draws_fewer_candidates_in_each_iteration_and_adds_the_kept_ones() -> None:
    objective = contract.Quadratic(contract.targets(0))
    search("icem", num_samples=100, num_elites=10, num_iterations=5, sample_decay=2.0, kept_elites=0.25).plan(
        contract.unroll, objective, generators=contract.generators(1, 2, 3)
    )
    # 100, 50, 25, then never below twice the elites; 3 of 10 elites are kept; the mean joins the last iteration.
    assert objective.widths == [100, 50 + 3, 25 + 3, 20 + 3, 20 + 3 + 1]


def test_kept_elites_are_candidates_of_the_next_replan_shifted() -> None:
    planner = search("icem", num_samples=20, num_elites=10, num_iterations=3, num_iterations_warm=1)
    mpc = MPC(planner, replan_every=1)
    first = mpc.plan(contract.unroll, contract.Quadratic(contract.targets(0)), contract.generators(1, 2, 3))
    assert first.elites_BKHd is not None
    assert first.elites_BKHd.shape == (3, 3, HORIZON, 2)
    # The cheapest kept elite is the plan, unless an earlier iteration had a cheaper one.
    mpc.keep([2, 0])
    log = CandidateLog(contract.unroll, contract.Quadratic(contract.targets(0)[[2, 0]]))
    mpc.plan(log.unroll, log.objective, contract.generators(4, 5))
    kept = first.elites_BKHd[[2, 0]]
    expected = torch.cat([kept[:, :, 1:], kept[:, :, -1:]], dim=2)
    # 20 are drawn; the warm start, the elites and the mean follow.
    assert log.chunks_BNHA.shape[1] == 20 + 1 + 3 + 1
    torch.testing.assert_close(log.chunks_BNHA[:, 21:24], planner.space.to_chunks(expected))
    mpc.reset()
    again = CandidateLog(contract.unroll, contract.Quadratic(contract.targets(0)))
    mpc.plan(again.unroll, again.objective, contract.generators(1, 2, 3))
    assert again.chunks_BNHA.shape[1] > 20 + 1, "three iterations of a search afresh"


def test_elites_of_another_shape_are_refused() -> None:
    with pytest.raises(PlanningError, match=r"elites: expected shape \[2, 'K', 4, 2\], found \[2, 5, 3, 2\]"):
        search("icem").plan(
            contract.unroll,
            contract.Quadratic(contract.targets(0, 2)),
            generators=contract.generators(1, 2),
            elites_BKHd=torch.zeros(2, 5, 3, 2),
        )


# -- MPPI ------------------------------------------------------------------------------------------------------------


def test_a_high_temperature_weighs_elites_alike_and_a_low_one_follows_the_best() -> None:
    cost = torch.tensor([[1.0, 1.5, 3.0]])
    even = search("mppi", temperature=1e6).weights(cost)
    torch.testing.assert_close(even, torch.full((1, 3), 1 / 3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(search("mppi", temperature=1e-3).weights(cost), torch.tensor([[1.0, 0.0, 0.0]]))
    one = search("mppi", temperature=0.5).weights(cost)
    assert float(one[0, 1] / one[0, 0]) == pytest.approx(math.exp(-1.0), rel=1e-5)
    # Costs count by their differences, so large ones lose nothing.
    torch.testing.assert_close(search("mppi", temperature=0.5).weights(cost + 1e5), one, rtol=0.02, atol=0.02)


def test_an_elite_is_drawn_with_its_weight() -> None:
    draws = draw_uniform(contract.generators(*range(50)))
    assert draws.shape == (50, 1)
    assert len(draws.unique()) == 50
    assert torch.equal(draws[7], draw_uniform(contract.generators(7))[0])
    log = CandidateLog(contract.unroll, contract.Quadratic(contract.targets(0)))
    found = search("mppi", execute="sampled", num_iterations=1, temperature=3.0).plan(
        log.unroll, log.objective, generators=contract.generators(1, 2, 3)
    )
    for row in range(3):
        same = (log.chunks_BNHA[row] == found.chunks_BHA[row]).all(dim=-1).all(dim=-1)
        assert int(same.sum()) == 1
        assert log.cost_BN[row].argsort().tolist().index(int(same.nonzero())) < 30


def test_exploration_noise_is_the_same_for_all_chunks_of_a_plan() -> None:
    still, moved = (
        search("mppi", exploration_noise=noisy, num_iterations=1).plan(
            contract.unroll, contract.Quadratic(contract.targets(0)), generators=contract.generators(1, 2, 3)
        )
        for noisy in (False, True)
    )
    assert not torch.allclose(still.search_BHd, moved.search_BHd)
    signs = (moved.search_BHd - still.search_BHd).sign()
    assert (signs == signs[:, :1]).all()


# -- predictive sampling ---------------------------------------------------------------------------------------------


def test_knots_hold_or_lead_to_the_next() -> None:
    assert torch.equal(knot_weights(4, 4, "linear"), torch.eye(4))
    assert torch.equal(knot_weights(4, 4, "zero"), torch.eye(4))
    assert torch.equal(knot_weights(3, 1, "linear"), torch.ones(3, 1))
    line = knot_weights(5, 3, "linear") @ torch.tensor([0.0, 2.0, 10.0])
    assert line.tolist() == [0.0, 1.0, 2.0, 6.0, 10.0]
    assert (knot_weights(5, 3, "zero") @ torch.tensor([0.0, 2.0, 10.0])).tolist() == [0.0, 0.0, 2.0, 2.0, 10.0]
    for horizon in range(2, 30):
        for knots in range(2, horizon + 1):
            weights = knot_weights(horizon, knots, "linear")
            torch.testing.assert_close(weights.sum(dim=1), torch.ones(horizon))
            assert weights[0, 0] == weights[-1, -1] == 1


def test_one_knot_moves_a_plan_as_a_whole() -> None:
    log = CandidateLog(contract.unroll, contract.Quadratic(contract.targets(0)))
    search("predictive_sampling", num_knots=1, num_iterations=1).plan(
        log.unroll, log.objective, generators=contract.generators(1, 2, 3)
    )
    torch.testing.assert_close(log.chunks_BNHA[:, :, 1:], log.chunks_BNHA[:, :, :1].expand(-1, -1, HORIZON - 1, -1))


# -- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "RMSprop", "AdamW", "NAdam", "Adagrad", "Rprop"])
def test_any_optimiser_of_torch_finds_the_quadratics_minimum(optimizer: str) -> None:
    target = contract.targets(0)
    objective = contract.Quadratic(target)
    found = search("gradient", optimizer=optimizer, num_samples=4, num_iterations=80, learning_rate=0.05).plan(
        contract.unroll, objective, generators=contract.generators(1, 2, 3)
    )
    assert found.best_cost_IB.shape == (81, 3)
    cost = objective(contract.unroll(found.chunks_BHA[:, None]))[:, 0]
    torch.testing.assert_close(cost, found.best_cost_IB.amin(dim=0), rtol=1e-4, atol=1e-5)
    assert (cost < 0.3 * found.best_cost_IB[0]).all()


def test_options_reach_the_optimiser_and_a_long_gradient_is_scaled_down() -> None:
    def after_one(**changes: Any) -> Tensor:
        planner = search("gradient", optimizer="SGD", num_samples=1, num_iterations=1, execute="last", **changes)
        objective = contract.Quadratic(contract.targets(0))
        return planner.plan(contract.unroll, objective, generators=contract.generators(1, 2, 3)).search_BHd

    plain = after_one(learning_rate=0.01)
    torch.testing.assert_close(after_one(learning_rate=0.01, optimizer_options=("maximize=true",)), -plain)
    clipped = after_one(learning_rate=1.0, max_gradient_norm=0.1)
    torch.testing.assert_close(clipped.flatten(1).norm(dim=1), torch.full((3,), 0.1))
    torch.testing.assert_close(clipped / 0.1, plain / plain.flatten(1).norm(dim=1)[:, None, None])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, r"torch\.optim has no 'adam' \(did you mean 'Adam'\?\)"),
        ({"optimizer": "LBFGS"}, r"'LBFGS' does not update each number by itself"),
        ({"optimizer_options": ("momentun=0.9",)}, r"torch\.optim\.Adam refuses \['momentun=0\.9'\]"),
        ({"optimizer_options": ("momentum",)}, r"expected KEY=VALUE, found 'momentum'"),
        ({"optimizer_options": ("lr=3",)}, r"'lr' is given twice, or is a setting of its own"),
        ({"optimizer_options": ("betas=[0.9",)}, r"is not YAML"),
        ({"learning_rate": 0.0}, r"planner\.learning_rate must be above 0"),
    ],
)
@pytest.mark.parametrize("name", ["gradient", "cem_gradient", "grasp"])
def test_a_wrong_optimiser_is_refused_before_anything_is_planned(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(name, **settings)


@pytest.mark.parametrize("name", ["gradient", "cem_gradient"])
def test_a_world_that_lets_no_gradient_pass_is_refused(name: str) -> None:
    objective = contract.Quadratic(contract.targets(0))
    for unroll in (lambda chunks: contract.unroll(chunks.detach()), torch.no_grad()(contract.unroll)):
        with pytest.raises(PlanningError, match=r"lets no gradient pass to the actions.*'cem'"):
            search(name).plan(unroll, objective, generators=contract.generators(1, 2, 3))


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    def objective(latents: Tensor) -> Tensor:
        # The root has a finite cost at 0 and no finite slope there.
        return (latents - latents.detach()).abs().sum(dim=(-3, -2, -1)).sqrt() + latents.sum(dim=(-3, -2, -1))

    with pytest.raises(PlanningError, match=r"the gradient of candidate 0 of episode 0 in the batch is not finite"):
        search("gradient").plan(contract.unroll, objective, generators=contract.generators(1, 2, 3))


def test_gradients_in_micro_batches_are_those_of_one_batch_and_leave_weights_alone() -> None:
    space, objective = contract.make_space(), contract.Quadratic(contract.targets(0))
    weight = torch.nn.Parameter(torch.tensor(2.0))
    plans = torch.randn(3, 10, HORIZON, 2, generator=torch.Generator().manual_seed(0))

    def unroll(chunks: Tensor) -> Tensor:
        return contract.unroll(weight * chunks)

    whole = cost_and_gradient(unroll, objective, space, plans)
    parts = cost_and_gradient(unroll, objective, space, plans, max_candidates_per_forward=3)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    assert weight.grad is None


def test_a_plan_on_its_bound_can_leave_it_again() -> None:
    space = contract.make_space(contract.BOX_CLOSED)
    target = contract.targets(0)
    corner = torch.full((3, HORIZON, 2), 9.0)
    config = PlannerConfig(name="gradient", horizon=HORIZON, num_samples=1, num_iterations_warm=60, learning_rate=0.05)
    plan = build_planner(config, space).plan(
        contract.unroll,
        contract.Quadratic(target),
        generators=contract.generators(1, 2, 3),
        warm_start_BHd=corner,
    )
    best = space.to_chunks(space.from_chunks(target))
    torch.testing.assert_close(plan.chunks_BHA, best, rtol=0.05, atol=0.05)


def test_refining_by_gradients_makes_no_plan_of_cem_worse() -> None:
    settings = {"num_samples": 32, "num_elites": 8, "num_iterations": 3}
    objective = contract.Quadratic(contract.targets(0))
    rough, fine = (
        search(name, **settings).plan(contract.unroll, objective, generators=contract.generators(1, 2, 3))
        for name in ("cem", "cem_gradient")
    )
    assert fine.best_cost_IB.shape == (3 + 21, 3)
    torch.testing.assert_close(fine.best_cost_IB[:3], rough.best_cost_IB)
    of_rough, of_fine = (objective(contract.unroll(each.chunks_BHA[:, None]))[:, 0] for each in (rough, fine))
    assert (of_fine < 0.1 * of_rough).all()


# -- Nevergrad -------------------------------------------------------------------------------------------------------


def test_without_nevergrad_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nevergrad", None)
    with pytest.raises(MissingDependencyError, match=r"pip install \"jepawm\[search\]\""):
        search("nevergrad")


@pytest.mark.skipif(importlib.util.find_spec("nevergrad") is None, reason="nevergrad is not installed")
def test_optimisers_of_nevergrad_are_chosen_by_name() -> None:
    target = contract.targets(0)
    objective = contract.Quadratic(target)
    of_mean = objective(contract.unroll(contract.make_space().to_chunks(torch.zeros(3, 1, HORIZON, 2))))[:, 0]
    for optimizer in ("CMA", "DE", "PSO"):
        found = search("nevergrad", optimizer=optimizer, num_samples=10, num_iterations=3, execute="best").plan(
            contract.unroll, objective, generators=contract.generators(1, 2, 3)
        )
        cost = objective(contract.unroll(found.chunks_BHA[:, None]))[:, 0]
        torch.testing.assert_close(cost, found.best_cost_IB.amin(dim=0))
    found = search("nevergrad", num_samples=32, num_iterations=15).plan(
        contract.unroll, objective, generators=contract.generators(1, 2, 3)
    )
    assert (objective(contract.unroll(found.chunks_BHA[:, None]))[:, 0] < 0.05 * of_mean).all()
    with pytest.raises(ConfigError, match=r"Nevergrad has no 'DiagonalCAM' \(did you mean 'DiagonalCMA'\?\)"):
        search("nevergrad", optimizer="DiagonalCAM")


# -- starts and the log ----------------------------------------------------------------------------------------------


def test_a_search_starts_from_the_cheapest_of_given_plans_and_the_rest() -> None:
    target = contract.targets(0)
    objective = contract.Quadratic(target)
    planner = chunk_world.Scripted()
    with pytest.raises(PlanningError, match=r"needs an attribute 'space'.*Scripted has none"):
        MPC(planner, replan_every=1).plan(
            contract.unroll, objective, contract.generators(1, 2, 3), starts_BMHA=target[:, None]
        )
    planner.space = contract.make_space()  # type: ignore[attr-defined]
    mpc = MPC(planner, replan_every=1)
    # Of two proposals, the second is the target itself in episode 1, the first in the others.
    starts = torch.stack([target, target + 1.0], dim=1)
    starts[1] = starts[1].flip(0)
    mpc.plan(contract.unroll, objective, contract.generators(1, 2, 3), starts_BMHA=starts)
    torch.testing.assert_close(planner.space.to_chunks(planner.warm_starts[0]), target)  # type: ignore[attr-defined]
    # The rest of the scripted plan is far away, so proposals that are worse than the target still win.
    mpc.plan(contract.unroll, objective, contract.generators(1, 2, 3), starts_BMHA=target[:, None] + 1.0)
    torch.testing.assert_close(planner.space.to_chunks(planner.warm_starts[1]), target + 1.0)  # type: ignore[attr-defined]
    # And the rest wins where proposals are farther still.
    mpc.plan(contract.unroll, objective, contract.generators(1, 2, 3), starts_BMHA=target[:, None] + 1e6)
    rest = torch.arange(3 * HORIZON * 2.0).view(3, HORIZON, 2) + 200
    torch.testing.assert_close(planner.warm_starts[2], torch.cat([rest[:, 1:], rest[:, -1:]], dim=1), rtol=1e-5, atol=0)
    with pytest.raises(PlanningError, match=r"expected raw chunks of width A = 6, found 5"):
        mpc.plan(contract.unroll, objective, contract.generators(1, 2, 3), starts_BMHA=starts[..., :5])


def test_a_good_start_makes_a_short_search_good() -> None:
    target = contract.targets(0)
    objective = contract.Quadratic(target)
    planner = search("cem", num_iterations=1, num_iterations_warm=1)
    costs = []
    for starts in (None, target[:, None]):
        found = MPC(planner, replan_every=1).plan(
            contract.unroll, objective, contract.generators(1, 2, 3), starts_BMHA=starts
        )
        costs.append(found.best_cost_IB[0])
    assert (costs[1] < 1e-3 * costs[0]).all()


def test_a_log_keeps_what_was_scored_or_the_cheapest_of_it() -> None:
    def logged(cheapest: int | None, **changes: Any) -> CandidateLog:
        log = CandidateLog(contract.unroll, contract.Quadratic(contract.targets(0)), cheapest=cheapest)
        search("cem", num_samples=50, num_elites=5, num_iterations=3, **changes).plan(
            log.unroll, log.objective, generators=contract.generators(1, 2, 3)
        )
        return log

    everything, few = logged(None), logged(7, max_candidates_per_forward=20)
    assert everything.cost_BN.shape == (3, 150)
    again = contract.Quadratic(contract.targets(0))(contract.unroll(everything.chunks_BNHA))
    torch.testing.assert_close(again, everything.cost_BN)
    cost, index = everything.cost_BN.sort(dim=1, stable=True)
    torch.testing.assert_close(few.cost_BN, cost[:, :7])
    torch.testing.assert_close(few.chunks_BNHA[1], everything.chunks_BNHA[1, index[1, :7]])
