"""Which run a command goes on with."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from jepawm.config import EnvConfig, EvaluationConfig, PlannerConfig, RunConfig, TrainConfig, home
from jepawm.config.yaml_io import load_yaml
from jepawm.errors import ConfigError
from jepawm.runs.directory import FINISHED, prepare_run_dir

CONFIG = RunConfig(seed=3)


def test_an_unfinished_run_of_the_same_configuration_is_continued() -> None:
    first, continued = prepare_run_dir(CONFIG, "demo")
    assert not continued
    assert Path(first).parent == Path(home())
    assert Path(first).name.startswith("demo-")
    assert load_yaml(RunConfig, f"{first}/config.yaml") == CONFIG
    assert prepare_run_dir(CONFIG, "demo") == (first, True)
    # What only judges the model may change.
    judged = dataclasses.replace(CONFIG, planner=PlannerConfig(num_samples=99), evaluation=EvaluationConfig(seed=1))
    assert prepare_run_dir(judged, "demo") == (first, True)


def test_other_configurations_recipes_and_finished_runs_begin_anew() -> None:
    first, _ = prepare_run_dir(CONFIG, "demo")
    runs = {first}
    for config, recipe in (
        (dataclasses.replace(CONFIG, seed=4), "demo"),
        (dataclasses.replace(CONFIG, train=TrainConfig(batch_size=64)), "demo"),
        (dataclasses.replace(CONFIG, resume="never"), "demo"),
        (CONFIG, "folder/mine.yaml"),
    ):
        folder, continued = prepare_run_dir(config, recipe)
        assert not continued
        assert folder not in runs
        runs.add(folder)
    assert any(Path(folder).name.startswith("mine-") for folder in runs)
    for folder in runs:
        Path(folder, FINISHED).touch()
    last, continued = prepare_run_dir(CONFIG, "demo")
    assert not continued
    assert last not in runs


def test_a_given_directory_is_used_and_never_shared_by_two_configurations(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path / "mine"))
    assert prepare_run_dir(config, "demo") == (str(tmp_path / "mine"), False)
    assert prepare_run_dir(config, "demo") == (str(tmp_path / "mine"), True)
    other = dataclasses.replace(config, seed=4, train=TrainConfig(batch_size=64))
    message = r"holds a run of another configuration \(seed was 3, is 4; train.batch_size was 128, is 64\)"
    with pytest.raises(ConfigError, match=message):
        prepare_run_dir(other, "demo")
    with pytest.raises(ConfigError, match="--resume is 'never'"):
        prepare_run_dir(dataclasses.replace(config, resume="never"), "demo")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        prepare_run_dir(dataclasses.replace(config, run_dir=str(tmp_path / "photos")), "demo")


def test_a_run_that_is_named_may_be_trained_longer_and_is_unfinished_then(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path / "mine"), train=TrainConfig(num_train_steps=100))
    longer, shorter = (
        dataclasses.replace(config, train=TrainConfig(num_train_steps=steps, checkpoint_every=50))
        for steps in (150, 90)
    )
    prepare_run_dir(config, "demo")
    finished = tmp_path / "mine" / FINISHED
    finished.touch()
    assert prepare_run_dir(config, "demo")[1]
    assert finished.exists()
    with pytest.raises(ConfigError, match=r"train\.num_train_steps was 100, is 90"):
        prepare_run_dir(shorter, "demo")
    assert prepare_run_dir(longer, "demo") == (str(tmp_path / "mine"), True)
    assert not finished.exists()
    assert load_yaml(RunConfig, f"{tmp_path}/mine/config.yaml").train.num_train_steps == 150
    # A run that nobody named is another one: its schedule would change unasked.
    unfinished, _ = prepare_run_dir(dataclasses.replace(config, run_dir=None), "demo")
    assert prepare_run_dir(dataclasses.replace(longer, run_dir=None), "demo")[0] != unfinished


def test_a_damaged_earlier_run_is_not_in_the_way() -> None:
    first, _ = prepare_run_dir(CONFIG, "demo")
    Path(first, "config.yaml").write_text("train: [")
    second, continued = prepare_run_dir(CONFIG, "demo")
    assert not continued
    assert second != first


def test_a_run_is_named_by_its_name_else_by_its_recipe_else_by_its_environment() -> None:
    other_env = dataclasses.replace(CONFIG, env=EnvConfig(id="my_module:my-space/My-v1"))
    for config, stem in (
        (dataclasses.replace(CONFIG, name="tall-doors"), "tall-doors"),
        (CONFIG, "demo"),
        (other_env, "my-v1"),
        (dataclasses.replace(other_env, name="mine"), "mine"),
    ):
        folder, _ = prepare_run_dir(config, "demo")
        assert Path(folder).name.startswith(f"{stem}-2")


def test_a_run_in_another_environment_than_its_recipes_is_found_under_the_recipes_name_too() -> None:
    config = dataclasses.replace(CONFIG, env=EnvConfig(id="envs:envs/PushT-v1"))
    folder, _ = prepare_run_dir(config, "demo")
    # Such runs once were named after the recipe.
    old = Path(folder).rename(Path(home()) / "demo-20250101-000000-seed3")
    assert prepare_run_dir(config, "demo") == (str(old), True)
    Path(old, FINISHED).touch()
    assert prepare_run_dir(config, "demo")[1] is False


def test_a_run_directory_of_the_first_format_is_continued() -> None:
    folder, _ = prepare_run_dir(CONFIG, "demo")
    known = Path(folder, "config.yaml")
    data = yaml.safe_load(known.read_text())
    # Format 1 has no version, run name or later flags; 0 stands for a default; settings of all kinds are written.
    for key in ("config_version", "name", "objective"):
        data.pop(key, None)
    del data["data"]["allow_actions_out_of_bounds"]
    data["model"]["encoder"].update(depth=0, patch_size=0, num_registers=0)
    data["planner"]["proprio_weight"] = 0.0
    known.write_text(yaml.safe_dump(data))
    assert prepare_run_dir(CONFIG, "demo") == (folder, True)
