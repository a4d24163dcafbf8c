"""A run on Ray: environment actors, Ray Train workers, one session around both."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from jepawm.config import EnvConfig, RunConfig, ScalingConfig
from jepawm.config.pretrain import PretrainConfig
from jepawm.data.importers.conversion import Reader
from jepawm.distributed.gauges import RunGauges
from jepawm.distributed.session import RayLog, connect
from jepawm.evaluation.planner_pool import ModelParcel
from jepawm.rollout import EnvPool
from jepawm.rollout.backend import Backend
from jepawm.runs.directory import Job
from jepawm.runs.placement import Cluster, PlacementPlan, Stage, place_pretraining, place_run
from jepawm.runs.placement.demand import Demand
from jepawm.runs.runtime import Role
from jepawm.runs.usage import Share, UsageMeter
from jepawm.training.features import EncodeJob

if TYPE_CHECKING:
    from jepawm.distributed.cluster import Startable


class RayRuntime:
    """See `jepawm.runs.runtime.Runtime`.

    Args:
        scaling: Size of the Ray that is started here, if none is there to connect to.
        device: Of the run.
        say: Told where a process waits for room on the cluster, and which nodes it lost; None: printed.
    """

    def __init__(self, scaling: ScalingConfig, device: str = "auto", say: Callable[[str], None] | None = None) -> None:
        self._log = RayLog(say)
        self._started = connect(object_store_memory_mib=scaling.object_store_memory_mib, log=self._log)
        self._scaling, self._device, self._say = scaling, device, say
        self._parcels: dict[tuple[str, ...], Any] = {}
        self._gauges = RunGauges()
        self.usage = UsageMeter()

    def share(self, role: Role, config: Job) -> Share | None:
        scaling = config.scaling
        if role == "driver":
            return Share(role, 1, 1.0)
        if role == "evaluating driver":
            import torch

            # The driver plans on a GPU of its own node, which Ray does not give it, where it has one.
            has_gpu = config.device.startswith(("auto", "cuda")) and torch.cuda.is_available()
            return Share(role, 1, 0.0, 1.0) if has_gpu else None
        demand, is_env = self._demand(scaling, config.device), role == "environment hosts"
        claim = demand.env_actor() if is_env else demand.planner_host()
        return Share(role, scaling.num_env_actors if is_env else scaling.num_planner_hosts, claim.cpus, claim.gpus)

    def show(self, numbers: Mapping[str, float]) -> None:
        self._gauges.show(numbers)

    def place(self, config: RunConfig, stages: Collection[Stage]) -> PlacementPlan:
        import torch

        return place_run(config, stages, self._cluster(), driver_has_gpu=torch.cuda.is_available())

    def place_pretraining(self, config: PretrainConfig) -> PlacementPlan:
        return place_pretraining(config, self._cluster())

    def env_pool(self, env: EnvConfig, scaling: ScalingConfig) -> EnvPool:
        from jepawm.distributed.env_pool import EnvActors, ray_env_pool

        demand = self._demand(scaling, self._device)
        return ray_env_pool(env, scaling, actors=EnvActors(demand.env_actor(), self._can_grow, self._say))

    def planner_backend(self, env: EnvConfig, scaling: ScalingConfig, device: str, parcel: ModelParcel) -> Backend:
        import ray

        from jepawm.distributed.planner_pool import planner_backend

        # Weights go to the object store once; those of an earlier version are let go.
        key = (parcel.version, *sorted(parcel.heads))
        if key not in self._parcels:
            self._parcels = {key: ray.put(parcel)}
        demand = self._demand(scaling, device)
        return planner_backend(env, demand, self._parcels[key], can_grow=self._can_grow, say=self._say)

    def reader(self) -> Reader:
        from jepawm.distributed.convert import read_on_ray

        return partial(read_on_ray, timeout_s=self._scaling.placement_timeout_s, say=self._say)

    def train(
        self, config: RunConfig, dataset_path: str, run_dir: str, *, spent: Callable[[], bool] = lambda: False
    ) -> str:
        from jepawm.distributed.train import ray_train

        claim = self._demand(config.scaling, config.device).worker()
        return ray_train(config, dataset_path, run_dir, claim, self._say, usage=self.usage, spent=spent)

    def pretrain(self, config: PretrainConfig, run_dir: str, *, spent: Callable[[], bool] = lambda: False) -> str:
        from jepawm.distributed.pretrain import ray_pretrain

        claim = self._demand(config.scaling, config.device).worker()
        return ray_pretrain(config, run_dir, claim, self._say, usage=self.usage, spent=spent)

    def encode(self, job: EncodeJob) -> Iterator[int]:
        from jepawm.distributed.encode import encode_on_ray

        return encode_on_ray(job, self._demand(self._scaling, self._device), self._say, usage=self.usage)

    def describe(self) -> str:
        import ray

        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        return f"Ray {ray.__version__}, {nodes} node(s), {int(resources.get('CPU', 0))} CPUs, {gpus} GPUs"

    def keep_log(self, folder: str) -> None:
        self._log.write_to(folder)

    def close(self) -> None:
        import ray

        self._log.close()
        if self._started:
            ray.shutdown()

    def _demand(self, scaling: ScalingConfig, device: str) -> Demand:
        return Demand(scaling, device, self._cluster())

    def _cluster(self) -> Cluster:
        """The nodes that run now, and those that can be started."""
        from jepawm.distributed.cluster import look_at_cluster

        return look_at_cluster(is_own=self._started, startable=self._startable)

    @cached_property
    def _startable(self) -> "Startable | None":
        from jepawm.distributed.cluster import NOTHING_STARTABLE, startable_nodes

        return NOTHING_STARTABLE if self._started else startable_nodes()

    @property
    def _can_grow(self) -> bool:
        """Whether an autoscaler starts nodes, as far as is known; a lost node leaves room for another one."""
        return self._startable is None or bool(self._startable.types)
