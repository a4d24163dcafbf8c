"""Environment hosts as Ray actors."""

import os
import time
from dataclasses import dataclass
from typing import Any

import ray

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.config.scaling import labels
from jepawm.distributed.actors import ActorKind, RayBackend
from jepawm.distributed.gauges import host_counter
from jepawm.distributed.waiting import Say
from jepawm.rollout import EnvHost, EnvPool
from jepawm.rollout.calls import HostCall
from jepawm.runs.placement.demand import Claim

# One thread per library: there are more environments than cores, and thread pools of many actors would compete.
_SINGLE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Mesa's software renderer counts the threads beside the one that draws.
_SINGLE_THREAD["LP_NUM_THREADS"] = "0"


class _HostActor:
    """The shell around a host: it draws with one thread, and packs the host's answers for the way back."""

    def __init__(self, config: EnvConfig) -> None:
        try:
            import cv2

            cv2.setNumThreads(1)
        except ImportError:
            pass
        self._host = EnvHost(config)
        self._env_steps, self._busy_s = host_counter("env_host_env_steps"), host_counter("env_host_busy_s")

    def ready(self) -> str:
        """Returns the id of the actor's node as soon as the actor has started."""
        return ray.get_runtime_context().get_node_id()

    def answer(self, call: HostCall[Any]) -> Any:
        """The packed answer to a call."""
        before, began = self._host.env_steps, time.perf_counter()
        answer = call.pack(call.run(self._host))
        self._busy_s.inc(time.perf_counter() - began)
        if self._host.env_steps > before:
            self._env_steps.inc(self._host.env_steps - before)
        return answer


@dataclass(frozen=True)
class EnvActors:
    """How environment actors are placed.

    Attributes:
        claim: Of each.
        can_grow: Whether the cluster can start nodes for them.
        say: Told where they wait for room; None: printed.
    """

    claim: Claim
    can_grow: bool = False
    say: Say | None = None

    @classmethod
    def stated(cls, scaling: ScalingConfig) -> "EnvActors":
        """Placed as the settings say, without a look at the cluster."""
        return cls(Claim(scaling.cpus_per_env_actor, selector=labels(scaling, "env_actor_labels")))


def env_backend(
    env: EnvConfig, scaling: ScalingConfig, num_hosts: int | None = None, actors: EnvActors | None = None
) -> RayBackend:
    """Environment hosts in actors.

    Args:
        env: Which environment.
        scaling: Time limits.
        num_hosts: Actors; None: `scaling.num_env_actors`.
        actors: How they are placed; None: as `scaling` says.
    """
    actors = actors or EnvActors.stated(scaling)
    kind = ActorKind(
        "environment actor",
        _HostActor,
        (env,),
        actors.claim,
        # Ray would fill one node after the other, and rendering is bound by the cores of a node.
        {"scheduling_strategy": "SPREAD", "runtime_env": runtime_env(env)},
        call_timeout_s=scaling.env_call_timeout_s,
        start_timeout_s=scaling.placement_timeout_s,
        can_grow=actors.can_grow,
    )
    return RayBackend(kind, num_hosts or scaling.num_env_actors, actors.say)


def ray_env_pool(
    env: EnvConfig, scaling: ScalingConfig, num_hosts: int | None = None, actors: EnvActors | None = None
) -> EnvPool:
    """A pool of environment actors; takes the arguments of `env_backend`, and restarts as often as `scaling` says."""
    return EnvPool(env_backend(env, scaling, num_hosts, actors), max_restarts=scaling.max_actor_restarts)


def runtime_env(env: EnvConfig) -> dict[str, Any]:
    """Variables and interpreter of an environment's actors; actors of other pools have their own."""
    found: dict[str, Any] = {"env_vars": _SINGLE_THREAD | mujoco_variables()}
    if env.python is not None:
        found["py_executable"] = os.path.abspath(os.path.expanduser(env.python))
    return found


def mujoco_variables() -> dict[str, str]:
    """Environment variables that choose the MuJoCo renderer, as in this process."""
    return {name: value for name, value in os.environ.items() if name.startswith("MUJOCO_")}
