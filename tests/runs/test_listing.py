"""`jepawm runs`: which runs there are, how far they came, and how they are removed."""

import os
from pathlib import Path

import pytest

from jepawm.cli.main import main
from jepawm.config import RunConfig, home
from jepawm.config.tracking import TrackingConfig
from jepawm.errors import ConfigError
from jepawm.runs.directory import FINISHED, discard_new_run, lock_run, prepare_run_dir
from jepawm.runs.listing import find_run, list_runs, other_runs


@pytest.fixture
def unfinished() -> Path:
    folder, _ = prepare_run_dir(RunConfig(seed=3), "demo")
    (Path(folder) / "checkpoints" / "step-00000500").mkdir(parents=True)
    return Path(folder)


def test_a_run_is_found_by_name_and_by_folder(unfinished: Path, tmp_path: Path) -> None:
    (Path(home()) / "datasets").mkdir()
    (run,) = list_runs()
    assert run == find_run(unfinished.name) == find_run(str(unfinished))
    assert (run.name, run.recipe, run.env_id) == (unfinished.name, "demo", "envs:envs/Wall-v1")
    assert (run.checkpoints, run.headline) == ((500,), "500/3000 train steps")
    with pytest.raises(ConfigError, match="there is no run 'demmo'"):
        find_run("demmo")
    with pytest.raises(ConfigError, match="there is no run"):
        find_run(str(tmp_path))


def test_a_run_is_unfinished_running_or_finished(unfinished: Path) -> None:
    assert find_run(unfinished.name).state == "unfinished"
    with lock_run(str(unfinished)):
        assert find_run(unfinished.name).state == "running"
    (unfinished / FINISHED).touch()
    assert find_run(unfinished.name).state == "finished"


def test_the_commands(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    assert unfinished.name in capsys.readouterr().out
    assert main(["runs", "show", unfinished.name]) == 0
    shown = capsys.readouterr().out
    assert f"go on        jepawm train --recipe {unfinished}/config.yaml --run-dir {unfinished}" in shown
    assert main(["runs", "rm", unfinished.name]) == 2
    assert "pass --yes" in capsys.readouterr().err
    with lock_run(str(unfinished)):
        assert main(["runs", "rm", unfinished.name, "--yes"]) != 0
        assert "in use by another process" in capsys.readouterr().err
    assert main(["runs", "rm", unfinished.name, "--yes"]) == 0
    assert not unfinished.exists()
    assert main(["runs", "list"]) == 0
    assert "no runs in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "recipe", "stem"),
    [
        (RunConfig(), "demo", "demo"),
        (RunConfig(name="wide"), "demo", "wide"),
        ("envs:envs/PointMaze-v1", "demo", "pointmaze-v1"),
        ("my_package.arm:Arm", "demo", "arm"),
        ("none", "demo", "demo"),
    ],
)
def test_a_run_is_named_after_what_it_is(config: RunConfig | str, recipe: str, stem: str) -> None:
    if isinstance(config, str):
        from jepawm.config import DataConfig, EnvConfig

        config = RunConfig(env=EnvConfig(id=config), data=DataConfig(source="dataset", path="x"))
    folder, _ = prepare_run_dir(config, recipe)
    assert Path(folder).name.startswith(f"{stem}-")


def test_the_configuration_of_a_run_is_a_recipe_of_the_same_name(unfinished: Path) -> None:
    folder, continued = prepare_run_dir(RunConfig(seed=4), str(unfinished / "config.yaml"))
    assert not continued
    assert Path(folder).name.startswith("demo-")


def test_only_a_run_that_did_nothing_is_discarded(unfinished: Path) -> None:
    discard_new_run(str(unfinished))
    assert unfinished.exists()
    folder, _ = prepare_run_dir(RunConfig(seed=5), "demo")
    discard_new_run(folder)
    assert not Path(folder).exists()


def test_a_damaged_evaluation_hides_no_other_run(unfinished: Path) -> None:
    (unfinished / "eval.json").write_text("{")
    prepare_run_dir(RunConfig(seed=4, name="sound"), "demo")
    found = {run.name: run.headline for run in list_runs()}
    assert found[unfinished.name].startswith("eval.json cannot be read (JSONDecodeError: ")
    assert len(found) == 2


def test_other_runs_of_the_experiment_are_found_the_newest_first(unfinished: Path) -> None:
    def run(name: str, experiment: str, changed_s: float) -> Path:
        folder = Path(prepare_run_dir(RunConfig(name=name, tracking=TrackingConfig(experiment=experiment)), "demo")[0])
        for path in folder.iterdir():
            os.utime(path, (changed_s, changed_s))
        return folder

    older, newer, own = run("older", "jepawm", 1e9), run("newer", "jepawm", 2e9), run("own", "jepawm", 3e9)
    run("elsewhere", "ablation", 2e9)
    (newer / "report.html").touch()
    damaged = run("damaged", "jepawm", 1e9)
    (damaged / "config.yaml").write_text("config_version: 99")
    found = other_runs("jepawm", str(own))
    assert [(each.name, each.report) for each in found.runs] == [
        (newer.name, str(newer / "report.html")),
        (unfinished.name, None),
        (older.name, None),
    ]
    assert (found.num_left_out, list(found.unreadable)) == (0, [damaged.name])
    fewer = other_runs("jepawm", str(own), at_most=1)
    assert ([each.name for each in fewer.runs], fewer.num_left_out) == ([newer.name], 2)
