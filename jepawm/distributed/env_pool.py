"""Environment hosts as Ray actors."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.errors import EnvironmentFault
from jepawm.rollout import EnvHost, EnvPool, WorkerDied
from jepawm.rollout.packing import pack, pack_first, unpack, unpack_first

# One thread per library: environments are many, cores are few, and a thread pool per actor would fight for them.
_SINGLE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Mesa's software renderer has threads of its own; none besides the one that draws.
_SINGLE_THREAD["LP_NUM_THREADS"] = "0"


def _variables() -> dict[str, str]:
    """Environment variables of an actor: one thread, and the renderer that this process was told to use."""
    return _SINGLE_THREAD | {name: value for name, value in os.environ.items() if name.startswith("MUJOCO_")}


class _HostActor(EnvHost):
    """The shell around a host: single-threaded drawing, and the simulators' process to itself."""

    def __init__(self, config: EnvConfig) -> None:
        try:
            import cv2

            cv2.setNumThreads(1)
        except ImportError:
            pass
        super().__init__(config)

    def packed_begin(self, *args: Any) -> Any:
        return pack_first(super().begin(*args))

    def packed_execute(self, *args: Any) -> Any:
        return pack(super().execute(*args))


# Methods whose answers are full of frames, and what unpacks them here.
_UNPACK: dict[str, Callable[[Any], Any]] = {"begin": unpack_first, "execute": unpack}


class RayBackend:
    """Hosts in actors, restarted by the pool and not by Ray, for a fresh actor must be told its episodes anew.

    Args:
        env: Which environment.
        num_workers: Actors.
        call_timeout_s: A call that takes longer counts as a dead actor.
    """

    def __init__(self, env: EnvConfig, num_workers: int, *, call_timeout_s: float) -> None:
        self.num_workers = num_workers
        self.call_timeout_s = call_timeout_s
        self._env = env
        self._submitted: dict[Any, tuple[int, str, float]] = {}
        self._actors = [self._start() for _ in range(num_workers)]

    def _start(self) -> Any:
        # Less than a CPU each, so that the actors leave room for training on a small machine.
        options = {"num_cpus": 0.1, "max_restarts": 0, "runtime_env": {"env_vars": _variables()}}
        return ray.remote(**options)(_HostActor).remote(self._env)

    def submit(self, worker: int, method: str, *args: Any) -> Any:
        name = f"packed_{method}" if method in _UNPACK else method
        handle = getattr(self._actors[worker], name).remote(*args)
        self._submitted[handle] = (worker, method, time.monotonic())
        return handle

    def next_done(self, handles: Sequence[Any]) -> tuple[Any, Callable[[], Any]]:
        oldest = min(handles, key=lambda handle: self._submitted[handle][2])
        left = self.call_timeout_s - (time.monotonic() - self._submitted[oldest][2])
        ready, _ = ray.wait(list(handles), num_returns=1, timeout=max(0.0, left))
        handle = ready[0] if ready else oldest
        worker, method, _ = self._submitted.pop(handle)
        if not ready:
            ray.kill(self._actors[worker])
            late = f"no answer to '{method}' within {self.call_timeout_s:g} s (scaling.env_call_timeout_s)"
            return handle, lambda: _raise(WorkerDied(late))
        return handle, lambda: self._result(handle, worker, method)

    def _result(self, handle: Any, worker: int, method: str) -> Any:
        try:
            answer = ray.get(handle)
            return _UNPACK[method](answer) if method in _UNPACK else answer
        except (RayActorError, OutOfMemoryError, GetTimeoutError) as error:
            raise WorkerDied(str(error).strip().splitlines()[0]) from error
        except RayTaskError as error:
            if isinstance(error.cause, EnvironmentFault):
                raise error.cause from error
            raise EnvironmentFault(f"environment actor {worker} failed in '{method}': {error.cause!r}") from error

    def restart(self, worker: int) -> None:
        ray.kill(self._actors[worker])
        self._actors[worker] = self._start()

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


def _raise(error: Exception) -> Any:
    raise error


def ray_env_pool(env: EnvConfig, scaling: ScalingConfig) -> EnvPool:
    """A pool of `scaling.num_env_actors` actors."""
    backend = RayBackend(env, scaling.num_env_actors, call_timeout_s=scaling.env_call_timeout_s)
    return EnvPool(backend, max_restarts=scaling.max_actor_restarts)
