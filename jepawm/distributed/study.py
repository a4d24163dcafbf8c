"""The trials of a study as tasks of Ray: each claims one bundle, and Ray runs as many at once as there is room for."""

from collections.abc import Callable, Mapping

import ray

from jepawm.config.study import StudyTrialsConfig
from jepawm.distributed.cluster import look_at_cluster, startable_nodes
from jepawm.distributed.trial_room import gpus_of_trial, trials_at_once
from jepawm.distributed.tune_workers import Surroundings
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
    """
    cluster = look_at_cluster(startable=startable_nodes())
    gpus = gpus_of_trial(device, settings.gpus, cluster, key="trials.gpus")
    claim = TrialClaim.of_process(settings.cpus, gpus)
    most = trials_at_once(claim, settings.max_concurrent, cluster, len(folders), say, settings=OF_A_STUDY)
    say(f"   {most} trial(s) at once, each {claim.sums()}")
    surroundings = Surroundings.of_driver(settings.cpus)

    def work(path: str) -> None:
        surroundings.enter()
        run_study_trial(TrialFolder(path), gpus=gpus)

    remote = ray.remote(num_cpus=settings.cpus, num_gpus=gpus, max_retries=settings.max_deaths)(work)
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
                # What the trial itself raises is kept by it; this is the end of its process, or of its node.
                folder = TrialFolder(folders[which])
                why = str(error).strip().splitlines()[-1]
                folder.write(
                    folder.found.failed(
                        f"its process ended more often than trials.max_deaths allows; the last time: {why}"
                    )
                )
            on_over(which)
