"""Published settings under one word: in YAML, on the command line, in Python."""

import re
from pathlib import Path
from typing import Any

import pytest

from jepawm.config import CEMConfig, PlannerConfig, RunConfig, from_dict, to_dict
from jepawm.config.command_line import parse
from jepawm.config.yaml_io import override, resolve
from jepawm.errors import ConfigError

# What a preset leaves to the machine that plans.
OF_THE_MACHINE = {"precision", "max_candidates_per_forward", "compile", "cuda_graphs"}


@pytest.mark.parametrize("word", PlannerConfig.presets)
def test_a_preset_states_every_setting_of_its_kind(word: str) -> None:
    settings = PlannerConfig.presets[word]
    config = PlannerConfig.preset(word)
    assert set(settings) == set(to_dict(config)) - OF_THE_MACHINE
    assert from_dict(PlannerConfig, {"preset": word}) == config
    assert from_dict(PlannerConfig, to_dict(config)) == config


def test_the_presets_are_the_published_settings() -> None:
    dino_wm, jepa_wms = PlannerConfig.preset("dino_wm"), PlannerConfig.preset("jepa_wms")
    assert isinstance(dino_wm, CEMConfig)
    assert isinstance(jepa_wms, CEMConfig)
    assert (dino_wm.num_samples, dino_wm.num_elites, dino_wm.num_iterations, dino_wm.horizon) == (300, 30, 30, 5)
    assert (jepa_wms.num_samples, jepa_wms.num_elites, jepa_wms.num_iterations, jepa_wms.horizon) == (300, 10, 30, 6)
    droid = PlannerConfig.preset("jepa_wms_droid")
    assert (droid.horizon, droid.init_std, droid.action_limits) == (3, 0.1, (0.1,) * 6 + (0.75,))


def test_settings_beside_a_preset_come_before_it() -> None:
    config = from_dict(RunConfig, {"planner": {"preset": "jepa_wms", "num_samples": 64}})
    assert config.planner == PlannerConfig.preset("jepa_wms", num_samples=64)
    assert override(PlannerConfig(num_samples=9, num_elites=3), {"preset": "jepa_wms"}, "here") == PlannerConfig.preset(
        "jepa_wms"
    )


def test_a_preset_hides_the_layers_below_it_and_origins_name_it() -> None:
    below = {"planner": {"init_std": 1.5, "min_std": 0.3, "precision": "float32"}}
    config, origins = resolve(RunConfig, [("recipe", below), ("above", {"planner": {"preset": "jepa_wms_gd"}})])
    assert config.planner == PlannerConfig.preset("jepa_wms_gd", precision="float32")
    assert origins["planner.learning_rate"] == origins["planner.init_std"] == "above, preset jepa_wms_gd"
    assert origins["planner.precision"] == "recipe"


@pytest.mark.parametrize("flags", [["--planner.preset", "jepa_wms"], ["--planner.preset=jepa_wms"]])
def test_a_preset_is_one_word_on_the_command_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = parse([*flags, "--planner.num-samples", "64"])
    assert config.planner == PlannerConfig.preset("jepa_wms", num_samples=64)
    with pytest.raises(SystemExit):
        parse([*flags, "--planner.num-samples", "64", "--print-config"])
    printed = capsys.readouterr().out
    assert "num_elites: 10  # command line, preset jepa_wms" in printed
    assert "num_samples: 64  # command line\n" in printed
    with pytest.raises(SystemExit):
        parse([*flags, "--help"])
    assert "--planner.preset NAME" in capsys.readouterr().out.replace("\n", " ")


def test_a_preset_and_a_flag_that_mends_its_horizon_are_checked_together() -> None:
    config, _ = parse(["--planner.preset", "dino_wm", "--evaluation.protocols", "per_chunk"])
    assert config.planner == PlannerConfig.preset("dino_wm")
    with pytest.raises(ConfigError, match=r"replan_every .* is longer than a plan"):
        parse(["--planner.preset", "dino_wm"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"preset": "dino_vm"}, r"mine: planner\.preset: unknown 'dino_vm' \(did you mean 'dino_wm'\?\)"),
        ({"preset": 3}, r"mine: planner\.preset: unknown '3'"),
        (
            {"preset": "dino_wm", "name": "gradient"},
            r"preset 'dino_wm' is settings of planner\.name 'cem', found 'gradient'",
        ),
        ({"preset": "dino_wm", "learning_rate": 1.0}, r"unknown key 'planner\.learning_rate'"),
    ],
)
def test_a_wrong_preset_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(RunConfig, {"planner": data}, "mine")
    with pytest.raises(ConfigError, match=re.escape("preset needs one of dino_wm")):
        parse(["--planner.preset"])


def test_a_module_that_is_not_on_the_path_is_refused_with_the_way_to_put_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"No module named 'my_planner'.*export PYTHONPATH=FOLDER"):
        PlannerConfig(name="my_planner:MyConfig")
    # A module that is there, and imports what is not, is another fault.
    (tmp_path / "my_broken_planner.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"No module named 'no_such_library'$"):
        PlannerConfig(name="my_broken_planner:MyConfig")
