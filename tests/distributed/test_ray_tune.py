"""Sweeps on Ray Tune: trials are stopped and take weights over, and a kill of the driver loses none of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from jepawm.config import RunConfig, ScalingConfig, TrackingConfig
from jepawm.config.tune import ASHAConfig, MedianConfig, PB2Config, PBTConfig, TuneConfig
from jepawm.console import Console
from jepawm.tuning import LogUniform, Space
from jepawm.tuning.sweep_folder import SweepFolder
from jepawm.tuning.trial import Rung, TrialRecord

pytestmark = pytest.mark.ray
SPACE = Space("rate", {"optim.learning_rate": LogUniform(1e-5, 1e-2)})
BY_ERROR = {"metric": "validation/error_1", "mode": "min"}


# -- schedulers, without trials --------------------------------------------------------------------------------------


def record(number: int, values: dict[int, float]) -> TrialRecord:
    rungs = tuple(Rung(step, value, 1.0) for step, value in values.items())
    return TrialRecord(number, {"optim.learning_rate": 0.1}, "stopped", "", rungs=rungs)


@pytest.mark.parametrize(
    "kind", [ASHAConfig(first_rung=10, reduction_factor=2, **BY_ERROR), MedianConfig(every=10, **BY_ERROR)]
)
def test_a_scheduler_that_begins_anew_knows_what_earlier_trials_showed(kind):
    """Six trials with an error of about 1 are over; one with 5 is stopped at the second rung, one with 0.5 goes on."""
    from ray.tune.experiment import Trial

    from jepawm.distributed.tune_schedulers import STEP, VALUE, build_scheduler, replay

    settings = TuneConfig(scheduler=kind)
    decisions = {}
    for name, error in (("bad", 5.0), ("good", 0.5)):
        scheduler = build_scheduler(settings, SPACE, 100)
        replay(scheduler, [record(number, {10: 1.0 + number / 10, 20: 1.0 + number / 10}) for number in range(6)])
        trial = Trial("now", stub=True)
        scheduler.on_trial_add(None, trial)
        decisions[name] = [scheduler.on_trial_result(None, trial, {STEP: step, VALUE: error}) for step in (10, 20)][-1]
    assert decisions == {"bad": "STOP", "good": "CONTINUE"}


@pytest.mark.parametrize("kind", [PBTConfig(every=2), PB2Config(every=2)])
def test_a_trial_that_takes_over_keeps_its_number_and_stays_inside_the_space(kind):
    from ray.tune.experiment import Trial

    from jepawm.distributed.tune_schedulers import STEP, TAKEN_FROM, VALUE, build_scheduler

    class Controller:
        search_alg = None

    scheduler = build_scheduler(TuneConfig(scheduler=kind), SPACE, 100)
    trials = []
    for number in (0, 1):
        trial = Trial("now", stub=True, config={"number": number, "optim.learning_rate": 9e-3})
        scheduler.on_trial_add(Controller(), trial)
        scheduler._save_trial_state(scheduler._trial_state[trial], 2, {STEP: 2, VALUE: 1.0 + number}, trial)
        trials.append(trial)
    changed, _ = scheduler._get_new_config(trials[1], trials[0])
    assert changed["number"] == 1
    assert (changed[TAKEN_FROM]["number"], changed[TAKEN_FROM]["train_step"]) == (0, 2)
    assert 1e-5 <= changed["optim.learning_rate"] <= 1e-2


# -- what the driver of a sweep looks at, without trials --------------------------------------------------------------


class Clock:
    """Seconds that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A watch over a sweep that is not begun, its clock, and what it says; nothing has room."""
    from types import SimpleNamespace

    from jepawm.config.tune import RandomSearchConfig
    from jepawm.distributed import tune
    from jepawm.runs.trials import Trials
    from jepawm.tuning.resources import TrialClaim
    from jepawm.tuning.search import build_search

    settings = TuneConfig(num_trials=4, search=RandomSearchConfig())
    trials = Trials(SweepFolder(tmp_path), build_search(settings, SPACE, {}), lambda record: None)
    clock, said = Clock(), []
    monkeypatch.setattr(tune, "time", clock)
    monkeypatch.setattr(tune, "waiting_claims", lambda: [{"CPU": 8.0}])
    monkeypatch.setattr(tune, "room_in_words", lambda: "2 of 2 CPUs are free")
    watch = tune._Watch(trials, TrialClaim.of_process(8, 0.0), 100.0, said.append)
    return SimpleNamespace(watch=watch, clock=clock, said=said, trials=trials, module=tune)


def test_a_trial_whose_folder_went_away_ends_the_sweep_and_is_no_result(watch, tmp_path):
    from types import SimpleNamespace

    from jepawm.errors import FolderGoneError

    file = tmp_path / "error.txt"
    file.write_text(
        "Traceback ...\njepawm.errors.FolderGoneError: home/run went away while this command worked in it\n"
    )
    watch.watch.on_trial_error(0, [], SimpleNamespace(trial_id="a", error_file=str(file)))
    assert not watch.trials.over
    with pytest.raises(FolderGoneError, match=r"home/run went away .* goes on with the sweep"):
        watch.watch.look()


def test_a_sweep_in_which_no_trial_finds_room_says_so_once_and_gives_up_in_time(watch):
    from types import SimpleNamespace

    from jepawm.errors import PlacementError

    for now, lines in ((29.0, 0), (31.0, 1), (60.0, 1), (99.0, 1)):
        watch.clock.now = now
        watch.watch.look()
        assert len(watch.said) == lines
    assert "no trial has run for 31 s: one needs 1 x the trial (8 CPU)" in watch.said[0]
    assert watch.said[0].endswith("2 of 2 CPUs are free")
    watch.clock.now = 101.0
    with pytest.raises(PlacementError, match=r"for 101 s: .*; the sweep gives up, and the same command goes on"):
        watch.watch.look()
    # While a trial runs, others may wait as long as they like; after it the time begins anew.
    watch.watch.on_trial_start(0, [], SimpleNamespace(trial_id="a"))
    watch.watch.look()
    watch.watch.on_trial_recover(0, [], SimpleNamespace(trial_id="a"))
    watch.clock.now = 130.0
    watch.watch.look()
    watch.clock.now = 202.0
    with pytest.raises(PlacementError, match="for 101 s"):
        watch.watch.look()


def test_a_trial_is_stopped_only_where_a_scheduler_has_ended_it(watch, monkeypatch):
    """What files there are, and when they are seen, decides nothing."""
    from types import SimpleNamespace

    settled = []
    monkeypatch.setattr(watch.module, "settle", lambda folder, number, **how: settled.append((number, how)) or number)
    monkeypatch.setattr(watch.trials, "finish", lambda record: None)
    trials = [SimpleNamespace(trial_id=str(number), config={"number": number}) for number in range(3)]
    for trial in trials:
        watch.watch.on_trial_start(0, trials, trial)
    # Ray marks the result at which a scheduler ends a trial; a trial that ends by itself reports nothing more.
    watch.watch.on_trial_result(0, trials, trials[0], {"value": 1.0, "done": False})
    watch.watch.on_trial_result(0, trials, trials[1], {"value": 5.0, "done": True})
    watch.watch.on_trial_complete(0, trials, trials[0])
    watch.watch.on_trial_complete(0, trials, trials[1])
    # An interrupted sweep goes on with what still runs.
    watch.watch.interrupted = True
    watch.watch.on_trial_complete(0, trials, trials[2])
    assert settled == [(0, {"stopped": False, "died": ""}), (1, {"stopped": True, "died": ""})]


# -- sweeps ----------------------------------------------------------------------------------------------------------

TOY = [
    *("--recipe", "demo", "--device", "cpu", "--tracking.no-mlflow"),
    *("--data.num-episodes", "8", "--data.env-steps-per-episode", "20", "--data.held-out-fraction", "0.25"),
    *("--train.num-train-steps", "8", "--train.batch-size", "8", "--train.log-every", "2"),
    *("--train.diagnostics-windows", "8", "--train.prediction-windows", "4"),
    *("--planner.num-samples", "6", "--planner.num-elites", "2", "--planner.num-iterations", "1"),
    *("--planner.num-iterations-warm", "1", "--evaluation.num-episodes", "2", "--evaluation.protocols", "open_loop"),
    *("--evaluation.num-animations", "0", "--evaluation.num-diagnosed-failures", "0"),
    *("--evaluation.prediction-horizon", "2", "--tune.final-episodes", "2", "--tune.num-final", "1"),
    *("--tune.scheduler.metric", "validation/error_1", "--tune.scheduler.mode", "min"),
]


def toy() -> RunConfig:
    from jepawm.config.command_line import parse

    words = TOY[: TOY.index("--tune.final-episodes")]
    return parse(words)[0]


def sweep(folder: Path, settings: TuneConfig, space: Space = SPACE, **changes):
    """Runs a sweep in this process, on the Ray that is there."""
    from dataclasses import replace

    from jepawm.runs.tune import SweepRequest, tune

    config = replace(toy(), run_dir=str(folder), tracking=TrackingConfig(mlflow=False), **changes)
    return tune(SweepRequest(config, "demo", settings, space), Console(quiet=True))


@pytest.mark.long
@pytest.mark.parametrize("name", ["pbt", "pb2"])
def test_checkpoints_move_between_the_trials_of_a_population(ray_local, tmp_path, monkeypatch, name):
    """Four trials, more than there is room for: the worse half takes weights and settings of the better half."""
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    kind = {"pbt": PBTConfig, "pb2": PB2Config}[name]
    settings = TuneConfig(
        num_trials=4, num_final=0, cpus_per_trial=2, scheduler=kind(every=2, quantile=0.5, **BY_ERROR)
    )
    result = sweep(tmp_path / "sweep", settings)
    assert {each.status for each in result.records} == {"finished"}
    takeovers = [(each.number, taken) for each in result.records for taken in each.takeovers]
    assert takeovers
    for number, taken in takeovers:
        assert taken.source != number
        assert taken.train_step in (2, 4, 6)
    for each in result.records:
        folder = SweepFolder(result.folder).trial(each.number)
        steps = [json.loads(line)["train_step"] for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
        # It went on from the train step of the other trial, to the end.
        assert steps[-1] == 8
        if each.takeovers:
            assert each.point == each.takeovers[-1].point
            assert each.takeovers[-1].train_step in {start["train_step"] for start in folder.starts}


@pytest.mark.long
def test_a_trial_trains_with_two_workers(ray_local, tmp_path, monkeypatch):
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    settings = TuneConfig(num_trials=2, num_final=1, final_episodes=2, scheduler=ASHAConfig(first_rung=4, **BY_ERROR))
    result = sweep(tmp_path / "sweep", settings, scaling=ScalingConfig(num_workers=2))
    statuses = Counter(each.status for each in result.records)
    assert statuses["finished"] >= 1
    assert not statuses["failed"], [each.error for each in result.records]
    for each in result.records:
        assert [rung.train_step for rung in each.rungs] == [4]
    assert len(result.finals) == 1


def trial_beside_another(folder: str, seconds: float):
    """A trial of a population of two that shows a rung only when the other one has got that far, in all its starts.

    Else the faster trial may be over before the other one has shown anything, and nothing is taken over.
    """

    def trial(config, job):
        import time
        from pathlib import Path

        from jepawm.distributed import tune as tune_module

        report = tune_module.tune.report

        def when_both_are_there(metrics, **given):
            step = metrics[tune_module.STEP]
            Path(folder, f"{config['number']}-{step}").touch()
            until = time.monotonic() + seconds
            while not Path(folder, f"{1 - config['number']}-{step}").exists():
                assert time.monotonic() < until, f"the other trial did not come to train step {step}"
                time.sleep(0.05)
            report(metrics, **given)

        tune_module.tune.report = when_both_are_there
        try:
            tune_module.trial_on_ray(config, job)
        finally:
            tune_module.tune.report = report

    return trial


@pytest.mark.long
def test_several_workers_of_a_trial_go_on_with_the_checkpoint_of_another_trial(ray_local, tmp_path, monkeypatch):
    """Population-based training of two trials with two workers each."""
    from jepawm.distributed import tune as tune_module

    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    (tmp_path / "rungs").mkdir()
    monkeypatch.setattr(tune_module, "trial_on_ray", trial_beside_another(str(tmp_path / "rungs"), seconds=600))
    settings = TuneConfig(num_trials=2, num_final=0, scheduler=PBTConfig(every=2, quantile=0.5, **BY_ERROR))
    result = sweep(tmp_path / "sweep", settings, scaling=ScalingConfig(num_workers=2))
    assert {each.status for each in result.records} == {"finished"}, [each.error for each in result.records]
    takeovers = [(each.number, taken) for each in result.records for taken in each.takeovers]
    # Both have shown the first rung when they show the second one, so the worse one takes over there at the latest.
    assert takeovers
    for number, taken in takeovers:
        assert taken.source == 1 - number
        assert taken.train_step in (2, 4, 6)
        starts = [start["train_step"] for start in SweepFolder(result.folder).trial(number).starts]
        assert taken.train_step in starts


@pytest.mark.long
def test_a_trial_below_the_median_is_stopped_and_the_others_are_not(ray_local, tmp_path, monkeypatch):
    """One trial after the other; the loss of the last one is far higher from the first update on."""
    from jepawm.config.tune import GridSearchConfig
    from jepawm.tuning import Choice

    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    kind = MedianConfig(every=2, num_grace_rungs=1, min_trials=2, metric="train/loss", mode="min")
    settings = TuneConfig(
        num_final=0, max_concurrent=1, search=GridSearchConfig(), scheduler=kind, metric="train/loss", mode="min"
    )
    space = Space("variance", {"loss.variance": Choice(1.0, 1.1, 1.2, 100.0)})
    result = sweep(tmp_path / "sweep", settings, space=space)
    statuses = [each.status for each in result.records]
    assert statuses[0] == "finished", [each.error for each in result.records]
    assert statuses[-1] == "stopped"
    last = result.records[-1]
    assert 2 * len(last.rungs) == last.rungs[-1].train_step < 8
    # It was worse than the median of what the others had shown on average up to that rung.
    shown = [
        sum(rung.value for rung in each.rungs[: len(last.rungs)]) / len(each.rungs[: len(last.rungs)])
        for each in result.records[:-1]
    ]
    assert min(rung.value for rung in last.rungs) > sorted(shown)[1]


@pytest.mark.long
def test_a_trial_whose_process_dies_too_often_fails_and_the_others_go_on(ray_local, tmp_path, monkeypatch):
    from jepawm.distributed import tune

    # Ray sends a function inside a function by value, so its processes run it without this file.
    def run_or_die(config, job):
        import os

        from jepawm.distributed.tune import trial_on_ray
        from jepawm.tuning.sweep_folder import SweepFolder

        if config["number"] == 1:
            job.surroundings.enter()
            SweepFolder(job.sweep).trial(1).start(0)
            os._exit(3)
        trial_on_ray(config, job)

    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    monkeypatch.setattr(tune, "trial_on_ray", run_or_die)
    result = sweep(tmp_path / "sweep", TuneConfig(num_trials=3, num_final=0, max_deaths=1))
    assert [each.status for each in result.records] == ["finished", "failed", "finished"]
    assert result.records[1].error.startswith("its process died more often than tune.max_deaths allows; the last time:")
    # Once, and once more.
    assert len(SweepFolder(result.folder).trial(1).starts) == 2


@pytest.mark.long
def test_a_grid_of_evaluations_on_ray_is_the_one_of_one_process(ray_local, tmp_path, monkeypatch):
    """Two models with two settings each: the same outcomes of every episode, whichever process played them."""
    from dataclasses import replace

    from jepawm.runs.evaluation import read_result, trained_config
    from jepawm.runs.evaluation_grid import GridRequest, evaluate_grid
    from jepawm.runs.pipeline import run
    from jepawm.runs.runtime import LocalRuntime
    from jepawm.tuning.points import grid_choices

    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    folders = [tmp_path / f"seed{seed}" / "model" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        config = replace(toy(), seed=seed, local=True, run_dir=str(folder.parent))
        run(config, "demo", LocalRuntime(), Console(quiet=True))
    outcomes = []
    for local in (True, False):
        place = tmp_path / f"local-{local}"
        models = {
            str(folder): replace(trained_config(str(folder)), local=local, run_dir=str(place)) for folder in folders
        }
        asked = GridRequest(
            models, grid_choices(["planner.num_samples=6,8"]), TuneConfig(max_concurrent=1 + (not local))
        )
        result = evaluate_grid(asked, Console(quiet=True))
        assert [record.status for record in result.records] == ["finished"] * 4
        results = [read_result(str(Path(record.run_dir, "eval.json"))) for record in result.records]
        outcomes.append([each.protocols["open_loop"].planned.episodes for each in results])
    assert outcomes[0] == outcomes[1]


def command(home: Path) -> tuple[list[str], dict[str, str]]:
    tuned = [
        "--tune.scheduler.name",
        "asha",
        "--tune.scheduler.first-rung",
        "2",
        "--tune.scheduler.reduction-factor",
        "2",
    ]
    words = [sys.executable, "-m", "jepawm", "tune", *TOY, "--space", "optimizer", "--tune.num-trials", "4", *tuned]
    return words, {**os.environ, "JEPAWM_HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_driver_that_is_killed_or_interrupted_loses_no_trial_and_runs_none_twice(tmp_path, name):
    """A signal as soon as a trial is over and another one runs; then the same command."""
    words, environment = command(tmp_path)
    # A shell that started these tests in the background lets them ignore SIGINT, and a child would inherit that.
    before_tests = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        driver = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        signal.signal(signal.SIGINT, before_tests)
    found: list[Path] = []
    try:
        while driver.poll() is None:
            found = list(tmp_path.glob("sweep-*/trials/*/result.json"))
            running = list(tmp_path.glob("sweep-*/trials/*/starts.jsonl"))
            if found and len(running) > len(found):
                break
            time.sleep(0.05)
        assert driver.poll() is None, driver.communicate()[0]
    finally:
        driver.send_signal(signal.Signals[name])
        said = driver.communicate(timeout=300)[0]
    if name == "SIGINT":
        assert driver.returncode == 130, said
        assert said.splitlines()[-1].startswith("interrupted by SIGINT; the same command goes on"), said
    (folder,) = tmp_path.glob("sweep-*")
    sweep = SweepFolder(folder)
    before = {record.number: (record, len(sweep.trial(record.number).starts)) for record in sweep.over}
    assert 1 <= len(before) < 4
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trials are over from before" in done.stdout
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2, 3]
    for number, (known, starts) in before.items():
        assert sweep.trial(number).result == known
        assert len(sweep.trial(number).starts) == starts
    for record in sweep.over:
        # No update is made twice but those since the last checkpoint: what a start goes on from, the one before made.
        begun = [start["train_step"] for start in sweep.trial(record.number).starts]
        assert begun == sorted(begun)
        assert record.status in ("finished", "stopped"), record.error
    assert (folder / "report.html").is_file()
