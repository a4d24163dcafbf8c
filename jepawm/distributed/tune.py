"""Ray Tune: the trials of a sweep side by side, schedulers that stop them, and checkpoints that move between them."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from jepawm.config import RunConfig, ScalingConfig
from jepawm.config.tune import TuneConfig
from jepawm.distributed.cluster import look_at_cluster, number_waiting, room_in_words, startable_nodes, waiting_claims
from jepawm.distributed.trial_room import gpus_of_trial, trials_at_once
from jepawm.distributed.tune_schedulers import STEP, TAKEN_FROM, VALUE, build_scheduler, domains, replay
from jepawm.distributed.tune_workers import Surroundings, WithWorkers
from jepawm.distributed.waiting import LOOK_EVERY_S, TELL_AFTER_S, Waiting
from jepawm.errors import ConfigError, FolderGoneError, PlacementError
from jepawm.runs.fresh_episodes import evaluate_again
from jepawm.runs.placement.demand import Claim, Demand
from jepawm.runs.takeover import take_over
from jepawm.runs.trial import TrialJob, run_trial, settle
from jepawm.runs.trials import Trials
from jepawm.tuning.resources import TrialClaim
from jepawm.tuning.space import Space
from jepawm.tuning.sweep_folder import Final, SweepFolder
from jepawm.tuning.trial import Rung, Takeover

# Folder of Ray Tune's own files in a sweep.
RAY_FOLDER = "ray"
# Seconds that Ray Tune has to end its trials' processes when the driver is interrupted.
_SECONDS_TO_STOP = 30.0

# Ray reads these in the driver: no loggers of its own (a sweep has its own files), no changes of the current folder.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def tune_on_ray(
    config: RunConfig, settings: TuneConfig, space: Space, trials: Trials, say: Callable[[str], None]
) -> None:
    """Runs what is left of a sweep.

    Args:
        config: The run that points change.
        settings: Of the sweep.
        space: What is tried.
        trials: Hands out trials, and takes in what they found.
        say: Told a line about resources, and where nothing goes on.

    Raises:
        ConfigError: Not even one trial fits the cluster.
        PlacementError: No trial found room for `scaling.placement_timeout_s`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It warns of result files of its own, which it was told not to write.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    _check_labels(config.scaling)
    cluster = look_at_cluster(startable=startable_nodes())
    several = config.scaling.num_workers > 1
    population = settings.scheduler.moves_checkpoints
    gpus = gpus_of_trial(config.device, settings.gpus_per_trial, cluster, key="tune.gpus_per_trial")
    own = TrialClaim.of_process(settings.cpus_per_trial, gpus)
    worker = Demand(config.scaling, config.device, cluster).worker() if several else None
    needed = own if worker is None else TrialClaim.of_workers(config.scaling.num_workers, worker.resources)
    concurrent = trials_at_once(needed, settings.max_concurrent, cluster, trials.remaining, say)
    if several:
        # Its evaluation comes after its training, in a process of its own.
        trials_at_once(own, settings.max_concurrent, cluster, 1, say)
    if several and population and concurrent < trials.remaining:
        raise ConfigError(
            f"a population of {trials.remaining} trials trains at once, and there is room for {concurrent}, each "
            f"{needed.sums()}; lower tune.num_trials or scaling.num_workers"
        )
    say(f"   {concurrent} trial(s) at once, each {needed.sums()}")
    scheduler = build_scheduler(settings, space, config.train.num_train_steps)
    if not population:
        replay(scheduler, trials.over)
    job = SweepJob(
        sweep=str(trials.folder.path.absolute()),
        evaluation=Claim(settings.cpus_per_trial, gpus, {} if worker is None else worker.selector),
        worker=worker,
        surroundings=Surroundings.of_driver(settings.cpus_per_trial),
    )
    watch = _Watch(trials, needed, config.scaling.placement_timeout_s, say)
    storage = trials.folder.path.absolute() / RAY_FOLDER
    # What an earlier command left: its trials go on from their own folders.
    shutil.rmtree(storage, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trial_on_ray, job=job),
            # Ray Tune wants a claim. One byte of memory takes nothing from the workers.
            {"memory": 1.0} if several else {"CPU": float(settings.cpus_per_trial), "GPU": float(gpus)},
        ),
        param_space=_population(trials, space) if population else None,
        tune_config=tune.TuneConfig(
            search_alg=None if population else _Suggestions(trials),
            scheduler=scheduler,
            num_samples=1 if population else trials.remaining,
            # The trials of a population take turns where there is not room for all.
            max_concurrent_trials=None if population else concurrent,
            # A process that has loaded torch runs one trial after the other.
            reuse_actors=not several,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage),
            callbacks=[watch],
            stop=watch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=settings.max_deaths),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=4 if population else None),
        ),
    )
    _fit_beside(tuner.fit, watch)
    shutil.rmtree(storage, ignore_errors=True)


def _check_labels(scaling: ScalingConfig) -> None:
    """Refuses labels, which reach Ray Train's workers and no other process of a sweep."""
    for name in ("worker_labels", "accelerator_type"):
        if getattr(scaling, name) and scaling.num_workers == 1:
            raise ConfigError(
                f"scaling.{name} has no effect on trials of one process, which Ray Tune places; leave it out, or train "
                "each trial with several workers (scaling.num_workers)"
            )


def _fit_beside(fit: Callable[[], Any], watch: "_Watch") -> None:
    """Runs the sweep in a thread: the main thread hears signals, and says when nothing goes on."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            fit()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the main thread
            errors.append(error)

    thread = threading.Thread(target=work, name="ray-tune", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
            watch.look()
    except BaseException:
        # Ray must not be shut down under a thread that still uses it.
        watch.interrupted = True
        thread.join(_SECONDS_TO_STOP)
        raise
    if errors:
        raise errors[0]


# -- a trial ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepJob:
    """What each process of a sweep's trials is sent.

    Attributes:
        sweep: The sweep's folder.
        evaluation: What the process of a trial claims; of a trial with several workers, the process that evaluates it.
        worker: What each training worker claims; None: a trial trains in its own process.
        surroundings: Of each process.
    """

    sweep: str
    evaluation: Claim
    worker: Claim | None
    surroundings: Surroundings


def trial_on_ray(config: Mapping[str, Any], job: SweepJob) -> None:
    """One trial in a process of Ray Tune: a shell around `run_trial`.

    Args:
        config: `number` of the trial; with population-based training also its settings, and `taken_from` where it goes
            on with the weights of another trial.
        job: What all trials share.
    """
    job.surroundings.enter()
    sweep, number = SweepFolder(job.sweep), int(config["number"])
    folder = sweep.trial(number)
    taken = config.get(TAKEN_FROM)
    if taken is not None and taken["mark"] not in {each.mark for each in folder.takeovers}:
        checkpoint = tune.get_checkpoint()
        assert checkpoint is not None, "a trial that takes over is given a checkpoint"
        point = {key: config[key] for key in folder.point or {}}
        with checkpoint.as_directory() as place:
            take_over(folder, Takeover(taken["number"], taken["train_step"], point, taken["mark"]), place)
    trial = TrialJob.read(sweep, number)
    moves = trial.settings.scheduler.moves_checkpoints

    def report(rung: Rung, checkpoint: str | None) -> None:
        given = tune.Checkpoint.from_directory(checkpoint) if moves and checkpoint is not None else None
        tune.report({VALUE: rung.value, STEP: rung.train_step}, checkpoint=given)

    if job.worker is None:
        run_trial(trial.on(job.evaluation.gpus), report)
        return
    run_trial(trial, report, WithWorkers(job.worker, job.evaluation, job.surroundings))


def evaluate_again_on_ray(
    sweep: str, config: RunConfig, settings: TuneConfig, numbers: Sequence[int], say: Callable[[str], None]
) -> list[Final]:
    """Evaluates trials on fresh episodes, each in a process that claims what a trial does.

    Args:
        sweep: The sweep's folder.
        config: The run that points change.
        settings: Of the sweep.
        numbers: Of the trials.
        say: Told where an evaluation waits for room.

    Raises:
        PlacementError: An evaluation found no room for `scaling.placement_timeout_s`.
    """
    cluster = look_at_cluster(startable=startable_nodes())
    several = config.scaling.num_workers > 1
    selector = Demand(config.scaling, config.device, cluster).worker().selector if several else {}
    gpus = gpus_of_trial(config.device, settings.gpus_per_trial, cluster, key="tune.gpus_per_trial")
    claim = Claim(settings.cpus_per_trial, gpus, selector)
    surroundings = Surroundings.of_driver(settings.cpus_per_trial)

    def work(number: int) -> Final:
        surroundings.enter()
        folder = SweepFolder(sweep)
        return evaluate_again(TrialJob.read(folder, number).on(claim.gpus), folder.final_dir(number))

    remote = ray.remote(**claim.options(), max_retries=settings.max_deaths)(work)
    tasks = [remote.remote(number) for number in numbers]
    waiting = Waiting("final evaluation", claim, config.scaling.placement_timeout_s, say)
    running = tasks
    while running:
        _, running = ray.wait(running, timeout=LOOK_EVERY_S)
        # Evaluations take turns where there is not room for all: a wait counts where none of them runs.
        pending = min(number_waiting(claim), len(running))
        waiting.look(pending if pending == len(running) else 0, len(tasks))
    finals: list[Final] = ray.get(tasks)
    return finals


# -- points and records ----------------------------------------------------------------------------------------------


class _OfThisProcess:
    """Ray Tune writes copies of what it is given, for a way to go on that a sweep does not take: they are empty."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Suggestions(_OfThisProcess, Searcher):
    """Hands the trials of a sweep to Ray Tune."""

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self._trials = trials

    def suggest(self, trial_id: str) -> Any:
        number = self._trials.next()
        return Searcher.FINISHED if number is None else {"number": number}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The records say more."""

    def save(self, checkpoint_path: str) -> None:
        """The sweep's own folder is what it goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Watch(_OfThisProcess, tune.Callback, tune.Stopper):
    """Takes in what trials found, says so where none goes on, and ends the sweep when it is interrupted."""

    def __init__(self, trials: Trials, needed: TrialClaim, timeout_s: float, say: Callable[[str], None]) -> None:
        self._trials, self._needed, self._timeout_s, self._say = trials, needed, timeout_s, say
        self.interrupted = False
        self._gone = ""
        self._running: set[str] = set()
        self._stopped: set[str] = set()
        self._idle_since, self._is_told = time.monotonic(), False

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._running.add(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        # Only a scheduler ends a trial at a result: one that ends by itself reports nothing more.
        if result.get("done"):
            self._stopped.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        lines = Path(trial.error_file).read_text(errors="replace").splitlines() if trial.error_file else []
        why = next((line for line in reversed(lines) if line.strip()), "Ray gives no reason")
        if FolderGoneError.__name__ in why:
            # Nothing is wrong with its point: the sweep ends, and the same command goes on with the trial.
            self._gone = why
            return
        self._end(trial, died=f"its process died more often than tune.max_deaths allows; the last time: {why}")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # Its process died, and the trial waits for room.
        self._running.discard(trial.trial_id)
        self._idle_since, self._is_told = time.monotonic(), False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.interrupted

    def _end(self, trial: Trial, died: str = "") -> None:
        if self.interrupted:
            # The trial was not stopped for what it showed: the same command goes on with it.
            return
        self._running.discard(trial.trial_id)
        self._idle_since, self._is_told = time.monotonic(), False
        stopped = trial.trial_id in self._stopped
        self._trials.finish(settle(self._trials.folder, int(trial.config["number"]), stopped=stopped, died=died))

    def look(self) -> None:
        """Says what is missing where no trial has run for a while; gives up after a long one.

        Raises:
            PlacementError: Nothing has run for `scaling.placement_timeout_s`.
            FolderGoneError: A trial lost its folder.
        """
        if self._gone:
            raise FolderGoneError(f"a trial lost its folder ({self._gone}); the same command goes on with the sweep")
        if self._running or (self._is_told and time.monotonic() - self._idle_since < self._timeout_s):
            return
        idle = time.monotonic() - self._idle_since
        if idle < TELL_AFTER_S or not waiting_claims():
            # What has room is about to start.
            return
        text = f"no trial has run for {idle:.0f} s: one needs {self._needed.sums()}; {room_in_words()}"
        if idle > self._timeout_s:
            raise PlacementError(f"{text}; the sweep gives up, and the same command goes on with it")
        if not self._is_told:
            self._is_told = True
            self._say(f"   {text}")


def _population(trials: Trials, space: Space) -> dict[str, Any]:
    """The trials of a population with their settings: those that were interrupted, and new ones."""
    numbers = list(iter(trials.next, None))
    points = {number: trials.folder.trial(number).point or {} for number in numbers}

    def setting(key: str) -> Callable[[Any], Any]:
        return lambda spec: points[spec.config["number"]][key]

    given = {key: tune.sample_from(setting(key)) for key in domains(space)}
    return {"number": tune.grid_search(numbers), **given}
