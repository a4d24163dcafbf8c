"""Ray Train: `jepawm.training` in any number of workers."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, CheckpointUploadMode, FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import RunConfig
from jepawm.config.places import portable_path
from jepawm.config.yaml_io import from_dict
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import choose_loader
from jepawm.device import device_of_claim
from jepawm.distributed.cluster import look_at_cluster
from jepawm.distributed.stopping import run_and_pass_on, start_stop_signal, worker_agreement
from jepawm.distributed.stored_home import (
    StoredWorker,
    followed,
    last_checkpoint,
    opened_on_worker,
    portable_config,
    ray_storage,
    stored_run,
)
from jepawm.distributed.waiting import Say, Waiting
from jepawm.distributed.window_stream import start_feed, stream_batches
from jepawm.distributed.worker_count import ElasticWorkers
from jepawm.errors import JepawmError, TrainingError
from jepawm.interrupts import Interrupted, StopRequest, noted_signals
from jepawm.runs.placement.demand import Claim, Demand
from jepawm.runs.usage import TRAINING_WORKERS, Share, UsageMeter
from jepawm.shared_folders import check_sees
from jepawm.tracking import METRICS_FILE, MetricsWriter
from jepawm.training.checkpoint import Snapshot, checkpoint_name, checkpoint_step, newest_checkpoint
from jepawm.training.checkpoint_writer import BestCheckpoint, CheckpointWriter
from jepawm.training.loop import Metrics, TrainingState
from jepawm.training.run import run_training
from jepawm.training.stopping import StopAgreement
from jepawm.types import WindowBatch


def train_on_worker(job: dict[str, Any]) -> None:
    """One Ray Train worker, with the files of the job on its node; see `_train`."""
    # From here on the driver counts the worker as begun, though it may fetch files for a while.
    stop = worker_agreement(job["stop_signal"])
    with opened_on_worker(job) as (here, stored):
        _train(here, stored, stop)


def _train(job: dict[str, Any], stored: StoredWorker | None, stop: StopAgreement) -> None:
    """A shell around `run_training`.

    Args:
        job: What `ray_train` sends to every worker: `config` (a run's, as a dictionary), `dataset_path`, `run_dir`,
            `device` (where it computes), `num_threads` (on a CPU; None: its share of its node), `elastic` (whether the
            number of workers may change), `feed` (where batches come from Ray Data, else None; see
            `jepawm.distributed.window_stream`), `stop_signal` (see `jepawm.distributed.stopping`) and `stored` (what a
            run at a URI needs besides, else None; see `jepawm.distributed.stored_home`).
        stored: What this worker does for a run at a URI.
        stop: When training ends early.
    """
    check_sees(job["run_dir"], "the run directory")
    plan = replace(from_dict(RunConfig, job["config"]).training_plan(), device=job["device"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if plan.device == "cpu":
        torch.set_num_threads(job["num_threads"] or share_of_node(context.get_local_world_size()))
    resume = ray.train.get_checkpoint()
    metrics_path = os.path.join(job["run_dir"], METRICS_FILE)

    checkpoints_dir = os.path.join(job["run_dir"], "checkpoints")
    best = BestCheckpoint.wanted(job["run_dir"], plan.train)

    def train(restore_from: str | None, train_step: int | None) -> None:
        writer = MetricsWriter(metrics_path, resume_step=train_step) if rank == 0 else None
        with CheckpointWriter(write) as checkpoints:
            run_training(
                plan,
                job["dataset_path"],
                rank=rank,
                world_size=world_size,
                restore_from=restore_from,
                stream=None if job["feed"] is None else batches_from,
                on_metrics=partial(write_metrics, writer) if writer else None,
                on_checkpoint=partial(report, checkpoints),
                after_step=checkpoints.check,
                stop=stop,
            )

    def batches_from(train_step: int) -> Iterator[WindowBatch]:
        place: dict[str, int] = {"train_step": train_step, "rank": rank, "world_size": world_size}
        return stream_batches(plan, job["dataset_path"], job["feed"], **place)

    def write_metrics(writer: MetricsWriter, record: Metrics) -> None:
        writer.write(record | {"scaling/num_workers": world_size} if job["elastic"] else record)

    def write(snapshot: Snapshot, record: Metrics) -> None:
        place = os.path.join(checkpoints_dir, checkpoint_name(snapshot.train_step))
        snapshot.write(place)
        if best is not None:
            best.consider(place, snapshot.train_step, record)
        if stored is not None:
            stored.keep(checkpoints_dir, plan.train.num_checkpoints_kept)

    def report(checkpoints: CheckpointWriter, state: TrainingState, spec: ModelSpec, record: Metrics) -> None:
        name = checkpoint_name(state.train_step)
        if stored is not None:
            if rank == 0:
                checkpoints.save(state, spec, record)
            return
        if rank:
            ray.train.report(record, checkpoint_dir_name=name)
            return
        written = checkpoints.save(state, spec, record)

        def wait_until_written(checkpoint: Checkpoint, _name: str) -> Checkpoint:
            written.result()
            return checkpoint

        # Ray Train learns of the checkpoint, and removes old ones, as soon as it is whole in its place.
        ray.train.report(
            record,
            checkpoint=Checkpoint.from_directory(os.path.join(checkpoints_dir, name)),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=wait_until_written,
            delete_local_checkpoint_after_upload=False,
        )

    if stored is not None:
        train(stored.restore_from, checkpoint_step(stored.restore_from))
    elif resume is None:
        # Ray Train knows no checkpoint; one may lie here all the same, e.g. that of another trial of a sweep.
        newest = newest_checkpoint(checkpoints_dir)
        train(newest, checkpoint_step(newest))
    else:
        with resume.as_directory() as restored:
            train(restored, checkpoint_step(resume.path))


def share_of_node(processes: int) -> int:
    """Threads of a process that shares the CPUs of its node with others of its kind."""
    here = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == here]
    # Logical CPUs may be more than the machine has.
    cpus = min(int(node["Resources"].get("CPU", 1)), os.cpu_count() or 1)
    return max(1, cpus // processes)


def ray_train(
    config: RunConfig,
    dataset_path: str,
    run_dir: str,
    claim: Claim | None = None,
    say: Say | None = None,
    *,
    usage: UsageMeter | None = None,
    spent: Callable[[], bool] = lambda: False,
) -> str:
    """Trains with Ray Train, continuing what `run_dir` holds.

    Args:
        config: The resolved configuration.
        dataset_path: A dataset that the nodes of all workers can read.
        run_dir: A folder on a file system that the driver and the workers share.
        claim: Of each worker; None: as the settings say on the cluster that this process is connected to.
        say: Told where workers wait for room; None: printed.
        usage: Counts what the workers hold; None: nothing is counted.
        spent: Whether training had better end at a checkpoint, before its last train step; asked often.

    Returns:
        The folder of the last checkpoint.

    Raises:
        JepawmError: A worker raised it.
        TrainingError: Workers died more often than `scaling.max_train_failures`, or a worker raised another error.
        Interrupted: A signal asked for the end, and a checkpoint was written.
        PlacementError: Workers found no room for `scaling.placement_timeout_s`.
    """
    failures, done, scaling = 0, -1, config.scaling
    claim = claim or Demand(scaling, config.device, look_at_cluster()).worker()
    workers = ElasticWorkers(scaling, config.train, claim)
    waiting = Waiting("training worker", claim, scaling.placement_timeout_s, say)
    # Ray Train would give up its place in the queue every minute, and a node takes longer than that to start.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(scaling.placement_timeout_s))
    with noted_signals() as request, _wanted(workers):
        while True:
            try:
                attempt = _Attempt(config, dataset_path, run_dir, workers, waiting, usage or UsageMeter(), spent)
                folder = _fit(attempt, request)
            except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
                cause = _cause(error)
                if isinstance(cause, JepawmError):
                    raise cause from error
                failures += 1
                # An error of the code comes again at the same train step; only a lost process is worth another attempt.
                if not _lost_a_process(error) or failures > config.scaling.max_train_failures:
                    raise TrainingError(f"training failed on a worker: {cause!r}") from error
                continue
            train_step = checkpoint_step(folder) or 0
            if train_step >= config.train.num_train_steps:
                return folder
            if request.signal_number is not None:
                raise Interrupted(request.signal_number)
            if spent():
                return folder
            # A node is about to be taken away, or there is room for more workers: the workers ended at a checkpoint,
            # and others go on from there.
            if train_step <= done:
                raise TrainingError(f"Ray Train ended twice at train step {train_step} without an error")
            done = train_step


@contextmanager
def _wanted(workers: ElasticWorkers) -> Iterator[None]:
    """An autoscaler knows while the context lasts how many workers the training would use."""
    workers.ask_for_all()
    try:
        yield
    finally:
        workers.ask_for_none()


@dataclass(frozen=True)
class _Attempt:
    """One start of the workers, which go on from the newest checkpoint in `run_dir`."""

    config: RunConfig
    dataset_path: str
    run_dir: str
    workers: ElasticWorkers
    waiting: Waiting
    usage: UsageMeter
    spent: Callable[[], bool]


def _fit(attempt: _Attempt, request: StopRequest) -> str:
    """Trains; returns the folder of the last checkpoint."""
    config, workers, run_dir = attempt.config, attempt.workers, os.path.abspath(attempt.run_dir)
    claim, count, dataset_path = workers.claim, workers.choose(), os.path.abspath(attempt.dataset_path)
    stream = choose_loader(config.data, EpisodeDataset(dataset_path), local=False) == "stream"
    device = device_of_claim(config.device, claim.gpus)
    job: dict[str, Any] = {
        "config": portable_config(config),
        "dataset_path": portable_path(dataset_path),
        "run_dir": portable_path(run_dir),
        "device": device,
        "num_threads": config.scaling.cpus_per_worker,
        "elastic": workers.is_elastic,
        "feed": start_feed(config.training_plan(), portable_path(dataset_path)) if stream else None,
        "stop_signal": start_stop_signal(),
        "stored": (stored := stored_run(run_dir)),
    }
    keeps = {"name": "checkpoints", "storage_path": run_dir}
    if stored is not None:
        keeps = ray_storage(run_dir, attempt=uuid.uuid4().hex)
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config=job,
        # A claimed GPU need not be one that torch computes on.
        torch_config=TorchConfig(backend=None if device == "cuda" else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=claim.gpus > 0,
            resources_per_worker=claim.resources,
            label_selector=dict(claim.selector) or None,
            # GPUs of one node exchange gradients faster; workers on CPUs want nodes of their own.
            placement_strategy="PACK" if claim.gpus else "SPREAD",
        ),
        run_config=RayRunConfig(
            **keeps,
            # Ray Train would repeat every error; `ray_train` repeats what is worth it.
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(num_to_keep=config.train.num_checkpoints_kept),
        ),
    )
    more = (lambda: workers.choose() > count) if workers.is_elastic else None
    with (
        _ended_with_it(job["stop_signal"], job["feed"]),
        followed(config, run_dir),
        attempt.usage.holding(Share(TRAINING_WORKERS, count, claim.cpus, claim.gpus)) as begin_again,
    ):

        def waits(begun: int) -> None:
            if not begun:
                # Workers that wait for a node hold nothing.
                begin_again()
            attempt.waiting.look(max(0, count - begun), count)

        result = run_and_pass_on(
            trainer.fit, request, job["stop_signal"], has_more_room=more, waits=waits, spent=attempt.spent
        )
    if stored is not None:
        return last_checkpoint(run_dir)
    if result.checkpoint is None:
        raise TrainingError(f"Ray Train ended without a checkpoint in {run_dir}")
    return str(result.checkpoint.path)


@contextmanager
def _ended_with_it(*actors: Any) -> Iterator[None]:
    """Ends the actors of an attempt with the context; Ray would keep them until the driver ends."""
    try:
        yield
    finally:
        for actor in actors:
            if actor is not None:
                ray.kill(actor)


def _cause(error: BaseException) -> BaseException:
    """The error that explains a failure: one of ours, else one that a worker's code raised, else the first there is."""
    failures = _failures(error)
    ours = [failure for failure in failures if isinstance(failure, JepawmError)]
    raised = [failure for failure in failures if not _is_rays(failure)]
    return next(iter([*ours, *raised, *failures]), error)


def _lost_a_process(error: BaseException) -> bool:
    """Whether a worker died, so that what its neighbours raised may only be that they missed it."""
    failures = _failures(error)
    return not failures or any(_is_rays(failure) for failure in failures)


def _is_rays(failure: BaseException) -> bool:
    """Whether Ray says that a process or node is gone, rather than that its code raised something."""
    return type(failure).__module__.startswith("ray.")


def _failures(error: BaseException) -> list[BaseException]:
    """What went wrong on each worker that Ray names, by rank."""
    failures = getattr(error, "worker_failures", None) or {}
    return [failures[rank] for rank in sorted(failures)]
