"""The trials of a study as tasks of Ray: each claims one bundle, and Ray runs as many at once as there is room for."""

from collections.abc import Callable, Mapping

import ray

from jepawm.config.study import StudyTrialsConfig
from jepawm.distributed.cluster import look_at_cluster, startable_nodes
from jepawm.distributed.trial_room import gpus_of_trial, trials_at_once
from jepawm.distributed.tune_workers import Surroundings
from jepawm.interrupts import Interrupted
from jepawm.runs.study_trial import run_study_trial
from jepawm.study.records import TrialFolder
from jepawm.tuning.resources import OF_A_STUDY, TrialClaim


def study_on_ray(
    settings: StudyTrialsConfig,
    device: str,
    folders: Mapping[str, str],
    on_over: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Runs trials, in order, as many at once as fit.

    Args:
        settings: What a trial claims.
        device: Of the runs.
        folders: Of each trial, by its identity; all nodes see them.
        on_over: Told of each trial whose process has ended.
        say: Told a line about resources.

    Raises:
        ConfigError: Not even one trial fits the cluster; the sums are shown.
        FolderGoneError: A folder of a trial went away; see `run_study_trial`.
        FolderInUseError: Another process works in the folder of a trial.
    """
    cluster = look_at_cluster(startable=startable_nodes())
    gpus = gpus_of_trial(device, settings.gpus, cluster, key="trials.gpus")
    claim = TrialClaim.of_process(settings.cpus, gpus)
    most = trials_at_once(claim, settings.max_concurrent, cluster, len(folders), say, settings=OF_A_STUDY)
    say(f"   {most} trial(s) at once, each {claim.sums()}")
    surroundings = Surroundings.of_driver(settings.cpus)

    def work(path: str) -> None:
        surroundings.enter()
        try:
            run_study_trial(TrialFolder(path), gpus=gpus)
        except Interrupted as stop:
            # A node that is drained ends its processes by a signal. Ray would take a KeyboardInterrupt for a
            # cancellation, and a cancelled task is never run again.
            raise ConnectionError(str(stop)) from stop

    remote = ray.remote(
        num_cpus=settings.cpus,
        num_gpus=gpus,
        max_retries=settings.max_deaths,
        retry_exceptions=[ConnectionError],
    )(work)
    waiting, running = list(folders), dict[ray.ObjectRef, str]()
    while waiting or running:
        while waiting and len(running) < most:
            which = waiting.pop(0)
            running[remote.remote(folders[which])] = which
        done, _ = ray.wait(list(running), num_returns=1)
        for each in done:
            which = running.pop(each)
            try:
                ray.get(each)
            except ray.exceptions.RayError as error:
                # What is wrong with a trial is kept by it. A process that ended, or was interrupted, counts as a
                # death; all else is a fault of the place, and the study ends with it.
                if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, ConnectionError):
                    raise error.cause from error
                folder = TrialFolder(folders[which])
                why = str(error).strip().splitlines()[-1]
                folder.write(
                    folder.found.failed(
                        f"its process ended more often than trials.max_deaths allows; the last time: {why}"
                    )
                )
            on_over(which)
