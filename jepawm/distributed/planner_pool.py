"""Planner hosts as Ray actors, each with environment actors of its own."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import ray
import torch

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.device import pick_device
from jepawm.distributed.actors import ActorKind, RayBackend
from jepawm.distributed.env_pool import mujoco_variables, ray_env_pool
from jepawm.errors import PlanningError
from jepawm.evaluation.planner_host import PlannerHost
from jepawm.evaluation.planner_pool import GROUPS_PER_CALL, ModelParcel, PlannerCall

# Less than a CPU, so that planner hosts fit beside the training workers and environment actors of the same run.
CPUS_PER_PLANNER_HOST = 0.5


class _PlannerActor:
    """The shell around a planner host: it takes the model out of the object store and starts environment actors.

    Args:
        env: Which environment.
        scaling: `num_env_actors` are those of this host.
        device: Where it plans.
        num_threads: Threads that it plans with on a CPU.
        parcel: The reference of the model in the object store, in a list, so that Ray does not resolve it.
    """

    def __init__(
        self, env: EnvConfig, scaling: ScalingConfig, device: str, num_threads: int, parcel: Sequence[Any]
    ) -> None:
        torch.set_num_threads(min(num_threads, os.cpu_count() or 1))
        self._env, self._scaling, self._device, self._parcel = env, scaling, device, parcel

    @cached_property
    def _host(self) -> PlannerHost:
        """Made in the first call: what is wrong then reaches the caller, and an error in `__init__` would not."""
        sent: ModelParcel = ray.get(self._parcel[0])
        device, env_actors = pick_device(self._device), self._scaling.num_env_actors
        # A pool for each group that is played at the same time, as far as there are environment actors.
        pools = min(GROUPS_PER_CALL, env_actors)
        return PlannerHost(
            sent.model.to(device).eval(),
            sent.spec,
            [ray_env_pool(self._env, self._scaling, (env_actors + pool) // pools) for pool in range(pools)],
            heads={name: head.to(device).eval() for name, head in sent.heads.items()},
            episodes_per_group=self._scaling.largest_group,
        )

    def ready(self) -> str:
        """Returns the id of the actor's node as soon as the actor has started."""
        return ray.get_runtime_context().get_node_id()

    def answer(self, call: PlannerCall[Any]) -> Any:
        """The packed answer to a call."""
        return call.pack(call.run(self._host))


def planner_backend(env: EnvConfig, scaling: ScalingConfig, device: str, parcel: Any) -> RayBackend:
    """Planner hosts in actors.

    Args:
        env: Which environment.
        scaling: Hosts, their CPUs and GPUs, and their environment actors.
        device: As in the run; `auto` takes GPUs where the cluster has some.
        parcel: The reference of a `ModelParcel` in the object store.
    """
    hosts = scaling.num_planner_hosts
    gpus = gpus_per_host(scaling, device)
    arguments = (
        env,
        # The settings of one host: its share of the environment actors, and no planner hosts below it.
        replace(
            scaling,
            num_env_actors=scaling.num_env_actors // hosts,
            num_planner_hosts=0,
            episodes_per_group=scaling.largest_group,
        ),
        ("cuda" if device == "auto" else device) if gpus else _without_gpu(device),
        threads_per_host(scaling),
        [parcel],
    )
    options: dict[str, Any] = {
        "num_cpus": CPUS_PER_PLANNER_HOST,
        "num_gpus": gpus,
        # Ray would fill one node after the other, and the threads of a host are a share of its node.
        "scheduling_strategy": "SPREAD",
        "runtime_env": {"env_vars": mujoco_variables()},
    }
    return RayBackend(ActorKind("planner host", _PlannerActor, arguments, options, error=PlanningError), hosts)


def gpus_per_host(scaling: ScalingConfig, device: str) -> float:
    """GPUs that a planner host claims; see `ScalingConfig.gpus_per_planner_host`."""
    if scaling.gpus_per_planner_host is not None:
        return scaling.gpus_per_planner_host
    gpus = int(ray.cluster_resources().get("GPU", 0)) if device.startswith(("auto", "cuda")) else 0
    if not gpus:
        return 0
    return 1 if gpus >= scaling.num_planner_hosts else 1 / -(-scaling.num_planner_hosts // gpus)


def threads_per_host(scaling: ScalingConfig) -> int:
    """Threads of a planner host; the CPUs of the smallest node shared by as many hosts as may be on one node."""
    if scaling.cpus_per_planner_host is not None:
        return scaling.cpus_per_planner_host
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    with_cpus = [number for number in cpus if number] or [1]
    on_one_node = -(-scaling.num_planner_hosts // len(with_cpus))
    return max(1, min(with_cpus) // on_one_node)


def _without_gpu(device: str) -> str:
    """Where a host plans that claims no GPU: an actor may see GPUs that it did not claim."""
    has_mps = device in ("auto", "mps") and torch.backends.mps.is_available()
    return "mps" if has_mps else "cpu"
