"""A run on Ray: environment actors, Ray Train workers, one session around both."""

from collections.abc import Iterator
from typing import Any

from jepawm.config import EnvConfig, RunConfig, ScalingConfig
from jepawm.data.importers.conversion import Reader
from jepawm.distributed.session import connect
from jepawm.evaluation.planner_pool import ModelParcel
from jepawm.rollout import EnvPool
from jepawm.rollout.backend import Backend
from jepawm.training.features import EncodeJob


class RayRuntime:
    """See `jepawm.runs.runtime.Runtime`.

    Args:
        scaling: Size of the Ray that is started here, if none is there to connect to.
    """

    def __init__(self, scaling: ScalingConfig) -> None:
        self._started = connect(object_store_memory_mib=scaling.object_store_memory_mib)
        self._parcels: dict[tuple[str, ...], Any] = {}

    def env_pool(self, env: EnvConfig, scaling: ScalingConfig) -> EnvPool:
        from jepawm.distributed.env_pool import ray_env_pool

        return ray_env_pool(env, scaling)

    def planner_backend(self, env: EnvConfig, scaling: ScalingConfig, device: str, parcel: ModelParcel) -> Backend:
        import ray

        from jepawm.distributed.planner_pool import planner_backend

        # Weights go to the object store once; those of an earlier version are let go.
        key = (parcel.version, *sorted(parcel.heads))
        if key not in self._parcels:
            self._parcels = {key: ray.put(parcel)}
        return planner_backend(env, scaling, device, self._parcels[key])

    def reader(self) -> Reader:
        from jepawm.distributed.convert import read_on_ray

        return read_on_ray

    def train(self, config: RunConfig, dataset_path: str, run_dir: str) -> str:
        from jepawm.distributed.train import ray_train

        return ray_train(config, dataset_path, run_dir)

    def encode(self, job: EncodeJob) -> Iterator[int]:
        from jepawm.distributed.encode import encode_on_ray

        return encode_on_ray(job)

    def describe(self) -> str:
        import ray

        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        return f"Ray {ray.__version__}, {nodes} node(s), {int(resources.get('CPU', 0))} CPUs, {gpus} GPUs"

    def num_cpus(self) -> float:
        import ray

        return float(ray.cluster_resources().get("CPU", 0))

    def close(self) -> None:
        import ray

        if self._started:
            ray.shutdown()
