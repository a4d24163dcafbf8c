"""Where a run's work happens. This module is the one without Ray; `jepawm.distributed.runtime` has its sibling."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch

from jepawm.config import EnvConfig, RunConfig, ScalingConfig, home
from jepawm.config.places import local_path, uri_of
from jepawm.config.pretrain import PretrainConfig
from jepawm.data.importers.conversion import Reader, read_serially
from jepawm.device import pick_device
from jepawm.errors import ConfigError
from jepawm.evaluation.planner_pool import ModelParcel
from jepawm.rollout import EnvHost, EnvPool, SerialBackend
from jepawm.rollout.backend import Backend
from jepawm.runs.directory import Job
from jepawm.runs.placement import PlacementPlan, Stage
from jepawm.runs.training_here import Kept, train_here
from jepawm.runs.usage import THIS_PROCESS, Share, UsageMeter
from jepawm.shared_folders import ClusterReport, Folders
from jepawm.training.checkpoint import Snapshot
from jepawm.training.features import EncodeJob, encode_shards
from jepawm.training.loop import Metrics
from jepawm.training.place import TrainingPlace
from jepawm.training.pretrain import run_pretraining
from jepawm.training.run import run_training

# What a run's processes do; workers that train and actors that encode are counted where they are started.
Role = Literal["driver", "evaluating driver", "environment hosts", "planner hosts"]


class Runtime(Protocol):
    """Hosts environments and trains.

    Attributes:
        usage: Counts what is held.
    """

    usage: UsageMeter

    def share(self, role: Role, config: Job) -> Share | None:
        """What a role of a run holds; None where it holds nothing that another role has not."""
        ...

    def show(self, numbers: Mapping[str, float]) -> None:
        """Shows numbers to whatever watches the runtime's processes, such as Ray's metrics.

        Args:
            numbers: By name, e.g. `train_step`; `jepawm.distributed.gauges` lists them.
        """
        ...

    def place(self, config: RunConfig, stages: Collection[Stage]) -> PlacementPlan:
        """Plans where the processes of a run go.

        Args:
            config: The resolved configuration.
            stages: What will run.

        Raises:
            ConfigError: They do not fit, with the sums.
        """
        ...

    def place_pretraining(self, config: PretrainConfig) -> PlacementPlan:
        """Plans where the processes of a pretraining go; see `place`."""
        ...

    def env_pool(self, env: EnvConfig, scaling: ScalingConfig) -> EnvPool:
        """A pool of environment hosts."""
        ...

    def planner_backend(self, env: EnvConfig, scaling: ScalingConfig, device: str, parcel: ModelParcel) -> Backend:
        """Planner hosts, see `jepawm.evaluation.planner_pool`.

        Args:
            env: Which environment.
            scaling: Hosts, what each claims, and their environment hosts.
            device: As in the run.
            parcel: The model that they plan with.
        """
        ...

    def reader(self) -> Reader:
        """What reads the episodes of a source that is converted."""
        ...

    def train(
        self, config: RunConfig, dataset_path: str, run_dir: str, *, spent: Callable[[], bool] = lambda: False
    ) -> str:
        """Trains, continuing from the newest checkpoint in `run_dir` if there is one.

        Args:
            config: The resolved configuration.
            dataset_path: A complete dataset.
            run_dir: The run.
            spent: Whether training had better end at a checkpoint, before its last train step; asked often.

        Returns:
            The folder of the last checkpoint.

        Raises:
            Interrupted: A signal asked for the end, and a checkpoint was written.
        """
        ...

    def pretrain(self, config: PretrainConfig, run_dir: str, *, spent: Callable[[], bool] = lambda: False) -> str:
        """Pretrains an encoder, continuing from the newest checkpoint in `run_dir`; see `train`."""
        ...

    def encode(self, job: EncodeJob) -> Iterator[int]:
        """Fills the shards of a feature store that are missing.

        Yields:
            Frames of each shard that was kept.
        """
        ...

    def describe(self) -> str:
        """One line: what this run runs on."""
        ...

    def keep_log(self, folder: str) -> None:
        """Writes what the runtime has to tell about lost nodes and processes to a file in a folder."""
        ...

    def close(self) -> None:
        """Frees what was started."""
        ...


def import_triton_before_mesa() -> None:
    """Imports Triton where it is installed; call this before an environment is made in a process that trains.

    torch's optimisers import Triton. Triton and Mesa's software renderer each bring an LLVM of their own; the process
    crashes where Mesa is loaded first, and works where Triton is.
    """
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")


def this_process(device: str) -> Share:
    """What a process holds that does everything itself.

    Args:
        device: Where it computes, as the settings name it.
    """
    return Share(THIS_PROCESS, 1, torch.get_num_threads(), float(pick_device(device).type == "cuda"))


class LocalRuntime:
    """Everything in this process: for laptops, notebooks and debuggers.

    Args:
        after_checkpoint: Called between two train steps with each checkpoint's folder, train step and metrics as soon
            as it is whole. What it raises ends the training.
    """

    def __init__(self, after_checkpoint: Callable[[str, int, Metrics], None] | None = None) -> None:
        self._after_checkpoint = after_checkpoint
        self.usage = UsageMeter()

    def share(self, role: Role, config: Job) -> Share | None:
        return this_process(config.device) if role == "driver" else None

    def show(self, numbers: Mapping[str, float]) -> None:
        """Nothing watches one process; `metrics.jsonl` has the numbers of training."""

    def place(self, config: RunConfig, stages: Collection[Stage]) -> PlacementPlan:
        return PlacementPlan((), f"everything, on {pick_device(config.device)}")

    def place_pretraining(self, config: PretrainConfig) -> PlacementPlan:
        return PlacementPlan((), f"everything, on {pick_device(config.device)}")

    def env_pool(self, env: EnvConfig, scaling: ScalingConfig) -> EnvPool:
        import_triton_before_mesa()
        return EnvPool(SerialBackend(lambda: EnvHost(env)), max_restarts=scaling.max_actor_restarts)

    def planner_backend(self, env: EnvConfig, scaling: ScalingConfig, device: str, parcel: ModelParcel) -> Backend:
        raise ConfigError("planner hosts are Ray actors; leave out --local, or set scaling.num_planner_hosts to 0")

    def reader(self) -> Reader:
        return read_serially

    def train(
        self, config: RunConfig, dataset_path: str, run_dir: str, *, spent: Callable[[], bool] = lambda: False
    ) -> str:
        def work(place: TrainingPlace) -> None:
            run_training(
                config.training_plan(),
                dataset_path,
                restore_from=place.restore_from,
                on_metrics=place.on_metrics,
                on_checkpoint=lambda state, spec, record: place.save(lambda: Snapshot.of(state, spec), record),
                after_step=place.after_step,
                stop=place.stop,
            )

        kept = Kept(config.train.num_train_steps, config.train.num_checkpoints_kept, config.train)
        return train_here(run_dir, kept, work, spent=spent, after_checkpoint=self._after_checkpoint)

    def pretrain(self, config: PretrainConfig, run_dir: str, *, spent: Callable[[], bool] = lambda: False) -> str:
        kept = Kept(config.num_train_steps, config.train.num_checkpoints_kept)
        return train_here(run_dir, kept, partial(run_pretraining, config), spent=spent)

    def encode(self, job: EncodeJob) -> Iterator[int]:
        store, encoder = job.open()
        yield from encode_shards(store, encoder, store.missing_shards, pick_device("auto"))

    def describe(self) -> str:
        return "one process, without Ray"

    def keep_log(self, folder: str) -> None:
        return None

    def close(self) -> None:
        return None


def make_runtime(config: Job, say: Callable[[str], None] | None = None) -> Runtime:
    """The runtime a configuration asks for; Ray is imported only without `--local`.

    Args:
        config: The resolved configuration.
        say: Told where processes wait for room on a cluster, and which nodes it lost; None: printed.

    Raises:
        ConfigError: The nodes of a cluster do not share the run's folders, or run other code than this process.
    """
    if config.local:
        return LocalRuntime()
    runtime = ray_runtime(config.scaling, config.device, say)
    try:
        from jepawm.distributed.cluster_check import check_cluster

        check_cluster(folders_of(config))
    except BaseException:
        runtime.close()
        raise
    return runtime


def ray_runtime(
    scaling: ScalingConfig | None = None, device: str = "auto", say: Callable[[str], None] | None = None
) -> Runtime:
    """The runtime on Ray; takes the sections and `say` of `make_runtime`."""
    from jepawm.distributed.runtime import RayRuntime

    return RayRuntime(scaling or ScalingConfig(), device, say)


def home_folder() -> Folders:
    """The folder that all nodes of a cluster must share whatever runs there."""
    uri = uri_of(home())
    return Folders({"$JEPAWM_HOME": home()}) if uri is None else Folders({}, stores={"$JEPAWM_HOME": uri})


def folders_of(config: Job) -> Folders:
    """The folders of a run that all nodes of a cluster must share."""
    shared = home_folder()
    written, read, stores = dict(shared.written), {}, dict(shared.stores)
    run_dir = None if config.run_dir is None else local_path(config.run_dir)
    if run_dir is not None and not _is_below(run_dir, home()):
        uri = uri_of(run_dir)
        if uri is None:
            written["run_dir"] = os.path.abspath(run_dir)
        else:
            stores["run_dir"] = uri
    for key, path in _read_by(config).items():
        # What lies at a URI is fetched by each node that needs it.
        if uri_of(path) is None and not _is_below(path, home()):
            read[key] = os.path.abspath(path)
    return Folders(written, read, stores)


def _read_by(config: Job) -> dict[str, str]:
    """Folders that a run reads, by the setting that names each."""
    if isinstance(config, PretrainConfig):
        sources = config.clips.all_sources
        return {f"clips.sources.{number}": local_path(each.path) for number, each in enumerate(sources)}
    path = config.data.path if config.data.source in ("dataset", "convert") else None
    return {} if path is None else {"data.path": local_path(path)}


@contextmanager
def reading_on_ray(source: Path) -> Iterator[Reader]:
    """A reader of a source's episodes that uses every CPU of the cluster.

    Args:
        source: The file or folder that they are read from.

    Raises:
        ConfigError: Several nodes do not share it, or run other code than this process.
    """
    runtime = ray_runtime()
    try:
        from jepawm.distributed.cluster_check import check_cluster

        check_cluster(Folders({}, read={"SOURCE": os.path.abspath(source)}))
        yield runtime.reader()
    finally:
        runtime.close()


def examine_cluster(folders: Folders) -> ClusterReport:
    """What each node of the cluster that this process joins finds of the folders, and which code it runs.

    Raises:
        ConfigError: This process itself cannot write to one of the folders.
    """
    from jepawm.distributed.cluster_check import examine_cluster
    from jepawm.distributed.session import ray_session

    with ray_session():
        return examine_cluster(folders)


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath((os.path.abspath(path), folder)) == folder
