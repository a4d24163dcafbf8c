"""Sweeps in one process: trials are runs, a kill loses none of them, and none runs twice."""

import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toy_run import TOY, toy

from jepawm.config import ScalingConfig
from jepawm.config.command_line import parse
from jepawm.config.tune import ASHAConfig, GridSearchConfig, MedianConfig, PBTConfig, TuneConfig
from jepawm.console import Console
from jepawm.errors import ConfigError, FolderGoneError, TrainingError
from jepawm.runs import evaluation as evaluation_module
from jepawm.runs import trial as trial_module
from jepawm.runs.evaluation import trained_config
from jepawm.runs.fresh_episodes import evaluate_again, fresh_seed
from jepawm.runs.points import settings_of
from jepawm.runs.sweep_checks import SweepRequest, check_sweep
from jepawm.runs.takeover import finish_takeover, take_over
from jepawm.runs.trial import TrialJob, run_trial, settle
from jepawm.runs.trials import Trials
from jepawm.runs.tune import tune
from jepawm.training.checkpoint import newest_checkpoint
from jepawm.tuning import Choice, LogUniform, Space
from jepawm.tuning.search import build_search
from jepawm.tuning.sweep_folder import SweepFolder
from jepawm.tuning.trial import Rung, Takeover, TrialFolder

SPACE = Space("small", {"optim.learning_rate": LogUniform(1e-4, 1e-2), "model.predictor.hidden_dim": Choice(8, 16)})
SETTINGS = TuneConfig(num_trials=3, num_final=1, final_episodes=3)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One `$JEPAWM_HOME` for all sweeps here, so that they share their episodes."""
    folder = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPAWM_HOME", str(folder))
        # The pages of single runs have tests of their own, and take most of the time of a run this small.
        patch.setattr(evaluation_module, "write_report", lambda path, *_: Path(path).write_text(""))
        yield folder


class Killed(BaseException):
    """Stands for a kill: nothing after it is done."""


def request(home: Path, name: str, settings: TuneConfig = SETTINGS, **changes) -> SweepRequest:
    return SweepRequest(toy(run_dir=str(home / name), **changes), "demo", settings, SPACE)


@pytest.fixture(scope="module")
def swept(home):
    """A sweep whose driver is killed in its second trial, and again between a trial and its line; then goes on."""
    asked = request(home, "killed")
    seen: list[int] = []

    def kill_in_the_second(job, report, elsewhere=None):
        if job.number == 1 and not job.folder.starts:
            job.folder.start(0)
            raise Killed
        return run_trial(job, report, elsewhere)

    def kill_before_the_line(trials, record):
        if record.number == 1:
            raise Killed
        finish(trials, record)

    from jepawm.runs import tune as tune_module

    finish = tune_module.Trials.finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_module, "run_trial", kill_in_the_second)
        with pytest.raises(Killed):
            tune(asked, Console(quiet=True))
        patch.setattr(tune_module.Trials, "finish", kill_before_the_line)
        with pytest.raises(Killed):
            tune(asked, Console(quiet=True))

        def note_and_finish(trials, record):
            seen.append(record.number)
            finish(trials, record)

        patch.setattr(tune_module.Trials, "finish", note_and_finish)
        patch.setattr(tune_module, "run_trial", run_trial)
        result = tune(asked, Console(quiet=True))
    return asked, result, seen


def test_a_killed_sweep_loses_no_trial_and_runs_none_twice(swept, home):
    _, result, seen = swept
    assert [record.number for record in result.records] == [0, 1, 2]
    assert {record.status for record in result.records} == {"finished"}
    starts = [len(TrialFolder(record.run_dir).starts) for record in result.records]
    # The second one was taken up again after the kill; when it was over, nothing took it up once more.
    assert starts == [1, 2, 1]
    # The last command ran the last trial alone.
    assert seen == [2]
    lines = [json.loads(line) for line in (result.folder / "trials.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2]
    for line in lines:
        steps = [
            json.loads(each)["train_step"] for each in Path(line["run_dir"], "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.long
def test_a_killed_sweep_ends_as_an_uninterrupted_one(swept, home):
    _, killed, _ = swept
    whole = tune(request(home, "whole"), Console(quiet=True))
    for one, other in zip(killed.records, whole.records, strict=True):
        assert one.point == other.point
        timeless = {
            key: value for key, value in one.metrics.items() if not re.search(r"_ms|_s\b|seconds|wait|per_s", key)
        }
        # A probe of a number that does not vary is not a number.
        assert {key: other.metrics[key] for key in timeless} == pytest.approx(timeless, nan_ok=True, abs=0)
    assert killed.best is not None
    assert whole.best is not None
    assert killed.best.number == whole.best.number


def test_all_trials_share_one_dataset(swept, home):
    assert len(list((home / "datasets").glob("*/meta.json"))) == 1


def test_the_best_trials_are_played_again_on_episodes_that_chose_none_of_them(swept):
    asked, result, _ = swept
    assert len(result.finals) == 1
    told = json.loads((result.folder / "final.json").read_text())
    assert told["seed"] == fresh_seed(SETTINGS, asked.config.evaluation.seed) != asked.config.evaluation.seed
    for final in result.finals:
        assert (final.in_sweep.num_episodes, final.fresh.num_episodes) == (2, 3)
        assert final.drop == final.in_sweep.success_rate - final.fresh.success_rate
        evaluated = json.loads(Path(final.run_dir, "eval.json").read_text())
        trained = json.loads((Path(result.folder) / "trials" / f"{final.number:03d}" / "eval.json").read_text())
        assert evaluated["model"]["sha256"] == trained["model"]["sha256"]
        assert evaluated["tasks_sha256"] != trained["tasks_sha256"]
        assert evaluated["seed"] == told["seed"]
    # They are not played twice, and one process plays them however many workers trained.
    job = TrialJob.read(SweepFolder(result.folder), result.finals[0].number)
    wide = replace(job, config=replace(job.config, local=False, scaling=ScalingConfig(num_workers=2)))
    assert evaluate_again(wide, SweepFolder(result.folder).final_dir(job.number)) == result.finals[0]


def test_the_command_repeats_the_best_trial(swept):
    _, result, _ = swept
    assert result.command is not None
    words = shlex.split(result.command)
    assert words[:4] == ["jepawm", "train", "--recipe", "demo"]
    repeated, _ = parse(words[2:])
    best = result.best
    assert best is not None
    assert repeated.optim.learning_rate == best.point["optim.learning_rate"]
    assert repeated.model.predictor.hidden_dim == best.point["model.predictor.hidden_dim"]


def test_the_page_shows_trials_settings_and_fresh_episodes(swept):
    _, result, _ = swept
    text = (result.folder / "report.html").read_text()
    for words in ("optim.learning_rate", "fresh episodes", "success_rate against cost", "Which settings mattered"):
        assert words in text
    # Table of trials, coordinates, cost and intervals.
    assert text.count("<svg") == 3
    assert "<script" not in text


def test_training_states_of_trials_that_are_over_do_not_fill_the_disk(swept):
    _, result, _ = swept
    assert not list(result.folder.glob("trials/*/checkpoints"))
    assert len(list(result.folder.glob("trials/*/model/model.safetensors"))) == 3


def test_another_sweep_does_not_take_the_folder(swept, home):
    asked, result, _ = swept
    other = replace(asked, settings=replace(SETTINGS, seed=1))
    with pytest.raises(ConfigError, match=r"another sweep \(settings seed was 0, is 1\)"):
        tune(other, Console(quiet=True))
    # More trials are the same sweep.
    known = SweepFolder(result.folder).description
    assert known is not None
    assert SweepFolder(result.folder).begin(replace(known, settings={**known.settings, "num_trials": 9}))
    SweepFolder(result.folder).begin(known)


def test_a_planner_is_tuned_on_a_trained_model_and_nothing_trains(swept, home):
    _, result, _ = swept
    model = str(Path(result.best.run_dir) / "model")
    space = Space("planner", {"planner.num_samples": Choice(4, 5), "objective.distance": Choice("l1")})
    settings = TuneConfig(search=GridSearchConfig(), num_final=0, second_metric="decision_ms")
    swept_planner = tune(
        SweepRequest(replace(trained_config(model), run_dir=str(home / "planner")), "demo", settings, space, model),
        Console(quiet=True),
    )
    assert len(swept_planner.records) == 2
    assert not list(swept_planner.folder.glob("trials/*/metrics.jsonl"))
    shas = {json.loads(path.read_text())["model"]["sha256"] for path in swept_planner.folder.glob("trials/*/eval.json")}
    assert len(shas) == 1
    played = [json.loads(Path(record.run_dir, "eval.json").read_text())["config"] for record in swept_planner.records]
    for record, config in zip(swept_planner.records, played, strict=True):
        assert config["planner"]["num_samples"] == record.point["planner.num_samples"]
        assert config["objective"]["distance"] == record.point["objective.distance"]
        assert record.metrics["decision_ms"] > 0
    assert str(swept_planner.command).startswith(f"jepawm evaluate --model {model}")


def test_a_trial_that_fails_is_told_and_the_others_go_on(home):
    settings = replace(SETTINGS, metric="validation/error_9", mode="min", num_trials=1)
    with pytest.raises(TrainingError, match=r"1 of 1 failed; trial 0: tune.metric 'validation/error_9' is not among"):
        tune(request(home, "wrong-metric", settings), Console(quiet=True))
    assert json.loads((home / "wrong-metric" / "trials" / "000" / "result.json").read_text())["status"] == "failed"


def test_an_error_of_the_code_fails_its_trial_with_a_traceback(home, monkeypatch):
    def broken(*_, **__):
        raise ValueError("of the code")

    monkeypatch.setattr(trial_module, "run", broken)
    with pytest.raises(TrainingError, match=r"1 of 1 failed; trial 0: ValueError: of the code \(see .*error\.txt\)"):
        tune(request(home, "broken", replace(SETTINGS, num_trials=1)), Console(quiet=True))
    assert "in broken" in (home / "broken" / "trials" / "000" / "error.txt").read_text()


# -- rungs -----------------------------------------------------------------------------------------------------------


def begun(home: Path, name: str, settings: TuneConfig) -> tuple[SweepFolder, TrialJob]:
    """The first trial of a sweep, before it runs."""
    asked = request(home, name, settings)
    sweep = SweepFolder(home / name)
    from jepawm.runs.tune import describe

    sweep.begin(describe(asked))
    sweep.trial(0).begin(0, {"optim.learning_rate": 0.001, "model.predictor.hidden_dim": 8})
    return sweep, TrialJob.read(sweep, 0)


@pytest.fixture(scope="module")
def rungs() -> TuneConfig:
    return replace(SETTINGS, scheduler=MedianConfig(every=2, metric="validation/error_1", mode="min"))


def test_a_trial_is_compared_at_its_rungs_and_goes_on_after_a_kill_with_what_it_showed(swept, home, rungs):
    sweep, job = begun(home, "rungs", rungs)
    shown: list[tuple[int, float, bool]] = []

    def kill_at_the_second(rung: Rung, checkpoint: str | None) -> None:
        shown.append((rung.train_step, rung.value, checkpoint is not None))
        if len(shown) == 2:
            raise Killed

    with pytest.raises(Killed):
        run_trial(job, kill_at_the_second)
    record = run_trial(
        TrialJob.read(sweep, 0), lambda rung, place: shown.append((rung.train_step, rung.value, place is not None))
    )
    assert record.status == "finished"
    # Rungs 2 and 4; then the new scheduler is told of both again, the second with its checkpoint, and none is trained
    # or measured twice.
    assert [(step, kept) for step, _, kept in shown] == [(2, True), (4, True), (2, False), (4, True)]
    assert (
        [value for _, value, _ in shown[:2]]
        == [value for _, value, _ in shown[2:]]
        == [rung.value for rung in record.rungs]
    )
    assert [start["train_step"] for start in sweep.trial(0).starts] == [0, 4]
    metrics = [json.loads(line) for line in (sweep.trial(0).path / "metrics.jsonl").read_text().splitlines()]
    assert {rung.train_step: rung.value for rung in record.rungs} == {
        line["train_step"]: line["validation/error_1"] for line in metrics if line["train_step"] in (2, 4)
    }


def test_a_rung_may_be_an_evaluation_and_changes_nothing_of_the_training(swept, home, rungs):
    """The same weights at the end, whether checkpoints were played on the way or not."""
    weights = []
    for name, scheduler in (("plain", rungs.scheduler), ("played", MedianConfig(every=2))):
        sweep, job = begun(home, f"rungs-{name}", replace(rungs, scheduler=scheduler))
        record = run_trial(job, lambda rung, place: None)
        assert record.status == "finished"
        weights.append(json.loads((sweep.trial(0).path / "eval.json").read_text())["model"]["sha256"])
        if name == "played":
            assert all(rung.value in (0.0, 0.5, 1.0) for rung in record.rungs)
    assert weights[0] == weights[1]


def test_a_trial_that_its_scheduler_ended_is_kept_as_stopped(swept, home, rungs):
    sweep, job = begun(home, "stopped", rungs)

    def end(rung: Rung, checkpoint: str | None) -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        run_trial(job, end)
    assert sweep.trial(0).result is None
    record = settle(sweep, 0, stopped=True)
    assert (record.status, [rung.train_step for rung in record.rungs]) == ("stopped", [2])
    assert record.seconds == record.rungs[-1].seconds > 0
    # It is over: it does not run again.
    assert run_trial(TrialJob.read(sweep, 0), end) == record
    assert not (sweep.trial(0).path / "checkpoints").exists()


def test_a_result_that_a_network_file_system_shows_late_is_waited_for(swept, home, rungs, monkeypatch):
    """The trial has ended by itself, so it has a result; that this node does not see it yet is no stop."""
    sweep, job = begun(home, "late", rungs)
    record = run_trial(job, lambda rung, checkpoint: None)
    result = sweep.trial(0).path / "result.json"
    hidden = result.rename(result.with_name("hidden"))

    def refresh(folder: str) -> list[str]:
        hidden.rename(result)
        return []

    with monkeypatch.context() as patched:
        patched.setattr(trial_module.os, "listdir", refresh)
        assert settle(sweep, 0) == record
    assert record.status == "finished"
    # Never seen: the trial failed, and says which file is missing.
    result.unlink()
    monkeypatch.setattr(trial_module, "RESULT_TIMEOUT_S", 0.0)
    lost = settle(sweep, 0)
    assert lost.status == "failed"
    assert f"{result} was not seen within 0 s" in lost.error


def test_a_trial_whose_folder_goes_away_has_not_failed(swept, home, rungs):
    sweep, job = begun(home, "gone", rungs)
    place = sweep.trial(0).path

    def unmount(rung: Rung, checkpoint: str | None) -> None:
        if rung.train_step == 2:
            place.rename(place.with_name("away"))

    with pytest.raises(FolderGoneError, match="trials/000 went away"):
        run_trial(job, unmount)
    assert not place.exists()
    place.with_name("away").rename(place)
    assert sweep.trial(0).result is None
    assert run_trial(TrialJob.read(sweep, 0), lambda rung, checkpoint: None).status == "finished"


def test_a_line_of_a_trial_is_appended_and_the_results_of_others_are_not_read(tmp_path, monkeypatch):
    folder, search = SweepFolder(tmp_path), build_search(SETTINGS, SPACE, settings_of(TOY))
    trials = Trials(folder, search, lambda record: None)
    numbers = [trials.next() for _ in range(3)]
    monkeypatch.setattr(TrialFolder, "result", property(lambda self: pytest.fail("a result was read again")))
    for number in reversed(numbers):
        trials.finish(folder.trial(number).record(number, "stopped", seconds=1.0))
    lines = (folder.path / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [2, 1, 0]


def test_a_trial_goes_on_with_the_weights_of_another_one_and_with_its_own_settings(swept, home):
    settings = replace(SETTINGS, scheduler=PBTConfig(every=2, metric="validation/error_1", mode="min"))
    sweep, _ = begun(home, "population", settings)
    sweep.trial(1).begin(1, {"optim.learning_rate": 0.01, "model.predictor.hidden_dim": 8})

    def end(rung: Rung, checkpoint: str | None) -> None:
        raise Killed

    for number in (0, 1):
        with pytest.raises(Killed):
            run_trial(TrialJob.read(sweep, number), end)
    source = newest_checkpoint(str(sweep.trial(0).path / "checkpoints"))
    assert source is not None
    point = {"optim.learning_rate": 0.005, "model.predictor.hidden_dim": 8}
    take_over(sweep.trial(1), Takeover(0, 2, point, "mark"), source)
    other = sweep.trial(1)
    taken = newest_checkpoint(str(other.path / "checkpoints"))
    assert taken is not None
    for name in ("model.safetensors", "training_state.pt"):
        assert Path(taken, name).read_bytes() == Path(source, name).read_bytes()
    record = run_trial(TrialJob.read(sweep, 1), lambda rung, place: None)
    assert record.status == "finished"
    assert record.point == point
    assert [(each.source, each.train_step) for each in record.takeovers] == [(0, 2)]
    assert [start["train_step"] for start in other.starts] == [0, 2]
    lines = [json.loads(line) for line in (other.path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_step"] == 6
    # The new rate holds from there on: of one schedule, the rates of two trainings are in proportion.
    own = json.loads((sweep.trial(0).path / "metrics.jsonl").read_text().splitlines()[1])
    assert own["train/learning_rate"] / 0.001 == pytest.approx(
        next(line for line in lines if line["train_step"] == 2)["train/learning_rate"] / 0.01
    )
    assert TrialJob.read(sweep, 1).config.optim.learning_rate == 0.005


def test_a_takeover_that_a_kill_cut_short_is_finished(tmp_path):
    folder = TrialFolder(tmp_path / "trial")
    folder.begin(0, {"optim.learning_rate": 0.1})
    (folder.path / "checkpoints" / "step-00000002").mkdir(parents=True)
    (folder.path / "checkpoints" / "step-00000004").mkdir()
    staged = folder.path / "taken-over-1"
    staged.mkdir()
    (staged / "model.safetensors").write_text("of another trial")
    # Killed before it was decided: the trial stays as it was.
    finish_takeover(folder)
    assert sorted(each.name for each in (folder.path / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    assert not staged.exists()
    # Killed after it: the checkpoint is put in its place.
    staged.mkdir()
    (staged / "model.safetensors").write_text("of another trial")
    folder.take_over(Takeover(3, 2, {"optim.learning_rate": 0.2}, "mark"))
    finish_takeover(folder)
    assert [each.name for each in (folder.path / "checkpoints").iterdir()] == ["step-00000002"]
    assert (folder.path / "checkpoints" / "step-00000002" / "model.safetensors").read_text() == "of another trial"
    assert folder.point == {"optim.learning_rate": 0.2}


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "space", "changes", "message"),
    [
        (SETTINGS, Space("p", {"planner.num_samples": Choice(4, 6)}), {}, "pass --model RUN"),
        (replace(SETTINGS, scheduler=ASHAConfig()), SPACE, {}, "--local runs one trial after the other"),
        (replace(SETTINGS, max_concurrent=2), SPACE, {}, "tune.max_concurrent must be 1"),
        (
            replace(SETTINGS, scheduler=ASHAConfig(first_rung=6)),
            SPACE,
            {"local": False},
            "lower tune.scheduler.first_rung",
        ),
        (
            replace(SETTINGS, scheduler=PBTConfig(every=2)),
            SPACE,
            {"local": False},
            "model.predictor.hidden_dim cannot change",
        ),
        (SETTINGS, Space("s", {"model.predictor.hidden_dim": Choice(8, -1)}), {}, r"trial \d \(.*hidden_dim -1"),
        (
            replace(SETTINGS, metric="sucess_rate"),
            SPACE,
            {},
            "unknown 'sucess_rate'",
        ),
        (SETTINGS, SPACE, {"max_gpu_hours": 1.0}, "a trial that it ends counts as failed"),
        (SETTINGS, Space("s", {"optim.learning_rte": Choice(0.1, 0.2)}), {}, "did you mean 'learning_rate'"),
        (
            SETTINGS,
            Space("s", {"optim.learning_rate": LogUniform(1e-4, 1e-2), "planner.num_elites": Choice(2, 900)}),
            {},
            "planner.num_elites must lie between",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(home, settings, space, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_sweep(SweepRequest(toy(**changes), "demo", settings, space))


def test_a_trial_whose_folder_was_removed_runs_again_and_a_rung_that_is_no_number_stays_one(tmp_path):
    folder, search = SweepFolder(tmp_path / "sweep"), build_search(SETTINGS, SPACE, settings_of(TOY))
    for number in range(3):
        trial = folder.trial(number)
        trial.begin(number, search.ask(number, [], []))
        trial.add_rung(Rung(1, float("nan"), 0.1))
        trial.finish(trial.record(number, "finished", seconds=0.1))
    assert all(math.isnan(record.rungs[0].value) for record in folder.write_trials())
    assert "NaN" not in (tmp_path / "sweep" / "trials.jsonl").read_text()
    assert Trials(folder, search, print).next() is None
    shutil.rmtree(folder.trial(1).path)
    trials = Trials(folder, search, print)
    assert (trials.remaining, trials.next(), trials.next()) == (1, 1, None)


def test_a_model_is_given_for_planning_alone(swept, home):
    _, result, _ = swept
    with pytest.raises(ConfigError, match="which takes a training; leave --model out"):
        check_sweep(SweepRequest(toy(), "demo", SETTINGS, SPACE, model_dir=str(Path(result.best.run_dir) / "model")))
