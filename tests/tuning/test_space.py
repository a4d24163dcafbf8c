"""Search spaces: what a point may hold, whichever way it is drawn."""

import numpy as np
import pytest

from jepawm.config import RunConfig
from jepawm.config.recipe_files import load_recipe
from jepawm.errors import ConfigError
from jepawm.runs.points import settings_of, with_point
from jepawm.tuning import Above, Choice, IntRange, LogUniform, Space, Uniform
from jepawm.tuning.points import SPACES, command, find_space, flags, needs_no_training, probes

PARAMETERS = [
    Choice("a", "b", "c"),
    Choice((1, 2), (3, 4)),
    Uniform(-1.0, 2.0),
    LogUniform(1e-4, 1e-1),
    IntRange(3, 12, step=3),
]
CONDITIONAL = Space(
    "conditional",
    {
        "planner.name": Choice("cem", "mppi"),
        "planner.num_samples": Choice(64, 128),
        "planner.temperature": LogUniform(0.1, 1.0, when={"planner.name": "mppi"}),
        "planner.mean_momentum": Uniform(0.0, 0.5, when={"planner.name": "cem"}),
    },
)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=repr)
def test_a_parameter_stays_inside_its_ends_and_reaches_all_of_it(parameter):
    drawn = [parameter.at(share) for share in np.linspace(0.0, 1.0, 500, endpoint=False)]
    if isinstance(parameter, Choice):
        assert set(drawn) == set(parameter.options)
        # Equal shares, up to the one draw that a border may move.
        counts = [drawn.count(option) for option in parameter.options]
        assert max(counts) - min(counts) <= 1
    else:
        low, high = parameter.ends
        assert drawn[0] == low
        assert all(low <= value <= high for value in drawn)
        assert drawn == sorted(drawn)
    assert all(
        parameter.clip(value) == pytest.approx(value) if isinstance(value, float) else parameter.clip(value) == value
        for value in drawn
    )
    grid = parameter.grid(3)
    assert set(parameter.ends) <= set(grid) if not isinstance(parameter, Choice) else grid == parameter.options


def test_a_range_ends_a_value_that_lies_outside():
    assert Uniform(0.0, 1.0).clip(1.2) == 1.0
    assert LogUniform(0.1, 1.0).clip(0.01) == 0.1
    assert IntRange(2, 8, step=2).clip(5.1) == 6
    assert IntRange(2, 8, step=2).clip(99) == 8


def test_a_logarithmic_range_is_uniform_in_the_logarithm():
    values = [LogUniform(1e-4, 1.0).at(share) for share in (0.0, 0.25, 0.5, 0.75)]
    assert np.allclose(np.log10(values), [-4, -3, -2, -1], atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Choice(),
        lambda: Uniform(1.0, 1.0),
        lambda: LogUniform(0.0, 1.0),
        lambda: IntRange(1, 6, step=2),
        lambda: Space("empty", {}),
        lambda: Space("typo", {"optim.learning_rate": 0.1}),
        lambda: Space(
            "late",
            {"planner.temperature": Uniform(0.1, 1.0, when={"planner.name": "mppi"}), "planner.name": Choice("mppi")},
        ),
    ],
)
def test_a_space_that_means_nothing_is_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_point_holds_what_its_conditions_allow_and_nothing_else():
    generator = np.random.default_rng(0)
    points = [CONDITIONAL.drawn(generator, {}) for _ in range(50)]
    for point in points:
        assert ("planner.temperature" in point) == (point["planner.name"] == "mppi")
        assert ("planner.mean_momentum" in point) == (point["planner.name"] == "cem")
    assert {point["planner.name"] for point in points} == {"cem", "mppi"}


def test_a_parameter_that_is_left_out_does_not_change_how_the_others_are_drawn():
    """So one more condition in a space leaves the draws of a sweep as they were."""
    free = Space("free", {**CONDITIONAL.parameters, "planner.temperature": LogUniform(0.1, 1.0)})
    for seed in range(10):
        bound = CONDITIONAL.drawn(np.random.default_rng(seed), {})
        unbound = free.drawn(np.random.default_rng(seed), {})
        assert all(unbound[key] == value for key, value in bound.items())


def test_a_grid_has_every_combination_once_and_refuses_ranges_without_a_number():
    points = list(CONDITIONAL.all_points({}, 3))
    assert len(points) == len({tuple(sorted(point.items())) for point in points}) == 2 * 2 * 3
    with pytest.raises(ConfigError, match=r"planner\.mean_momentum.*points_per_range"):
        list(CONDITIONAL.all_points({}, None))


def test_what_the_run_decides_is_decided_and_what_no_choice_meets_is_left_out():
    space = Space(
        "run",
        {
            "model.predictor.name": Choice("adaln", "feature", when={"model.encoder.name": "vit"}),
            "model.predictor.hidden_dim": Choice(8, 16, when={"model.predictor.name": "mlp"}),
            "loss.variance": LogUniform(1.0, 2.0, when={"loss.variance": Above(0)}),
            "loss.sigreg": LogUniform(0.1, 1.0, when={"loss.sigreg": Above(0)}),
        },
    )
    base = settings_of(RunConfig())
    assert list(space.within(base).parameters) == ["model.predictor.hidden_dim", "loss.variance"]
    assert not any(parameter.when for parameter in space.within(base).parameters.values())
    behind_vit = space.within({**base, "model.encoder.name": "vit"})
    # No choice of the predictor is an mlp.
    assert list(behind_vit.parameters) == ["model.predictor.name", "loss.variance"]
    with pytest.raises(ConfigError, match="no parameter"):
        Space("none", {"loss.sigreg": space.parameters["loss.sigreg"]}).within(base)


def test_probes_reach_every_end_of_every_parameter():
    found = {(key, point[key]) for key, point in probes(CONDITIONAL, {})}
    assert found == {(key, end) for key, parameter in CONDITIONAL.parameters.items() for end in parameter.ends}


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (recipe, name)
        for recipe in ("demo", "lewm_small", "pusht", "jepa_wm/wall", "dino_wm/wall", "vjepa2_ac/droid")
        for name in SPACES
        # Its encoder is a pretrained video model, or stands on one that is trained before.
        if (recipe, name) not in {("vjepa2_ac/droid", "encoder"), ("pusht", "encoder")}
    ],
)
def test_every_point_of_our_spaces_is_a_valid_run(recipe, name):
    base = load_recipe(recipe)
    settings = settings_of(base)
    space = find_space(name).within(settings)
    points = [point for _, point in probes(space, settings)]
    points += [space.drawn(np.random.default_rng(seed), settings) for seed in range(4)]
    for point in points:
        run = settings_of(with_point(base, point, "a point"))
        for key, value in point.items():
            assert run[key] == value


def test_two_spaces_are_joined_with_a_comma():
    both = find_space("planner,objective")
    assert list(both.parameters) == [*find_space("planner").parameters, *find_space("objective").parameters]
    assert needs_no_training(both.parameters)
    assert not needs_no_training(find_space("predictor").parameters)


def test_a_space_is_found_by_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "my_spaces.py").write_text(
        "from jepawm.tuning import Choice\n"
        "def good():\n    return {'train.batch_size': Choice(8, 16)}\n"
        "def bad():\n    return [1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find_space("my_spaces:good").parameters == {"train.batch_size": Choice(8, 16)}
    with pytest.raises(ConfigError, match="returned list"):
        find_space("my_spaces:bad")
    with pytest.raises(ConfigError, match="did you mean 'planner'"):
        find_space("planer")


def test_a_wrong_point_is_refused_with_its_values():
    with pytest.raises(ConfigError, match=r"trial 3 \(planner\.num_elites 900\): planner\.num_elites must lie"):
        with_point(RunConfig(), {"planner.num_elites": 900}, "trial 3")
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        with_point(RunConfig(), {"optim.learning_rat": 0.1}, "trial 0")


def test_the_flags_of_a_point_give_a_run_its_settings():
    from jepawm.config.command_line import parse

    point = {
        "planner.name": "mppi",
        "planner.temperature": 0.1234567890123,
        "planner.keep_mean": False,
        "data.num_frames_in_window": 5,
        "objective.step_weights": (0.5, 1.0),
        "optim.grad_clip_norm": None,
    }
    config, _ = parse(["--recipe", "demo", *flags(point)])
    settings = settings_of(config)
    assert {key: settings[key] for key in point} == {**point, "objective.step_weights": [0.5, 1.0]}
    assert command(["jepawm", "train", "--name", "two words"]) == "jepawm train --name 'two words'"
