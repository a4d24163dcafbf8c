"""Which points are tried: the same ones after a kill, and better ones where a search learns."""

import pytest

from jepawm.config.tune import GridSearchConfig, OptunaSearchConfig, TuneConfig
from jepawm.errors import ConfigError
from jepawm.tuning import Choice, IntRange, LogUniform, Space, Uniform
from jepawm.tuning.search import build_search
from jepawm.tuning.trial import Rung, TrialRecord

SPACE = Space(
    "mixed",
    {
        "planner.name": Choice("cem", "mppi"),
        "planner.temperature": LogUniform(0.1, 1.0, when={"planner.name": "mppi"}),
        "planner.init_std": Uniform(0.5, 2.0),
        "planner.horizon": IntRange(2, 6, step=2),
        "planner.action_limits": Choice((0.5, 1.0), None),
    },
)


def over(number, point, value, **changes) -> TrialRecord:
    record = TrialRecord(
        number, point, "finished", f"trials/{number}", metrics={"success_rate": value, "decision_ms": 1.0}
    )
    return TrialRecord(**{**record.__dict__, **changes})


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_a_search_gives_a_number_the_same_point_again_whatever_happened_to_the_process(name):
    if name == "optuna":
        pytest.importorskip("optuna")
    settings = TuneConfig(
        num_trials=6, seed=3, search={"random": TuneConfig().search, "optuna": OptunaSearchConfig(num_random=2)}[name]
    )
    points, records = [], []
    for number in range(6):
        points.append(build_search(settings, SPACE, {}).ask(number, records, points[-1:]))
        records.append(over(number, points[-1], number / 10))
    again = [
        build_search(settings, SPACE, {}).ask(number, records[:number], points[number - 1 : number])
        for number in range(6)
    ]
    assert again == points
    assert len({str(point) for point in points}) > 3


def test_another_seed_draws_other_points():
    drawn = [build_search(TuneConfig(seed=seed, num_trials=2), SPACE, {}).points_known_before() for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    # More trials begin with the same ones.
    assert build_search(TuneConfig(num_trials=9), SPACE, {}).points_known_before()[:2] == drawn[0]


def test_a_grid_has_as_many_trials_as_points():
    grid = GridSearchConfig(points_per_range=2)
    search = build_search(TuneConfig(search=grid), SPACE, {})
    assert search.num_trials == len(search.points_known_before()) == (1 + 2) * 2 * 2 * 2
    with pytest.raises(ConfigError, match="has 24 points"):
        build_search(TuneConfig(search=grid, num_trials=5), SPACE, {})
    with pytest.raises(ConfigError, match="points_per_range"):
        build_search(TuneConfig(search=GridSearchConfig()), SPACE, {})


def test_optuna_draws_near_the_points_that_did_well():
    """A score that falls with the distance from 0.7 in one direction: the later half lies nearer than the first."""
    pytest.importorskip("optuna")
    space = Space("line", {"planner.init_std": Uniform(0.0, 10.0)})
    settings = TuneConfig(num_trials=40, search=OptunaSearchConfig(num_random=10))
    records = []
    for number in range(40):
        point = build_search(settings, space, {}).ask(number, records, [])
        records.append(over(number, point, -abs(point["planner.init_std"] - 0.7)))
    distance = [-record.metrics["success_rate"] for record in records]
    assert sum(distance[20:]) < sum(distance[:10])
    assert min(distance) < 0.5


def test_optuna_hears_of_every_kind_of_trial():
    """Stopped, failed and running trials, two metrics, and a value that is not finite."""
    optuna = pytest.importorskip("optuna")
    search = build_search(TuneConfig(search=OptunaSearchConfig()), SPACE, {})
    point = {"planner.name": "cem", "planner.init_std": 1.0, "planner.horizon": 4, "planner.action_limits": [0.5, 1.0]}
    records = [
        over(0, point, 0.5),
        over(1, point, 0.0, status="stopped", rungs=(Rung(10, 0.2, 1.0), Rung(20, float("nan"), 2.0)), metrics={}),
        over(2, point, 0.0, status="failed", metrics={}, error="memory"),
        over(3, point, float("nan")),
    ]
    states = [trial.state.name for trial in search._study(4, records, [point]).trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "RUNNING"]
    assert search._study(4, records, [point]).trials[1].intermediate_values == {10: 0.2}
    two = build_search(TuneConfig(search=OptunaSearchConfig(), second_metric="decision_ms"), SPACE, {})
    study = two._study(1, records[:1], [])
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    assert study.trials[0].values == [0.5, 1.0]
    asked = two.ask(1, records, [])
    assert set(asked) >= {"planner.name", "planner.init_std", "planner.horizon", "planner.action_limits"}
