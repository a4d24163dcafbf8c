"""Planner hosts as Ray actors, each with environment actors of its own."""

import os
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import ray
import torch

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.device import device_of_claim, pick_device
from jepawm.distributed.actors import ActorKind, RayBackend
from jepawm.distributed.env_pool import EnvActors, mujoco_variables, ray_env_pool
from jepawm.distributed.gauges import host_counter
from jepawm.distributed.waiting import Say
from jepawm.errors import PlanningError
from jepawm.evaluation.planner_host import PlannerHost
from jepawm.evaluation.planner_pool import GROUPS_PER_CALL, ModelParcel, PlannerCall
from jepawm.runs.placement.demand import Demand


@dataclass(frozen=True)
class _HostJob:
    """What a planner host is made of.

    Attributes:
        env: Which environment.
        scaling: `num_env_actors` are those of this host.
        env_actors: How they are placed.
        device: Where it plans.
        num_threads: Threads that it plans with on a CPU.
        parcel: The reference of the model in the object store, which Ray does not resolve inside of this object.
    """

    env: EnvConfig
    scaling: ScalingConfig
    env_actors: EnvActors
    device: str
    num_threads: int
    parcel: Any


class _PlannerActor:
    """The shell around a planner host: it takes the model out of the object store and starts environment actors."""

    def __init__(self, job: _HostJob) -> None:
        torch.set_num_threads(min(job.num_threads, os.cpu_count() or 1))
        self._job = job
        self._busy_s = host_counter("planner_host_busy_s")

    @cached_property
    def _host(self) -> PlannerHost:
        """Made in the first call: what is wrong then reaches the caller, and an error in `__init__` would not."""
        job = self._job
        sent: ModelParcel = ray.get(job.parcel)
        device, number = pick_device(job.device), job.scaling.num_env_actors
        # A pool for each group that is played at the same time, as far as there are environment actors.
        pools = min(GROUPS_PER_CALL, number)
        return PlannerHost(
            sent.model.to(device).eval(),
            sent.spec,
            [ray_env_pool(job.env, job.scaling, (number + pool) // pools, job.env_actors) for pool in range(pools)],
            heads={name: head.to(device).eval() for name, head in sent.heads.items()},
            episodes_per_group=job.scaling.largest_group,
        )

    def ready(self) -> str:
        """Returns the id of the actor's node as soon as the actor has started."""
        return ray.get_runtime_context().get_node_id()

    def answer(self, call: PlannerCall[Any]) -> Any:
        """The packed answer to a call."""
        began = time.perf_counter()
        answer = call.pack(call.run(self._host))
        self._busy_s.inc(time.perf_counter() - began)
        return answer


def planner_backend(
    env: EnvConfig, demand: Demand, parcel: Any, *, can_grow: bool = False, say: Say | None = None
) -> RayBackend:
    """Planner hosts in actors.

    Args:
        env: Which environment.
        demand: Hosts, what they and their environment actors claim, and the device of the run.
        parcel: The reference of a `ModelParcel` in the object store.
        can_grow: Whether the cluster can start nodes.
        say: Told where hosts wait for room; None: printed.
    """
    scaling, claim = demand.scaling, demand.planner_host()
    hosts = scaling.num_planner_hosts
    # The settings of one host: its share of the environment actors, and no planner hosts below it.
    of_a_host = replace(
        scaling,
        num_env_actors=scaling.num_env_actors // hosts,
        num_planner_hosts=0,
        episodes_per_group=scaling.largest_group,
    )
    job = _HostJob(
        env,
        of_a_host,
        EnvActors(demand.env_actor(), can_grow),
        device=device_of_claim(demand.device, claim.gpus),
        num_threads=demand.threads_of_planner_host(),
        parcel=parcel,
    )
    kind = ActorKind(
        "planner host",
        _PlannerActor,
        (job,),
        claim,
        # Ray would fill one node after the other, and the threads of a host are a share of its node.
        {"scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": mujoco_variables()}},
        start_timeout_s=scaling.placement_timeout_s,
        error=PlanningError,
        can_grow=can_grow,
        inner=("environment actor", demand.env_actor()),
    )
    return RayBackend(kind, hosts, say)
