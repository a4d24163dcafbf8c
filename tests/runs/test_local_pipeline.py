"""The main job in one process, as a user starts it: it finishes, it is continued, and it says what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jepawm.checkpoints.model_folder import load_world_model
from jepawm.cli.main import main
from jepawm.config import RunConfig
from jepawm.config.yaml_io import load_yaml
from jepawm.tracking import read_metrics

pytestmark = pytest.mark.e2e

REPO = Path(__file__).resolve().parents[2]
SIZES = {
    "data.num-episodes": 30,
    "data.env-steps-per-episode": 40,
    "data.held-out-fraction": 0.1,
    "train.num-train-steps": 40,
    "train.batch-size": 32,
    "train.checkpoint-every": 10,
    "train.log-every": 10,
    "train.diagnostics-every": 20,
    "train.diagnostics-windows": 64,
    "planner.num-samples": 16,
    "planner.num-elites": 4,
    "planner.num-iterations": 2,
    "planner.num-iterations-warm": 1,
    "evaluation.num-episodes": 4,
    "evaluation.num-animations": 2,
    "evaluation.every-num-train-steps": 30,
    "evaluation.two-plan.max-chunks": 6,
    "evaluation.per-chunk.max-chunks": 4,
}


def command(run_dir: Path | None, **changes: Any) -> list[str]:
    sizes = {**SIZES, **{key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}}
    if run_dir is not None:
        sizes["run-dir"] = run_dir
    flags = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    return ["train", "--local", "--tracking.no-mlflow", *flags]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of all commands here: they share datasets, as a user's commands do."""
    base = tmp_path_factory.mktemp("e2e")
    # A module that cannot be imported stands in front of Ray: a local run that asks for it fails.
    (base / "no_ray" / "ray").mkdir(parents=True)
    (base / "no_ray" / "ray" / "__init__.py").write_text("raise ImportError('a local run imports no ray')\n")
    return {
        **os.environ,
        "JEPAWM_HOME": str(base / "home"),
        "JEPAWM_CACHE": str(base / "cache"),
        "PYTHONPATH": str(base / "no_ray"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def in_a_process(words: list[str]) -> list[str]:
    """The job whose words these are."""
    return [sys.executable, str(REPO / "ray_jobs" / f"{words[0]}.py"), *words[1:]]


def run(words: list[str], surroundings: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(in_a_process(words), env=surroundings, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def finished(surroundings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that went through, and what it said."""
    run_dir = tmp_path_factory.mktemp("elsewhere") / "run"
    done = run(command(run_dir), surroundings, run_dir.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return run_dir, done.stdout


def test_a_local_run_leaves_everything_behind(finished: tuple[Path, str]) -> None:
    run_dir, told = finished
    assert {entry.name for entry in run_dir.iterdir()} - {".lock"} == {
        "checkpoints",
        "config.yaml",
        "episodes.json",
        "eval.json",
        "evaluations",
        "evaluations.jsonl",
        "finished",
        "metrics.jsonl",
        "model",
        "recipe",
        "report.html",
        "usage.json",
        "wall_s.json",
    }
    # Where it was started, nothing else is left.
    assert [entry.name for entry in run_dir.parent.iterdir()] == ["run"]
    assert load_yaml(RunConfig, str(run_dir / "config.yaml")).train.num_train_steps == 40
    assert sorted(os.listdir(run_dir / "checkpoints")) == ["step-00000030", "step-00000040"]
    assert [record["train_step"] for record in read_metrics(str(run_dir / "metrics.jsonl"))] == [10, 20, 30, 40]
    assert str(run_dir) in told
    assert "one process, without Ray" in told
    for stage in ("== collect", "== train", "== evaluate", "== report", "success rate", "report.html"):
        assert stage in told, stage


def test_a_checkpoint_is_evaluated_while_training_goes_on(finished: tuple[Path, str]) -> None:
    run_dir, told = finished
    folder = run_dir / "evaluations" / "step-00000030"
    early, last = (json.loads((place / "eval.json").read_text()) for place in (folder, run_dir))
    (record,) = read_metrics(str(run_dir / "evaluations.jsonl"))
    assert record["train_step"] == 30
    assert record["model_sha256"] == early["model"]["sha256"] != last["model"]["sha256"]
    assert record["during_training/eval/two_plan/success_rate"] == early["success_rate"]
    # The same episodes as in the end, under the first protocol alone.
    assert (early["tasks_sha256"], list(early["protocols"])) == (last["tasks_sha256"], ["two_plan"])
    assert f"train step 30: two_plan {early['success_rate']:.3f}" in told
    assert f"weights {record['model_sha256'][:12]}" in told


def test_the_evaluation_file_has_what_is_promised(finished: tuple[Path, str]) -> None:
    text = (finished[0] / "eval.json").read_text()
    result = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for part in (result, result["random"], *result["protocols"].values()):
        low, high = part["success_interval"]
        assert 0 <= low <= part["success_rate"] <= high <= 1
        assert part["num_episodes"] == 4
    assert list(result["protocols"]) == ["two_plan", "per_chunk", "open_loop"]
    assert result["protocol"] == "two_plan"
    assert [episode["episode_id"] for episode in result["episodes"]] == [0, 1, 2, 3]
    solved = [episode["solved"] for episode in result["episodes"]]
    assert result["success_rate"] == sum(solved) / 4
    assert result["seed"] == 99
    assert result["config"]["train"]["num_train_steps"] == 40
    assert [row["model_steps"] for row in result["prediction"]] == [1, 2, 3, 4, 5, 6]
    assert result["dataset"]["num_episodes"] == 30
    assert len(result["dataset"]["held_out_episodes"]) == 3
    assert result["diagnostics"]["diagnostics/latent_std_mean"] > 0
    assert result["mlflow_uri"] is None
    assert set(result["wall_s"]) >= {"collect", "train", "evaluate"}
    model, spec = load_world_model(str(finished[0] / "model"))
    assert sum(parameter.numel() for parameter in model.parameters()) == result["model"]["num_parameters"]
    assert spec.planner.num_samples == 16


def test_the_report_shows_the_run(finished: tuple[Path, str]) -> None:
    page = (finished[0] / "report.html").read_text("utf-8")
    result = json.loads((finished[0] / "eval.json").read_text())
    assert f"{100 * result['success_rate']:.1f} %" in page
    # Two episodes: start, goal, rollout, and what was imagined as planned and from the start.
    assert page.count("data:image/webp") == 10
    assert "40 train steps" in page


def test_the_same_command_again_does_nothing_twice(finished: tuple[Path, str], surroundings: dict[str, str]) -> None:
    run_dir, _ = finished
    before = {name: (run_dir / name).stat().st_mtime_ns for name in ("metrics.jsonl", "checkpoints/step-00000040")}
    rates = json.loads((run_dir / "eval.json").read_text())["episodes"]
    done = run(command(run_dir), surroundings, run_dir.parent)
    assert done.returncode == 0, done.stderr
    for words in ("(continued)", "(collected earlier)", "(trained earlier)", "(sums of 2 parts)"):
        assert words in done.stdout, words
    assert {name: (run_dir / name).stat().st_mtime_ns for name in before} == before
    assert json.loads((run_dir / "eval.json").read_text())["episodes"] == rates


def end_after_checkpoint(
    name: str, number: signal.Signals, words: list[str], surroundings: dict[str, str], run_dir: Path
) -> tuple[int, str]:
    """Sends a signal to a run that has written a checkpoint; its exit code and the last line that it printed."""
    log = run_dir.parent / "log"
    with open(log, "w") as printed:
        process = subprocess.Popen(
            in_a_process(words),
            env=surroundings,
            cwd=run_dir.parent,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
        end = time.monotonic() + 120
        while not (run_dir / "checkpoints" / name).is_dir():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.005)
        os.killpg(process.pid, number)
        code = process.wait()
    assert not (run_dir / "finished").exists()
    return code, log.read_text().splitlines()[-1]


@pytest.mark.long
def test_a_run_killed_while_training_goes_on_from_its_checkpoint(surroundings: dict[str, str], tmp_path: Path) -> None:
    # Long enough that the signals come before the end.
    run_dir = tmp_path / "killed"
    sizes = {"train__num_train_steps": 400, "train__batch_size": 16, "train__diagnostics_every": 200}
    sizes["evaluation__every_num_train_steps"] = 400
    arguments = command(run_dir, evaluation__num_animations=0, evaluation__num_episodes=1, **sizes)
    code, last_line = end_after_checkpoint("step-00000010", signal.SIGTERM, arguments, surroundings, run_dir)
    kept = max(int(name[5:13]) for name in os.listdir(run_dir / "checkpoints") if ".tmp" not in name)
    assert code == 143
    assert last_line == f"interrupted by SIGTERM; the same command goes on from train step {kept} of 400"
    later = f"step-{10 * (kept // 10 + 2):08d}"
    code, _ = end_after_checkpoint(later, signal.SIGKILL, arguments, surroundings, run_dir)
    assert code == -signal.SIGKILL
    before = {record["train_step"]: record for record in read_metrics(str(run_dir / "metrics.jsonl"))}
    kept = max(int(name[5:13]) for name in os.listdir(run_dir / "checkpoints") if ".tmp" not in name)
    assert 30 <= kept < 400

    done = run(arguments, surroundings, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(continued)" in done.stdout
    assert (run_dir / "finished").exists()
    parts = json.loads((run_dir / "wall_s.json").read_text())["parts"]
    assert len(parts) == 3
    total = json.loads((run_dir / "eval.json").read_text())["wall_s"]
    assert total["train"] == pytest.approx(sum(part["train"] for part in parts))
    after = {record["train_step"]: record for record in read_metrics(str(run_dir / "metrics.jsonl"))}
    assert sorted(after) == list(range(10, 401, 10))
    # Up to the checkpoint the records are those of the killed process; what came after was computed again, to the bit.
    for step, record in before.items():
        assert record["train/loss"] == after[step]["train/loss"]
        assert (record["time_s"] == after[step]["time_s"]) == (step <= kept), step
    assert after[400]["train/seconds"] > after[kept]["train/seconds"]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and error line of a command that is refused; it runs in this process, which has imported torch."""
    code = main(words)
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("error: ")
    return code, line


def test_a_missing_dataset_is_one_line_and_exit_code_1(surroundings: dict[str, str], tmp_path: Path) -> None:
    missing = tmp_path / "nothing-here"
    done = run(command(None, data__source="dataset", data__path=missing), surroundings, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert str(missing) in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"planner__horizon": 5}, "evaluation.two_plan.replan_every (6) is longer than a plan"),
        ({"scaling__num_workers": 2}, "scaling.num_workers must be 1, found 2"),
        ({"model__encoder__name": "vit"}, "cannot be cut into patches of 14 px; set model.encoder.resize_to"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_code_2(
    changes: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, line = refused(command(tmp_path / "run", **changes), capsys)
    assert code == 2
    assert words in line
    assert not (tmp_path / "run").exists()


def test_a_model_is_evaluated_as_it_was_trained(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    model = str(finished[0] / "model")
    evaluate = ["evaluate", "--local", "--model", model]
    code, line = refused([*evaluate, "--model.predictor.num-layers", "5"], capsys)
    assert code == 2
    assert line == f"error: model.predictor.num_layers is 2 in {model}, which was trained so; leave it out"
    _, line = refused([*evaluate, "--data.frameskip", "3"], capsys)
    assert line == f"error: data.frameskip is 5 in {model}, which was trained so; leave it out"


def test_other_proprio_than_the_environments_is_refused_before_training(
    finished: tuple[Path, str], surroundings: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (source,) = (Path(surroundings["JEPAWM_HOME"]) / "datasets").glob("wall-v1-*")
    shutil.copytree(source, tmp_path / "walks")
    meta = json.loads((tmp_path / "walks" / "meta.json").read_text())
    meta["proprio"]["names"] = ["u", "v"]
    (tmp_path / "walks" / "meta.json").write_text(json.dumps(meta))
    proprio = {"model__proprio__encoding": "feature", "model__predictor__name": "adaln"}
    proprio["model__predictor__num_heads"] = "4"
    words = command(tmp_path / "run", data__source="dataset", data__path=tmp_path / "walks", **proprio)
    code, line = refused(words, capsys)
    assert code == 2
    assert "holds proprio of 2 numbers (u, v), envs:envs/Wall-v1 gives 2 (x, y)" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_run_keeps_no_place_in_its_model_and_its_configuration_is_a_recipe(
    finished: tuple[Path, str], surroundings: dict[str, str], tmp_path: Path
) -> None:
    run_dir, _ = finished
    assert load_yaml(RunConfig, str(run_dir / "model" / "config.yaml")).run_dir is None
    again = ["train", "--recipe", str(run_dir / "config.yaml"), "--run-dir", str(tmp_path / "again")]
    done = run(again, surroundings, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = (json.loads((folder / "eval.json").read_text()) for folder in (run_dir, tmp_path / "again"))
    assert after["model"]["sha256"] == before["model"]["sha256"]
    assert after["episodes"] == before["episodes"]
