"""Evaluations of several models and settings equal single ones; none is lost or played twice; they are compared."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_run import toy

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.cli.main import main
from jepawm.config import from_dict
from jepawm.config.tune import TuneConfig
from jepawm.console import Console
from jepawm.errors import ConfigError, JepawmError
from jepawm.runs import evaluation as evaluation_module
from jepawm.runs import evaluation_grid as grid_module
from jepawm.runs import tune as tune_module
from jepawm.runs.evaluation import evaluate_run, read_result, trained_config
from jepawm.runs.evaluation_grid import GridRequest, evaluate_grid
from jepawm.runs.pipeline import run
from jepawm.runs.points import with_point
from jepawm.runs.runtime import LocalRuntime
from jepawm.runs.trial import TrialJob, run_trial
from jepawm.tuning.description import SweepDescription
from jepawm.tuning.points import grid_choices
from jepawm.tuning.sweep_folder import SweepFolder
from jepawm.tuning.trial import TrialFolder

GRID = ("planner.num_samples=6,8", "objective.weighting=sum")
PLACE = TuneConfig()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two trained models of one environment, of two seeds."""
    folder = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPAWM_HOME", str(folder))
        patch.setattr(evaluation_module, "write_report", lambda path, *_: Path(path).write_text(""))
        for seed in (0, 1):
            config = toy(seed=seed, run_dir=str(folder / f"seed{seed}"))
            run(config, "demo", LocalRuntime(), Console(quiet=True))
        yield folder / "seed0" / "model", folder / "seed1" / "model"


def request(folders, run_dir, grid=GRID, settings=PLACE) -> GridRequest:
    configs = {str(folder): replace(trained_config(str(folder)), run_dir=str(run_dir)) for folder in folders}
    return GridRequest(configs, grid_choices(grid), settings)


class Killed(BaseException):
    """Stands for a kill: nothing after it is done."""


@pytest.fixture(scope="module")
def evaluated(models, tmp_path_factory):
    """Both models with two settings, killed in the third one; then the same command goes on."""
    asked = request(models, tmp_path_factory.mktemp("evaluated") / "grid")

    def kill_in_the_third(job, report, elsewhere=None):
        if job.number == 2:
            job.folder.start(0)
            raise Killed
        return run_trial(job, report, elsewhere)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_module, "run_trial", kill_in_the_third)
        with pytest.raises(Killed):
            evaluate_grid(asked, Console(quiet=True))
    return asked, evaluate_grid(asked, Console(quiet=True))


def test_every_model_is_evaluated_with_every_combination(evaluated, models):
    _, result = evaluated
    assert [record.point for record in result.records] == [
        {"model": str(model), "planner.num_samples": samples, "objective.weighting": "sum"}
        for model in models
        for samples in (6, 8)
    ]
    assert result.comparison.names[0] == "seed0 num_samples=6 weighting=sum"
    assert len(set(result.comparison.names)) == 4


def test_a_killed_grid_plays_no_evaluation_twice(evaluated):
    asked, result = evaluated
    assert [len(TrialFolder(record.run_dir).starts) for record in result.records] == [1, 1, 2, 1]
    again = evaluate_grid(asked, Console(quiet=True))
    assert [len(TrialFolder(record.run_dir).starts) for record in again.records] == [1, 1, 2, 1]
    assert again.comparison == result.comparison


@pytest.mark.parametrize("number", [0, 3])
def test_an_evaluation_of_a_grid_is_the_one_that_the_same_flags_give(evaluated, tmp_path, number):
    asked, result = evaluated
    point = dict(result.records[number].point)
    model_dir = point.pop("model")
    config = replace(with_point(asked.models[model_dir], point, "here"), run_dir=str(tmp_path / "alone"))
    alone = evaluate_run(config, Console(quiet=True), model_dir)
    of_grid = read_result(str(Path(result.records[number].run_dir, "eval.json")))
    assert of_grid.model.sha256 == alone.model.sha256 == weights_sha256(model_dir)
    assert of_grid.played is not None
    assert alone.played is not None
    for key in ("tasks_sha256", "episodes", "conditions"):
        assert getattr(of_grid.played, key, None) == getattr(alone.played, key, None)
    outcomes = [each.played.protocols["open_loop"].planned.episodes for each in (of_grid, alone)]
    assert outcomes[0] == outcomes[1]
    assert of_grid.config["planner"]["num_samples"] == point["planner.num_samples"]
    assert of_grid.config["objective"]["weighting"] == point["objective.weighting"]


def test_evaluations_are_compared_on_the_same_episodes(evaluated):
    _, result = evaluated
    (protocol,) = result.comparison.protocols
    assert len(protocol.rates) == 4
    assert all(each.paired is not None for each in protocol.differences)
    assert set(result.comparison.settings) >= {"planner.num_samples", "seed"}
    told = json.loads((result.folder / "comparison.json").read_text())
    assert told["names"] == list(result.comparison.names)
    page = (result.folder / "comparison.html").read_text()
    assert all(name in page for name in result.comparison.names)


def test_the_folder_tells_weights_apart(evaluated, models, tmp_path):
    """A model that is trained again at the same place is another grid."""
    moved = tmp_path / "seed0" / "model"
    shutil.copytree(models[0], moved)
    asked = request([moved], tmp_path / "grid", grid=("planner.num_samples=6,8",))
    evaluate_grid(asked, Console(quiet=True))
    from safetensors.torch import load_file, save_file

    (weights,) = moved.glob("*.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(ConfigError, match="weights_sha256"):
        evaluate_grid(asked, Console(quiet=True))


def test_an_evaluation_that_fails_is_named_after_the_others_are_compared(models, tmp_path):
    """The planner's draw fails for one point only; the table has the two others."""
    asked = request(models[:1], tmp_path / "grid", grid=("planner.num_samples=6,7,8",))

    def out_of_memory(job, report, elsewhere=None):
        if job.config.planner.num_samples == 7:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("jepawm.runs.trial.evaluate_model", lambda *_: torch.empty(2**62))
                return run_trial(job, report, elsewhere)
        return run_trial(job, report, elsewhere)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_module, "run_trial", out_of_memory)
        with pytest.raises(JepawmError, match=r"1 of 3 evaluations .* num_samples=7: RuntimeError"):
            evaluate_grid(asked, Console(quiet=True))
    told = json.loads((tmp_path / "grid" / "comparison.json").read_text())
    assert told["names"] == ["num_samples=6", "num_samples=8"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (("planner.num_samples=6,8", "train.batch_size=1,2"), "jepawm tune"),
        (("planner.number=6,8",), "unknown key 'number'|planner.number"),
        (("planner.num_samples=6,many",), "planner.num_samples.*many"),
        (("planner.num_samples=6",), "one evaluation"),
        (("subgoals.name=none,macro",), "macro"),
    ],
)
def test_a_grid_that_cannot_work_is_refused_before_anything_is_written(models, tmp_path, grid, message):
    with pytest.raises(JepawmError, match=message):
        evaluate_grid(request(models[:1], tmp_path / "grid", grid=grid), Console(quiet=True))
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"num_trials": 4}, "tune.num_trials"),
        ({"num_final": 1}, "tune.num_final"),
        ({"max_concurrent": 2}, "tune.max_concurrent"),
    ],
)
def test_settings_of_a_sweep_without_meaning_are_refused(models, tmp_path, settings, name):
    with pytest.raises(ConfigError, match=name):
        evaluate_grid(request(models, tmp_path / "grid", settings=TuneConfig(**settings)), Console(quiet=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["planner.num_samples"], "names no values"),
        (["planner.num_samples="], "names no values"),
        (["planner.num_samples=6,6"], "given twice"),
        (["planner.num_samples=6", "planner.num-samples=8"], "given twice"),
        (["planner.num_samples=[6"], "no list"),
    ],
)
def test_values_of_a_grid_that_say_nothing_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        grid_choices(words)


def test_where_evaluations_run_is_said_by_the_first_model_for_all(evaluated, models):
    """The second model's own file says another place; its weights, its planner and its episodes stay its own."""
    asked, result = evaluated
    sweep = SweepFolder(result.folder)
    told = json.loads((Path(result.folder) / "sweep.json").read_text())
    told["models"][str(models[1])]["config"] |= {"device": "cuda:99"}
    changed = SweepDescription.from_dict(told, "sweep.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SweepFolder, "description", property(lambda folder: changed))
        jobs = [TrialJob.read(sweep, number) for number in (0, 3)]
    assert [job.model_dir for job in jobs] == [str(model) for model in models]
    assert [job.config.device for job in jobs] == [asked.models[str(models[0])].device] * 2
    assert [job.config.seed for job in jobs] == [0, 1]


def test_labels_of_training_workers_do_not_place_evaluations(models, tmp_path, monkeypatch):
    """Trials of one process are refused labels, and a model that was trained with them can still be evaluated."""
    asked = request(models, tmp_path / "grid")
    first = asked.config
    scaling = replace(first.scaling, worker_labels=("market=spot",), accelerator_type="H100")
    asked = replace(asked, models=asked.models | {str(models[0]): replace(first, scaling=scaling)})
    placed = []

    def see(config, *_):
        placed.append(config.scaling)
        raise Killed

    monkeypatch.setattr(grid_module, "run_trials", see)
    with pytest.raises(Killed):
        evaluate_grid(asked, Console(quiet=True))
    assert placed == [first.scaling]


def test_values_of_a_grid_are_read_as_yaml():
    choices = grid_choices(["planner.init-std=0.5,null", "objective.weighting=last,sum", "subgoals.x=[1, 2],[3]"])
    assert {key: choice.options for key, choice in choices.items()} == {
        "planner.init_std": (0.5, None),
        "objective.weighting": ("last", "sum"),
        "subgoals.x": ([1, 2], [3]),
    }


def test_the_command_takes_models_and_a_grid(evaluated, models, tmp_path, capsys):
    words = f"--model {shlex.quote(str(models[0].parent))} {shlex.quote(str(models[1]))} --run-dir {tmp_path / 'grid'}"
    assert main(["evaluate", *shlex.split(words), "--evaluation.num-episodes", "1", "--planner.num-samples", "4"]) == 0
    out = capsys.readouterr().out
    assert "comparison.html" in out
    told = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    configs = [from_dict(type(toy()), each["config"], "sweep.json") for each in told["models"].values()]
    assert [config.planner.num_samples for config in configs] == [4, 4]
    assert [config.seed for config in configs] == [0, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model {0} {0}", "given twice"),
        ("--model {0} --model {1}", "given twice"),
        ("--model {0} {1} --action-score", "takes one --model"),
        ("--model {0} --tune.max-concurrent 2", "tune.max-concurrent"),
    ],
)
def test_words_that_make_no_grid_are_refused(models, capsys, words, message):
    try:
        code = main(["evaluate", *shlex.split(words.format(*models))])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
