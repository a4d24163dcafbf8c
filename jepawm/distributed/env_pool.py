"""Environment hosts as Ray actors."""

import os
from typing import Any

import ray

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.distributed.actors import ActorKind, RayBackend
from jepawm.rollout import EnvHost, EnvPool
from jepawm.rollout.calls import HostCall

# A share of a CPU each, so that the actors leave room for training on a small machine.
CPUS_PER_ACTOR = 0.1

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

    def ready(self) -> str:
        """Returns the id of the actor's node as soon as the actor has started."""
        return ray.get_runtime_context().get_node_id()

    def answer(self, call: HostCall[Any]) -> Any:
        """The packed answer to a call."""
        return call.pack(call.run(self._host))


def env_backend(env: EnvConfig, num_hosts: int, *, call_timeout_s: float) -> RayBackend:
    """Environment hosts in actors.

    Args:
        env: Which environment.
        num_hosts: Actors.
        call_timeout_s: An actor that takes longer for one call counts as dead.
    """
    options = {"num_cpus": CPUS_PER_ACTOR, "runtime_env": runtime_env(env)}
    kind = ActorKind("environment actor", _HostActor, (env,), options, call_timeout_s)
    return RayBackend(kind, num_hosts)


def ray_env_pool(env: EnvConfig, scaling: ScalingConfig, num_hosts: int | None = None) -> EnvPool:
    """A pool of environment actors.

    Args:
        env: Which environment.
        scaling: Time limit and restarts.
        num_hosts: Actors; None: `scaling.num_env_actors`.
    """
    backend = env_backend(env, num_hosts or scaling.num_env_actors, call_timeout_s=scaling.env_call_timeout_s)
    return EnvPool(backend, max_restarts=scaling.max_actor_restarts)


def runtime_env(env: EnvConfig) -> dict[str, Any]:
    """Variables and interpreter of an environment's actors; actors of other pools have their own."""
    found: dict[str, Any] = {"env_vars": _SINGLE_THREAD | mujoco_variables()}
    if env.python is not None:
        found["py_executable"] = os.path.abspath(os.path.expanduser(env.python))
    return found


def mujoco_variables() -> dict[str, str]:
    """Environment variables that choose the MuJoCo renderer, as in this process."""
    return {name: value for name, value in os.environ.items() if name.startswith("MUJOCO_")}
