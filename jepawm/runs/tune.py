"""A sweep: trials of a search space, compared and repeated; the same command goes on where it was stopped."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jepawm.config import RunConfig, home, to_dict
from jepawm.config.places import local_path, uri_of
from jepawm.config.tune import TuneConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import open_reader
from jepawm.errors import ConfigError, TrainingError
from jepawm.interrupts import telling_how_to_go_on
from jepawm.runs.directory import lock_run, run_stem
from jepawm.runs.episodes import dataset_path, prepare_dataset
from jepawm.runs.features import encode_features, encode_job
from jepawm.runs.fresh_episodes import evaluate_again, fresh_seed
from jepawm.runs.pipeline import started_runtime
from jepawm.runs.points import with_point
from jepawm.runs.preflight.machine import check_writable, joins_a_cluster
from jepawm.runs.runtime import Runtime
from jepawm.runs.sweep_checks import SweepRequest, check_sweep
from jepawm.runs.tracked_sweep import sweep_sink
from jepawm.runs.tracking import tracked
from jepawm.runs.trial import TrialJob, run_trial
from jepawm.runs.trials import Trials
from jepawm.tracking import Outcome
from jepawm.tuning.description import SweepDescription
from jepawm.tuning.points import command, flags, in_words
from jepawm.tuning.ranking import ranked, seconds_of
from jepawm.tuning.report import Sweep as Shown
from jepawm.tuning.report import write_sweep_report
from jepawm.tuning.search import Search
from jepawm.tuning.space import Point, Space
from jepawm.tuning.sweep_folder import REPORT_FILE, Final, SweepFolder
from jepawm.tuning.trial import Rung, TrialRecord

__all__ = ["SweepRequest", "SweepResult", "tune"]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        folder: Of the sweep.
        records: Of all trials, by number.
        best: The trial to take.
        finals: The best trials on fresh episodes, the best there first.
        command: What repeats the best trial; None where no command can.
    """

    folder: Path
    records: tuple[TrialRecord, ...]
    best: TrialRecord
    finals: tuple[Final, ...]
    command: str | None


def tune(request: SweepRequest, console: Console) -> SweepResult:
    """Runs a sweep; what cannot work is refused before Ray starts and before anything is written.

    Args:
        request: What is asked for.
        console: Where progress is shown.

    Returns:
        What it found, as the folder's files hold it.

    Raises:
        ConfigError: Settings or points that cannot work, or a folder that holds another sweep.
        TrainingError: No trial finished.
    """
    search = check_sweep(request)
    folder = SweepFolder(os.path.abspath(local_path(request.config.run_dir or _default_folder(request))))
    with begun(folder, describe(request), request.config, console, what="sweep"):
        console.say(f"space      {request.space.name}: {', '.join(request.space.parameters)}")
        return _Sweep(request, search, folder, console).run()


@contextmanager
def begun(
    folder: SweepFolder, description: SweepDescription, config: RunConfig, console: Console, *, what: str
) -> Iterator[None]:
    """Begins a folder of trials or goes on with it, and holds it; the tracker is told of its trials meanwhile.

    Args:
        folder: The folder; nothing of it needs to be there.
        description: What the trials depend on, and more.
        config: Says where trials run, and names the tracker.
        console: Where the folder is named.
        what: How the console calls it.

    Raises:
        ConfigError: The folder holds other trials, or trials on Ray cannot share it.
    """
    if uri_of(folder.path) is not None and not config.local:
        raise ConfigError(
            f"{uri_of(folder.path)}: the trials of a sweep on Ray share its folder while they run, which an object "
            "store is not made for; name a folder that all nodes see with --run-dir, or run it with --local"
        )
    check_writable(str(folder.path), "run_dir" if config.run_dir else "$JEPAWM_HOME")
    folder.path.mkdir(parents=True, exist_ok=True)
    goes_on = "the same command goes on; trials that are over are not run again"
    tracking = config.tracking
    with lock_run(str(folder.path), console.say), telling_how_to_go_on(lambda: goes_on):
        goes_on_now = folder.begin(description)
        console.say(f"{what:<10} {folder.path}{' (continued)' if goes_on_now else ''}")
        sink = sweep_sink(str(folder.path), tracking) if tracking.mlflow else None
        with tracked(sink, tracking, console, folder=str(folder.path), outcome=Outcome):
            yield


def run_trials(
    config: RunConfig, settings: TuneConfig, space: Space, trials: Trials, say: Callable[[str], None]
) -> None:
    """Runs the trials that are left: one after the other with `--local`, else side by side on Ray.

    Args:
        config: The run that points change.
        settings: Of the sweep.
        space: What is tried.
        trials: Hands out trials, and takes in what they found.
        say: Told a line about resources, and where nothing goes on.
    """
    if config.local:
        while (number := trials.next()) is not None:
            trials.finish(run_trial(TrialJob.read(trials.folder, number), _no_comparison))
    else:
        from jepawm.distributed.tune import tune_on_ray

        tune_on_ray(config, settings, space, trials, say)
    # Trials end in any order; the file of a sweep that is over has them by number.
    trials.folder.write_trials()


def _default_folder(request: SweepRequest) -> str:
    """Beside the runs, named by everything that its trials depend on."""
    facts = json.dumps(describe(request).of_trials(), sort_keys=True)
    name = hashlib.sha256(facts.encode()).hexdigest()[:10]
    stem = run_stem(request.config, request.recipe) if request.model_dir is None else request.config.env.short_name
    return os.path.join(home(), f"sweep-{stem}-{request.space.name.replace(':', '.').replace(',', '-')}-{name}")


def describe(request: SweepRequest) -> SweepDescription:
    """What `sweep.json` keeps of a request."""
    return SweepDescription(
        config=to_dict(replace(request.config, run_dir=None)),
        recipe=request.recipe,
        model=request.model_dir,
        space=request.space.to_dict(),
        space_name=request.space.name,
        words=tuple(request.words),
        settings=to_dict(request.settings),
    )


# -- the sweep -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sweep:
    """A sweep that was begun.

    Attributes:
        request: What is asked for.
        search: Chooses points.
        folder: Its files.
        console: Where progress is shown.
    """

    request: SweepRequest
    search: Search
    folder: SweepFolder
    console: Console

    def run(self) -> SweepResult:
        trials = Trials(self.folder, self.search, self._tell)
        settings, console = self.request.settings, self.console
        if trials.over:
            console.say(f"   {len(trials.over)} of {self.search.num_trials} trials are over from before")
        with started_runtime(self.request.config, console) as runtime:
            runtime.keep_log(str(self.folder.path))
            console.say(f"runs on    {runtime.describe()}")
            if trials.remaining:
                self._share(runtime)
                with console.stage("trials", self._in_words()):
                    run_trials(self.request.config, settings, self.request.space, trials, console.say)
            best = ranked(trials.over, settings.metrics)
            if not best:
                raise TrainingError(self._why_none(trials.over))
            finals = self._evaluate_again(best[: settings.num_final])
        return self._conclude(trials.over, best, finals)

    # -- what all trials share ---------------------------------------------------------------------------------------

    def _share(self, runtime: Runtime) -> None:
        """Makes datasets, decoded frames and stored features once, before the trials read them."""
        if self.request.model_dir is not None:
            return
        made: set[str] = set()
        for config in self._known_runs():
            path = dataset_path(config)
            if path not in made:
                made.add(path)
                prepare_dataset(config, runtime, self.console)
            dataset = EpisodeDataset(path)
            encoder = config.model.encoder
            if config.data.features == "stored" and not (encoder.trainable or encoder.reads_features):
                job = encode_job(config, dataset, None)
                if repr(job) not in made:
                    made.add(repr(job))
                    encode_features(job, runtime, self.console)
            elif config.data.features == "encode" and path + " frames" not in made and self._decodes_here(config):
                made.add(path + " frames")
                open_reader(config.data, dataset)

    def _decodes_here(self, config: RunConfig) -> bool:
        """Whether trials run on this node; on a cluster each node decodes for itself, when its first trial asks."""
        return config.data.loader != "stream" and not joins_a_cluster()

    def _known_runs(self) -> Iterator[RunConfig]:
        points = self.search.points_known_before() or [{}]
        for number, point in enumerate(points):
            yield with_point(self.request.config, point, f"trial {number}")

    # -- fresh episodes ----------------------------------------------------------------------------------------------

    def _evaluate_again(self, best: Sequence[TrialRecord]) -> list[Final]:
        settings, config = self.request.settings, self.request.config
        if not best or config.env.id == "none" or config.evaluation.goal_source == "image":
            return []
        seed = fresh_seed(settings, config.evaluation.seed)
        what = f"the best {len(best)} on {settings.final_episodes} fresh episodes, seed {seed}"
        with self.console.stage("final", what):
            numbers = [record.number for record in best]
            if config.local:
                jobs = [TrialJob.read(self.folder, number) for number in numbers]
                finals = [evaluate_again(job, self.folder.final_dir(job.number)) for job in jobs]
            else:
                from jepawm.distributed.tune import evaluate_again_on_ray

                finals = evaluate_again_on_ray(str(self.folder.path), config, settings, numbers, self.console.say)
        self.folder.write_finals(finals, seed)
        return finals

    # -- telling -----------------------------------------------------------------------------------------------------

    def _in_words(self) -> str:
        settings = self.request.settings
        judged = " and ".join(f"{metric} ({mode})" for metric, mode in settings.metrics)
        return (
            f"{self.search.num_trials} trials, search {settings.search.name}, scheduler {settings.scheduler.name}, "
            f"judged by {judged}"
        )

    def _tell(self, record: TrialRecord) -> None:
        settings = self.request.settings
        found = record.error or ", ".join(
            f"{metric} {record.metrics[metric]:.4g}" for metric, _ in settings.metrics if metric in record.metrics
        )
        if record.status == "stopped" and record.rungs:
            last = record.rungs[-1]
            found = f"{settings.rung_metric[0]} {last.value:.4g} at train step {last.train_step}"
        self.console.say(
            f"   trial {record.number} {record.status} after {record.seconds:.1f} s: {found}; {in_words(record.point)}"
        )

    def _why_none(self, records: Sequence[TrialRecord]) -> str:
        failed = [record for record in records if record.status == "failed"]
        why = f"; trial {failed[0].number}: {failed[0].error}" if failed else ""
        return (
            f"no trial of {self.folder.path} finished with a finite tune.metric '{self.request.settings.metric}' "
            f"({len(failed)} of {len(records)} failed{why})"
        )

    def _conclude(
        self, records: Sequence[TrialRecord], best: Sequence[TrialRecord], finals: Sequence[Final]
    ) -> SweepResult:
        """Chooses the trial to take, prints what was found, and writes the page."""
        settings, say = self.request.settings, self.console.say
        by_number = {record.number: record for record in records}
        in_order = sorted(finals, key=lambda each: _key_of(each, settings))
        chosen = by_number[in_order[0].number] if in_order else best[0]
        repeated = self._command(chosen)
        for record in best[: max(settings.num_final, 3)]:
            found = f"{settings.metric} {record.metrics[settings.metric]:.4g}"
            say(f"   {found}  trial {record.number}: {in_words(record.point)}")
        for final in in_order:
            say(
                f"   trial {final.number}: {final.in_sweep} in the sweep, {final.fresh} on fresh episodes, "
                f"{-final.drop:+.3f}"
            )
        totals = ", ".join(f"{seconds:.0f} s {status}" for status, seconds in seconds_of(records).items())
        wall_s = self.console.elapsed_s().get("trials")
        say(f"trials     {totals}" + ("" if wall_s is None else f"; all of them together took {wall_s:.0f} s"))
        say(f"best       trial {chosen.number}: {chosen.run_dir}")
        if repeated is not None:
            say(f"again      {repeated}")
        path = self.folder.path / REPORT_FILE
        shown = Shown(
            name=f"{self.request.space.name}, {self.request.recipe}",
            settings=settings,
            space=self.request.space,
            records=tuple(records),
            finals=tuple(in_order),
            best=chosen.number,
            command=repeated,
        )
        write_sweep_report(str(path), shown)
        say(f"report     {path}")
        return SweepResult(self.folder.path, tuple(records), chosen, tuple(in_order), repeated)

    def _command(self, record: TrialRecord) -> str | None:
        """The command that repeats a trial; None where its settings changed on the way."""
        if record.takeovers:
            return None
        own = _without(self.request.words, record.point)
        if self.request.model_dir is not None:
            return command(["jepawm", "evaluate", "--model", self.request.model_dir, *own, *flags(record.point)])
        return command(["jepawm", "train", "--recipe", self.request.recipe, *own, *flags(record.point)])


def _key_of(final: Final, settings: TuneConfig) -> tuple[float, float]:
    """Orders finals, the best first: by the sweep's metric where fresh episodes have it, else by success."""
    sign = -1.0 if settings.mode == "max" else 1.0
    return (sign * final.value if final.value is not None else 0.0, -final.fresh.success_rate)


def _without(words: Sequence[str], point: Point) -> list[str]:
    """Words of a command line without flags that a point sets, and without the folder of the sweep."""
    dropped = {f"--{key.replace('_', '-')}" for key in point} | {"--run-dir"}
    kept: list[str] = []
    keep = True
    for word in words:
        if word.startswith("--"):
            keep = word.split("=")[0].replace("_", "-") not in dropped
        if keep:
            kept.append(word)
    return kept


def _no_comparison(rung: Rung, checkpoint: str | None) -> None:
    """One trial after the other has nothing to be compared with."""
