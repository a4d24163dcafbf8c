"""Studies in one process: nothing runs twice, what is added runs alone, what fails is kept, the report has it all."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_study import STATISTICS, STUDY

from jepawm.cli.main import main
from jepawm.cli.study import changes_of
from jepawm.config import DataConfig, EnvConfig, RunConfig, TrackingConfig, from_dict, to_dict
from jepawm.config.yaml_io import save_yaml
from jepawm.console import Console
from jepawm.errors import CheckpointError, ConfigError, FolderInUseError, TrainingError
from jepawm.runs import evaluation as evaluation_module
from jepawm.runs import study as study_module
from jepawm.runs import study_trial as study_trial_module
from jepawm.runs.directory import lock_run
from jepawm.runs.study import StudyRequest, StudyResult, list_trials, run_study
from jepawm.study.records import Found, Part, StudyFolder, StudyPlan, TrialJob
from jepawm.tracking.tracker import open_client

CONV = {"settings": {"model.encoder": {"name": "conv", "latent_dim": 4}}, "seeds": [0], "fractions": [1.0]}
RANDOM = {
    "random_weights": True,
    "weights_key": "model.encoder.base.weights",
    "settings": {
        **STATISTICS,
        "model.encoder.base": {
            **{"name": "vit", "latent_dim": 8, "depth": 1, "num_heads": 2, "patch_size": 32, "trainable": False}
        },
    },
    "seeds": [0],
    "fractions": [1.0],
}
BROKEN = {"settings": {**CONV["settings"], "optim.learning_rate": 1e30}, "seeds": [0], "fractions": [1.0]}


VIT = {"settings": {"model.encoder": {"name": "vit", "latent_dim": 8, "num_heads": 2, "patch_size": 32}}}


class Killed(BaseException):
    """Stands for a kill: nothing after it is done."""


class Studies:
    """Runs a study whose file changes, and notes which trials were trained and what was measured of them."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.file = home / "study.yaml"
        self.trained: list[str] = []
        self.measured: list[tuple[str, str]] = []
        self._kill_at = ""
        run, measure = study_trial_module.run, study_trial_module._TrainedTrial.measure

        def noted(config: Any, *args: Any, **kwargs: Any) -> Any:
            self.trained.append(Path(config.run_dir).name.rpartition("-")[0])
            return run(config, *args, **kwargs)

        def measured(trial: Any, part: Part) -> dict[str, Any]:
            name = trial._folder.path.name.rpartition("-")[0]
            if part.name == "cost" and name == self._kill_at:
                raise Killed
            self.measured.append((name, part.name))
            return measure(trial, part)

        patch.setattr(study_trial_module, "run", noted)
        patch.setattr(study_trial_module._TrainedTrial, "measure", measured)

    def run(self, *, kill_at: str = "", **changes: Any) -> StudyResult:
        """Runs the study with changes to its file or to the request.

        Args:
            kill_at: Name of a trial that is killed when its cost would be measured.
            changes: Of the file; `report_only` and `retry_failed` of the request.
        """
        self.trained.clear()
        self.measured.clear()
        self._kill_at = kill_at
        flags = {name: changes.pop(name, False) for name in ("report_only", "retry_failed")}
        encoders = {**STUDY["encoders"], **changes.pop("encoders", {})}
        self.file.write_text(yaml.safe_dump({**STUDY, **changes, "encoders": encoders}))
        request = StudyRequest(str(self.file), {}, local=True, words=("encoders",), **flags)
        return run_study(request, Console(quiet=True))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    home = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPAWM_HOME", str(home))
        # The pages of single runs have tests of their own.
        patch.setattr(evaluation_module, "write_report", lambda path, *_: Path(path).write_text(""))
        yield Studies(home, patch)


@pytest.fixture(scope="module")
def told(studies):
    """What was trained by: a study that is killed, the same again, with more encoders, and the report alone."""
    more = {"conv": CONV, "random": RANDOM, "broken": BROKEN}
    seen: dict[str, Any] = {"encoders": more}
    with pytest.raises(Killed):
        studies.run(kill_at="wall-statistics-100pct-seed1")
    seen["killed"], seen["killed_measured"] = list(studies.trained), list(studies.measured)
    studies.run()
    seen["again"], seen["again_measured"] = list(studies.trained), list(studies.measured)
    studies.run(encoders=more)
    seen["added"] = list(studies.trained)
    studies.run(encoders=more)
    seen["over"] = list(studies.trained)
    studies.run(encoders=more, retry_failed=True)
    seen["retried"] = list(studies.trained)
    result = studies.run(encoders=more, report_only=True)
    seen["report"] = list(studies.trained)
    seen["result"] = result
    seen["summary"] = json.loads((result.folder / "study.json").read_text())
    return seen


def test_a_killed_study_trains_and_measures_nothing_twice(told) -> None:
    first, second = "wall-statistics-100pct-seed0", "wall-statistics-100pct-seed1"
    assert told["killed"] == [first, second]
    whole = ["probes", "feature probes", "cost", "reconstruction", "transfer other_wall"]
    assert told["killed_measured"] == [*((first, part) for part in whole), *((second, part) for part in whole[:2])]
    halves = ["wall-statistics-50pct-seed0", "wall-statistics-50pct-seed1"]
    assert told["again"] == halves
    # A decoder is trained for the first seed alone.
    rest = [(second, "cost"), (second, "transfer other_wall")]
    assert told["again_measured"] == [*rest, *((name, "probes") for name in halves)]


def test_encoders_that_are_added_run_their_own_trials_alone(told) -> None:
    assert told["added"] == [f"wall-{name}-100pct-seed0" for name in ("broken", "conv", "random")]
    assert told["over"] == told["report"] == []


def test_trials_that_failed_run_again_only_when_that_is_asked_for(told) -> None:
    assert told["retried"] == ["wall-broken-100pct-seed0"]


def test_a_report_is_written_while_another_process_runs_the_study(studies, told, monkeypatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(studies.file.parent))
    encoders = {"conv": CONV, "random": RANDOM, "broken": BROKEN}
    page = told["result"].folder / "report.html"
    page.unlink()
    with lock_run(str(told["result"].folder)):
        studies.run(encoders=encoders, report_only=True)
        with pytest.raises(FolderInUseError, match="in use by another process"):
            studies.run(encoders=encoders)
    assert "<h2>Success in wall</h2>" in page.read_text()


def test_a_trial_that_fails_is_kept_with_its_error_and_ends_nothing(told) -> None:
    assert list(told["summary"]["failed"]) == ["wall-broken-100pct-seed0"]
    assert "not finite" in told["summary"]["failed"]["wall-broken-100pct-seed0"]
    assert (told["summary"]["num_trials"], told["summary"]["num_done"]) == (7, 6)


def test_all_trials_of_an_environment_share_episodes_and_tasks(told) -> None:
    results = [json.loads(path.read_text()) for path in told["result"].folder.glob("trials/*/eval.json")]
    assert len(results) == 6
    assert len({each["dataset"]["fingerprint"] for each in results}) == 1
    assert len({each["tasks_sha256"] for each in results}) == 1
    assert told["summary"]["beware"] == ["conv, random: one seed each, so how far trainings differ is not known"]


def test_an_evaluation_reads_the_stored_features_that_its_training_read(told) -> None:
    """So its last look at held-out frames is the training's own, to the bit: encoded frames would be float32."""
    (folder,) = told["result"].folder.glob("trials/wall-statistics-100pct-seed0-*")
    trained = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    judged = json.loads((folder / "eval.json").read_text())["diagnostics"]
    assert {key: trained[key] for key in judged} == judged
    assert "diagnostics/effective_rank" in judged


def test_the_summary_has_every_measure_of_every_cell(told) -> None:
    summary = told["summary"]
    cells = {(row["encoder"], row["fraction"]) for row in summary["success"]}
    assert cells == {("statistics", 0.5), ("statistics", 1.0), ("conv", 1.0), ("random", 1.0)}
    shares = {row["fraction"]: row["train_episodes"] for row in summary["success"] if row["encoder"] == "statistics"}
    # Two of eight episodes are held out.
    assert shares == {0.5: 3, 1.0: 6}
    assert {row["model_steps"] for row in summary["prediction"]} == {1, 2}
    probed = {(row["encoder"], row["read_from"], row["target"]) for row in summary["probes"] if row["fraction"] == 1}
    targets = ("state", "change_1", "change_2")
    assert probed == {
        *(("conv", "latents", target) for target in targets),
        *(
            (name, where, target)
            for name in ("statistics", "random")
            for where in ("features", "latents")
            for target in targets
        ),
    }
    # Frozen features are probed once, at the largest share.
    assert {row["read_from"] for row in summary["probes"] if row["fraction"] == 0.5} == {"latents"}
    assert {row["encoder"] for row in summary["transfer"]} == {"statistics", "conv", "random"}
    assert {row["elsewhere"]["rate"]["num_episodes"] for row in summary["transfer"]} == {2, 4}
    drawn = {row["encoder"]: row["numbers"] for row in summary["reconstruction"]}
    head = next((told["result"].folder / "trials").glob("wall-statistics-100pct-seed0-*/model/heads/*/head.json"))
    assert json.loads(head.read_text())["training"]["job"]["optim"]["learning_rate"] == 2e-3
    assert set(drawn) == {"statistics", "conv", "random"}
    assert all(numbers["mse"]["mean"] > 0 for numbers in drawn.values())
    costs = {row["encoder"]: row["numbers"] for row in summary["cost"]}
    assert costs["statistics"]["encoder_parameters"]["mean"] < costs["random"]["encoder_parameters"]["mean"]
    # 8 x 8 cells of six numbers in two bytes each.
    assert costs["statistics"]["feature_bytes_per_frame"]["mean"] == 768
    assert costs["conv"]["latent_bytes_per_frame"]["mean"] == 16
    assert [each["what"] for each in summary["comparisons"]] == ["encoders", "share of the episodes"]


def test_random_weights_come_from_the_seed_and_stay_as_they_are(told) -> None:
    (path,) = (told["result"].folder / "encoders").glob("*.safetensors")
    from safetensors.torch import load_file

    trial = next(each for each in told["result"].trials if "random" in each.name)
    before = load_file(path)
    path.unlink()
    study_module.write_random_weights(trial)
    after = load_file(path)
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_both_reports_show_every_section_and_the_command(told) -> None:
    folder = told["result"].folder
    page, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for title in ("Success in wall", "Success against training episodes", "Prediction by horizon", "Transfer", "Cost"):
        assert f"<h2>{title}</h2>" in page
        assert f"## {title}" in markdown
    assert "jepawm study encoders" in markdown
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


def test_the_command_of_a_report_that_is_written_again_is_the_one_that_runs_trials(studies, told, monkeypatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(studies.file.parent))
    words = ("encoders", "--study", "STUDY.yaml", "--report-only", "--local")
    request = StudyRequest(str(studies.file), {}, local=True, report_only=True, words=words)
    run_study(request, Console(quiet=True))
    markdown = (told["result"].folder / "report.md").read_text()
    assert "\njepawm study encoders --study STUDY.yaml --local\n" in markdown


def test_a_study_is_a_run_at_mlflow_and_each_trial_a_run_below_it(
    studies, told, tracker_uri: str, capsys, monkeypatch
) -> None:
    """The trials are over; that they are tracked now makes none of them another trial."""
    monkeypatch.setenv("JEPAWM_HOME", str(studies.file.parent))
    tracked = {**STUDY["settings"], "tracking.mlflow": True, "tracking.mlflow_uri": tracker_uri}
    result = studies.run(encoders=told["encoders"], settings=tracked)
    assert studies.trained == []
    client = open_client(tracker_uri)
    found = {
        run.info.run_name.rpartition("-")[0]: run
        for run in client.search_runs([client.get_experiment_by_name("jepawm").experiment_id])
    }
    above = found.pop("study")
    assert (above.info.status, above.data.tags["kind"]) == ("FINISHED", "study")
    rates = {
        f"success/{row['environment']}/{row['encoder']}/{100 * row['fraction']:g}pct": (
            row["planned"]["rate"]["success_rate"]
        )
        for row in told["summary"]["success"]
    }
    assert above.data.metrics == rates
    assert {item.path for item in client.list_artifacts(above.info.run_id)} == {
        "study.json",
        "report.html",
        "report.md",
    }
    assert set(found) == {trial.name for trial in result.trials}
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {above.info.run_id}
    one = found["wall-statistics-100pct-seed1"]
    assert one.info.status == "FINISHED"
    assert {key: one.data.tags[f"study.{key}"] for key in ("environment", "encoder", "share")} == {
        "environment": "wall",
        "encoder": "statistics",
        "share": "100 %",
    }
    assert one.data.params["seed"] == "1"
    assert {"train/loss", "eval/success_rate", "trial/seconds", "trial/transfer_other_wall/solved"} <= set(
        one.data.metrics
    )
    assert found["wall-broken-100pct-seed0"].info.status == "FAILED"
    assert "finite" in found["wall-broken-100pct-seed0"].data.tags["error"]
    # The plan names the tracker, and every trial of it is there.
    assert synced(result.folder, capsys) == 0


def test_what_a_trial_found_later_is_sent_to_the_tracker_of_the_plan(tmp_path: Path, tracker_uri: str, capsys) -> None:
    study, part = StudyFolder(tmp_path / "study-small"), Part("cost")
    tracking = {"mlflow_uri": tracker_uri, "experiment": "mine"}
    labels = {"environment": "wall", "encoder": "conv", "share": "100 %"}
    run = RunConfig(env=EnvConfig(id="none"), data=DataConfig(source="dataset", path="nowhere"))
    config = to_dict(run)
    trials = [study.trial(which, f"wall-conv-100pct-seed{seed}") for seed, which in enumerate(("abc", "def"))]
    for seed, (which, trial) in enumerate(zip(("abc", "def"), trials, strict=True)):
        trial.begin(TrialJob(which, trial.path.name, {**config, "seed": seed}, "demo", (part,)))
    study.begin(StudyPlan({"abc": labels, "def": labels, "not begun": labels}, tracking))
    trials[0].write(Found(seconds=1.0, error="out of memory"))
    parts = {part.key: {"encode_ms": 3.0}, "with other settings": {"encode_ms": 9.0}}
    trials[1].write(Found(seconds=2.0, evaluated=True, parts=parts))

    def at_tracker() -> dict[str, Any]:
        client = open_client(tracker_uri)
        mine = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
        return {run.info.run_name: run for run in mine}

    assert synced(study.path, capsys) == 2
    found = at_tracker()
    assert set(found) == {"study-small", *(trial.path.name for trial in trials)}
    assert found["study-small"].info.status == "KILLED"
    failed, done = (found[trial.path.name] for trial in trials)
    assert (failed.info.status, failed.data.tags["error"]) == ("FAILED", "out of memory")
    assert done.data.metrics == {"trial/seconds": 2.0, "trial/cost/encode_ms": 3.0}

    trials[0].write(Found(seconds=1.5, error="a full disk"))
    assert synced(study.path, capsys) == 1
    assert at_tracker()[trials[0].path.name].data.tags["error"] == "a full disk"
    trials[0].write(Found(seconds=4.0, evaluated=True, parts={part.key: {"encode_ms": 5.0}}))
    study.begin(StudyPlan({"abc": labels, "def": labels}, tracking))
    assert synced(study.path, capsys) == 1
    found = at_tracker()
    mended = found[trials[0].path.name]
    assert (mended.info.status, mended.data.tags["error"]) == ("FINISHED", "")
    assert mended.data.metrics["trial/seconds"] == 4.0
    assert found["study-small"].info.status == "FINISHED"
    # A trial that is sent by itself, as a model is that gets registered, is not new because of it.
    save_yaml(replace(run, tracking=from_dict(TrackingConfig, tracking)), trials[1].path / "config.yaml")
    assert main(["track", "sync", str(trials[1].path)]) == 0
    assert synced(study.path, capsys) == 0


def test_a_trial_that_cannot_be_read_is_named_and_keeps_no_other_back(tmp_path: Path, tracker_uri: str, capsys) -> None:
    study = StudyFolder(tmp_path / "study-old")
    config = to_dict(RunConfig(env=EnvConfig(id="none"), data=DataConfig(source="dataset", path="nowhere")))
    for which, plain in (("abc", {**config, "sead": 0}), ("def", config)):
        study.trial(which, "trial").begin(TrialJob(which, "trial", plain, "demo", ()))
        study.trial(which).write(Found(seconds=1.0, evaluated=True))
    study.begin(StudyPlan({"abc": {}, "def": {}}, {"mlflow_uri": tracker_uri}))
    assert main(["track", "sync", str(study.path)]) == 0
    out = capsys.readouterr().out
    assert "1 trials sent" in out
    assert "trial-abc was not sent: " in out
    assert "unknown key 'sead'" in out


def synced(folder: Path, capsys) -> int:
    """Trials that `jepawm track sync` sends of a study."""
    capsys.readouterr()
    assert main(["track", "sync", str(folder)]) == 0
    return int(re.findall(r"(\d+) trials sent", capsys.readouterr().out)[0])


def test_a_list_says_what_is_over_and_writes_nothing(studies, told, capsys, monkeypatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(studies.file.parent))
    before = sorted(told["result"].folder.rglob("*"))
    list_trials(StudyRequest(str(studies.file), {}, local=True), Console())
    text = capsys.readouterr().out
    assert text.count(" over ") == 7
    assert "7 trials in" in text
    assert sorted(told["result"].folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoders": {"given": {**VIT, "needs_weights": True, "weights": "no/such/file"}}},
            "wall-given-100pct-seed0: weight file not found",
        ),
        ({"encoders": {"conv": {"settings": {"model.encoder.latent_dims": 3}}}}, "unknown key"),
        ({"encoders": {"random": {"random_weights": True, "settings": {"model.encoder.name": "vit"}}}}, "stays random"),
        ({"settings": {"max_gpu_hours": 1.0}}, "max_gpu_hours ends a run at a checkpoint"),
        ({"settings": {"evaluation.every_num_train_steps": 4}}, "evaluates while training goes on"),
        ({"settings": {"env.id": "none", "data.path": "x", "data.source": "dataset"}}, "env.id is 'none'"),
        (
            {"transfers": {"maze": {"trained_on": "wall", "settings": {"evaluation.goal_source": "held_out"}}}},
            "belong to the environment of the training",
        ),
    ],
)
def test_a_study_that_cannot_work_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    study = {**STUDY, "seeds": [0], "fractions": [1.0], **changes}
    if "settings" in changes:
        study["settings"] = {**STUDY["settings"], **changes["settings"]}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        run_study(StudyRequest(str(file), {}, folder=str(tmp_path / "out"), local=True), Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "name": "never-run"}))
    with pytest.raises(ConfigError, match="nothing was run"):
        run_study(StudyRequest(str(file), {}, folder=str(tmp_path / "out"), report_only=True), Console(quiet=True))
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainingError, match="none was begun"):
        run_study(StudyRequest(str(file), {}, folder=str(tmp_path / "out"), report_only=True), Console(quiet=True))


def test_flags_are_keys_of_the_file_with_yaml_values() -> None:
    words = ["--encoders.my-vit.needs-weights", "true", "--seeds=[0, 2]", "--encoders.my-vit.weights", "RUN/encoder"]
    assert changes_of(words) == {
        "encoders.my-vit.needs_weights": True,
        "seeds": [0, 2],
        "encoders.my-vit.weights": "RUN/encoder",
    }
    with pytest.raises(ConfigError, match="needs a value"):
        changes_of(["--seeds"])
    with pytest.raises(ConfigError, match="belongs to no flag"):
        changes_of(["seeds", "[0]"])
