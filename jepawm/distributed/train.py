"""Ray Train: `jepawm.training` in any number of workers, whether a world model is trained or an encoder pretrained."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, CheckpointUploadMode, FailureConfig
from ray.train import RunConfig as RayRunConfig
from ray.train import ScalingConfig as ScalingConfigOfRay
from ray.train.torch import TorchConfig, TorchTrainer

from jepawm.config import RunConfig, ScalingConfig
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
from jepawm.distributed.worker_count import BatchSizes, ElasticWorkers
from jepawm.errors import JepawmError, TrainingError
from jepawm.interrupts import Interrupted, StopRequest, noted_signals
from jepawm.runs.placement.demand import Claim, Demand
from jepawm.runs.training_here import Kept
from jepawm.runs.usage import TRAINING_WORKERS, Share, UsageMeter
from jepawm.shared_folders import check_sees
from jepawm.tracking import METRICS_FILE, MetricsWriter
from jepawm.training.checkpoint import Snapshot, checkpoint_name, checkpoint_step, newest_checkpoint
from jepawm.training.checkpoint_writer import CheckpointWriter, Writable
from jepawm.training.loop import Metrics
from jepawm.training.place import TrainingPlace
from jepawm.training.run import run_training
from jepawm.training.stopping import StopAgreement
from jepawm.types import WindowBatch


def train_on_worker(job: dict[str, Any]) -> None:
    """One Ray Train worker that trains a world model; see `work_on`."""
    work_on(job, _train)


def _train(job: dict[str, Any], place: TrainingPlace) -> None:
    """A shell around `run_training`.

    Args:
        job: See `work_on`; `config` is a run's, `dataset_path` its dataset, `feed` where batches come from Ray Data
            (else None; see `jepawm.distributed.window_stream`).
        place: What it goes on from, and where metrics and checkpoints go.
    """
    plan = replace(from_dict(RunConfig, job["config"]).training_plan(), device=job["device"])

    def batches_from(train_step: int) -> Iterator[WindowBatch]:
        share: dict[str, int] = {"train_step": train_step, "rank": place.rank, "world_size": place.world_size}
        return stream_batches(plan, job["dataset_path"], job["feed"], **share)

    run_training(
        plan,
        job["dataset_path"],
        rank=place.rank,
        world_size=place.world_size,
        restore_from=place.restore_from,
        stream=None if job["feed"] is None else batches_from,
        on_metrics=place.on_metrics,
        on_checkpoint=lambda state, spec, record: place.save(lambda: Snapshot.of(state, spec), record),
        after_step=place.after_step,
        stop=place.stop,
    )


def work_on(job: dict[str, Any], train: Callable[[dict[str, Any], TrainingPlace], None]) -> None:
    """A Ray Train worker's part of a training, whatever is trained, with the files of the job on its node.

    Args:
        job: What `ray_fit` sends to every worker: `config` (plain data), `dataset_path` (None: none), `run_dir`,
            `device` (where it computes), `num_threads` (on a CPU; None: its share of its node), `elastic` (whether the
            number of workers may change), `kept` (see `jepawm.runs.training_here.Kept`), `stop_signal` (see
            `jepawm.distributed.stopping`) and `stored` (what a run at a URI needs besides, else None; see
            `jepawm.distributed.stored_home`).
        train: Trains, with paths of this node.
    """
    # From here on the driver counts the worker as begun, though it may fetch files for a while.
    stop = worker_agreement(job["stop_signal"])
    with opened_on_worker(job) as (here, stored):
        _work_on(here, stored, stop, train)


def _work_on(
    job: dict[str, Any],
    stored: StoredWorker | None,
    stop: StopAgreement,
    train: Callable[[dict[str, Any], TrainingPlace], None],
) -> None:
    check_sees(job["run_dir"], "the run directory")
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if job["device"] == "cpu":
        torch.set_num_threads(job["num_threads"] or share_of_node(context.get_local_world_size()))
    resume = ray.train.get_checkpoint()
    metrics_path = os.path.join(job["run_dir"], METRICS_FILE)
    checkpoints_dir = os.path.join(job["run_dir"], "checkpoints")
    kept: Kept = job["kept"]
    best = kept.best(job["run_dir"])

    def work(restore_from: str | None, train_step: int | None) -> None:
        writer = MetricsWriter(metrics_path, resume_step=train_step) if rank == 0 else None
        with CheckpointWriter(write) as checkpoints:
            place = TrainingPlace(
                restore_from,
                save=partial(report, checkpoints),
                on_metrics=partial(write_metrics, writer) if writer else None,
                after_step=checkpoints.check,
                stop=stop,
                rank=rank,
                world_size=world_size,
            )
            train(job, place)

    def write_metrics(writer: MetricsWriter, record: Metrics) -> None:
        writer.write(record | {"scaling/num_workers": world_size} if job["elastic"] else record)

    def write(copy: Writable, record: Metrics) -> None:
        place = os.path.join(checkpoints_dir, checkpoint_name(copy.train_step))
        copy.write(place)
        if best is not None:
            best.consider(place, copy.train_step, record)
        if stored is not None:
            stored.keep(checkpoints_dir, kept.num_checkpoints)

    def report(checkpoints: CheckpointWriter, copy: Callable[[], Writable], record: Metrics) -> None:
        name = checkpoint_name(record["train_step"])
        if stored is not None:
            if rank == 0:
                checkpoints.save(copy, record)
            return
        if rank:
            ray.train.report(record, checkpoint_dir_name=name)
            return
        written = checkpoints.save(copy, record)

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
        work(stored.restore_from, checkpoint_step(stored.restore_from))
    elif resume is None:
        # Ray Train knows no checkpoint; one may lie here all the same, e.g. that of another trial of a sweep.
        newest = newest_checkpoint(checkpoints_dir)
        work(newest, checkpoint_step(newest))
    else:
        with resume.as_directory() as restored:
            work(restored, checkpoint_step(resume.path))


def share_of_node(processes: int) -> int:
    """Threads of a process that shares the CPUs of its node with others of its kind."""
    here = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == here]
    # Logical CPUs may be more than the machine has.
    cpus = min(int(node["Resources"].get("CPU", 1)), os.cpu_count() or 1)
    return max(1, cpus // processes)


@dataclass(frozen=True)
class RayTraining:
    """A training as the driver sees it, whatever is trained.

    Attributes:
        worker: What each Ray Train worker runs on its job; calls `work_on`.
        job: What it is told besides what `work_on` names, as plain data.
        scaling: Workers, and what each claims.
        device: Of the run.
        kept: How far it goes, and what stays on disk.
        batch: Sizes that the number of workers must divide.
        feed: Starts an actor that hands out batches, for one attempt; None: workers read for themselves.
        evaluates: Whether the driver evaluates checkpoints meanwhile.
    """

    worker: Callable[[dict[str, Any]], None]
    job: dict[str, Any]
    scaling: ScalingConfig
    device: str
    kept: Kept
    batch: BatchSizes
    feed: Callable[[], Any] | None = None
    evaluates: bool = False


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
    """Trains a world model with Ray Train, continuing what `run_dir` holds.

    Args:
        config: The resolved configuration.
        dataset_path: A dataset that the nodes of all workers can read.
        run_dir: A folder on a file system that the driver and the workers share.
        claim: See `ray_fit`, as for the arguments below.
        say: Told where workers wait for room.
        usage: Counts what the workers hold.
        spent: Whether training had better end.

    Returns:
        The folder of the last checkpoint.

    Raises:
        JepawmError: See `ray_fit`.
    """
    train, dataset = config.train, portable_path(os.path.abspath(dataset_path))
    stream = choose_loader(config.data, EpisodeDataset(os.path.abspath(dataset_path)), local=False) == "stream"
    training = RayTraining(
        train_on_worker,
        {"config": portable_config(config), "dataset_path": dataset},
        config.scaling,
        config.device,
        Kept(train.num_train_steps, train.num_checkpoints_kept, train),
        train,
        feed=partial(start_feed, config.training_plan(), dataset) if stream else None,
        evaluates=config.evaluation.every_num_train_steps is not None,
    )
    return ray_fit(training, run_dir, claim, say, usage=usage, spent=spent)


def ray_fit(
    training: RayTraining,
    run_dir: str,
    claim: Claim | None = None,
    say: Say | None = None,
    *,
    usage: UsageMeter | None = None,
    spent: Callable[[], bool] = lambda: False,
) -> str:
    """Trains with Ray Train, continuing what `run_dir` holds.

    Args:
        training: What is trained.
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
    failures, done, scaling = 0, -1, training.scaling
    claim = claim or Demand(scaling, training.device, look_at_cluster()).worker()
    workers = ElasticWorkers(scaling, training.batch, claim)
    waiting = Waiting("training worker", claim, scaling.placement_timeout_s, say)
    # Ray Train would give up its place in the queue every minute, and a node takes longer than that to start.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(scaling.placement_timeout_s))
    with noted_signals() as request, _wanted(workers):
        while True:
            try:
                attempt = _Attempt(training, run_dir, workers, waiting, usage or UsageMeter(), spent)
                folder = _fit(attempt, request)
            except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
                cause = _cause(error)
                if isinstance(cause, JepawmError):
                    raise cause from error
                failures += 1
                # An error of the code comes again at the same train step; only a lost process is worth another attempt.
                if not _lost_a_process(error) or failures > scaling.max_train_failures:
                    raise TrainingError(f"training failed on a worker: {cause!r}") from error
                continue
            train_step = checkpoint_step(folder) or 0
            if train_step >= training.kept.num_train_steps:
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

    training: RayTraining
    run_dir: str
    workers: ElasticWorkers
    waiting: Waiting
    usage: UsageMeter
    spent: Callable[[], bool]


def _fit(attempt: _Attempt, request: StopRequest) -> str:
    """Trains; returns the folder of the last checkpoint."""
    training, workers, run_dir = attempt.training, attempt.workers, os.path.abspath(attempt.run_dir)
    claim, count = workers.claim, workers.choose()
    device = device_of_claim(training.device, claim.gpus)
    job: dict[str, Any] = {
        **training.job,
        "run_dir": portable_path(run_dir),
        "device": device,
        "num_threads": training.scaling.cpus_per_worker,
        "elastic": workers.is_elastic,
        "kept": training.kept,
        "feed": None if training.feed is None else training.feed(),
        "stop_signal": start_stop_signal(),
        "stored": (stored := stored_run(run_dir)),
    }
    keeps = {"name": "checkpoints", "storage_path": run_dir}
    if stored is not None:
        keeps = ray_storage(run_dir, attempt=uuid.uuid4().hex)
    trainer = TorchTrainer(
        training.worker,
        train_loop_config=job,
        # A claimed GPU need not be one that torch computes on.
        torch_config=TorchConfig(backend=None if device == "cuda" else "gloo"),
        scaling_config=ScalingConfigOfRay(
            num_workers=count,
            use_gpu=claim.gpus > 0,
            resources_per_worker=claim.resources,
            label_selector=dict(claim.selector) or None,
            # GPUs of one node exchange gradients faster; workers on CPUs want nodes of their own.
            placement_strategy="PACK" if claim.gpus else "SPREAD",
        ),
        run_config=RayRunConfig(
            **keeps,
            # Ray Train would repeat every error; `ray_fit` repeats what is worth it.
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(num_to_keep=training.kept.num_checkpoints),
        ),
    )
    more = (lambda: workers.choose() > count) if workers.is_elastic else None
    with (
        _ended_with_it(job["stop_signal"], job["feed"]),
        followed(run_dir, with_checkpoints=training.evaluates),
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
