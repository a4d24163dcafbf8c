"""Environment hosts as Ray actors."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.distributed.nodes import LostNodes
from jepawm.errors import EnvironmentFault
from jepawm.rollout import EnvHost, EnvPool, HostDied
from jepawm.rollout.backend import NodeLost
from jepawm.rollout.calls import HostCall

# A share of a CPU each, so that the actors leave room for training on a small machine.
CPUS_PER_ACTOR = 0.1
# An actor that has not started after this time counts as dead. Starting means: Ray finds a node with room, starts a
# process there and imports this package; an autoscaling cluster may have to start a node first.
START_TIMEOUT_S = 900.0

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


@dataclass
class _Actor:
    """One actor and its start.

    Attributes:
        handle: Ray's handle of the actor.
        started_at: When the actor was created, seconds of `time.monotonic`.
        starting: Resolves when the actor has started; None from then on.
        ready_at: When the actor was first seen to have started.
        node_id: Where the actor runs; None: not known yet.
    """

    handle: Any
    started_at: float
    starting: Any
    ready_at: float = 0.0
    node_id: str | None = None


@dataclass(frozen=True)
class _Submitted:
    host: int
    call: HostCall[Any]
    submitted_at: float


class RayBackend:
    """Hosts in actors, see `jepawm.rollout.backend.Backend`.

    The pool restarts actors, and Ray does not: a fresh actor has to be told its episodes first.

    Args:
        env: Which environment.
        num_hosts: Actors.
        call_timeout_s: An actor that takes longer for one call counts as dead. The time begins when the actor has
            started and the call is submitted; the start of an actor has a limit of its own, `START_TIMEOUT_S`.
    """

    def __init__(self, env: EnvConfig, num_hosts: int, *, call_timeout_s: float) -> None:
        self.num_hosts = num_hosts
        self.call_timeout_s = call_timeout_s
        self._env = env
        self._submitted: dict[Any, _Submitted] = {}
        self._lost_nodes = LostNodes()
        self._actors = [self._start() for _ in range(num_hosts)]

    def _start(self) -> _Actor:
        options = {"num_cpus": CPUS_PER_ACTOR, "max_restarts": 0, "runtime_env": {"env_vars": _actor_variables()}}
        options |= self._lost_nodes.placement()
        handle = ray.remote(**options)(_HostActor).remote(self._env)
        return _Actor(handle, time.monotonic(), handle.ready.remote())

    def submit(self, host: int, call: HostCall[Any]) -> Any:
        handle = self._actors[host].handle.answer.remote(call)
        self._submitted[handle] = _Submitted(host, call, time.monotonic())
        return handle

    def next_done(self, handles: Sequence[Any]) -> tuple[Any, Callable[[], Any]]:
        handle, in_time = self._wait(handles)
        submitted = self._submitted.pop(handle)
        if in_time:
            return handle, partial(self._result, handle, submitted)
        ray.kill(self._actors[submitted.host].handle)
        return handle, partial(self._raise_late, submitted)

    def _wait(self, handles: Sequence[Any]) -> tuple[Any, bool]:
        """The first call that ends or is late, and whether it ended in time."""
        while True:
            actors = [self._actors[self._submitted[handle].host] for handle in handles]
            starting = {actor.starting: actor for actor in actors if actor.starting is not None}
            first_late = min(handles, key=self._deadline)
            timeout_s = max(0.0, self._deadline(first_late) - time.monotonic())
            ready, _ = ray.wait([*starting, *handles], num_returns=1, timeout=timeout_s)
            if not ready:
                return first_late, False
            if ready[0] not in starting:
                return ready[0], True
            _note_start(starting[ready[0]])

    def restart(self, host: int) -> None:
        ray.kill(self._actors[host].handle)
        self._actors[host] = self._start()

    def node_of(self, host: int) -> str | None:
        """Ray's id of the node that a host runs on, as far as it is known."""
        return _node_of(self._actors[host])

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor.handle)

    def _deadline(self, handle: Any) -> float:
        submitted = self._submitted[handle]
        actor = self._actors[submitted.host]
        if actor.starting is not None:
            return actor.started_at + START_TIMEOUT_S
        return max(submitted.submitted_at, actor.ready_at) + self.call_timeout_s

    def _raise_late(self, submitted: _Submitted) -> Any:
        if self._actors[submitted.host].starting is not None:
            raise HostDied(
                f"it did not start within {START_TIMEOUT_S:g} s; does a node of the cluster have {CPUS_PER_ACTOR} CPUs "
                "free, as `ray status` shows them?"
            )
        raise HostDied(
            f"no answer to '{submitted.call.method}' within {self.call_timeout_s:g} s (scaling.env_call_timeout_s)"
        )

    def _result(self, handle: Any, submitted: _Submitted) -> Any:
        try:
            return submitted.call.unpack(ray.get(handle))
        except (RayActorError, OutOfMemoryError, GetTimeoutError) as error:
            reason = str(error).strip().splitlines()[0]
            if isinstance(error, RayActorError) and self._lost_nodes.took(self.node_of(submitted.host)):
                raise NodeLost(reason) from error
            raise HostDied(reason) from error
        except RayTaskError as error:
            if isinstance(error.cause, EnvironmentFault):
                raise error.cause from error
            raise EnvironmentFault(
                f"environment actor {submitted.host} failed in '{submitted.call.method}': {error.cause!r}"
            ) from error


def _note_start(actor: _Actor) -> None:
    """Notes that an actor has started, and where; the start of an actor that died meanwhile has ended as well."""
    start, actor.starting, actor.ready_at = actor.starting, None, time.monotonic()
    # Where the start failed, the call that waits for it says what happened.
    with contextlib.suppress(RayError):
        actor.node_id = ray.get(start)


def _node_of(actor: _Actor) -> str | None:
    """The node of an actor, as far as it is known."""
    if actor.starting is not None and ray.wait([actor.starting], timeout=0)[0]:
        _note_start(actor)
    return actor.node_id


def ray_env_pool(env: EnvConfig, scaling: ScalingConfig) -> EnvPool:
    """A pool of `scaling.num_env_actors` actors."""
    backend = RayBackend(env, scaling.num_env_actors, call_timeout_s=scaling.env_call_timeout_s)
    return EnvPool(backend, max_restarts=scaling.max_actor_restarts)


def _actor_variables() -> dict[str, str]:
    """Environment variables of an actor: one thread, and the MuJoCo renderer that this process uses."""
    return _SINGLE_THREAD | {name: value for name, value in os.environ.items() if name.startswith("MUJOCO_")}
