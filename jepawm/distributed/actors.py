"""Hosts as Ray actors: a backend for any kind of host."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from jepawm.distributed.cluster import number_waiting
from jepawm.distributed.nodes import LostNodes
from jepawm.distributed.waiting import LOOK_EVERY_S, Say, Waiting
from jepawm.errors import EnvironmentFault, JepawmError
from jepawm.rollout import HostDied
from jepawm.rollout.backend import NodeLost
from jepawm.rollout.calls import Call
from jepawm.runs.placement.demand import Claim


@dataclass(frozen=True)
class ActorKind:
    """A kind of host in an actor.

    Attributes:
        name: Of one actor, for errors.
        shell: The actor's class. Its `ready()` returns the id of its node, its `answer(call)` the packed answer.
        arguments: Of the class.
        claim: What each actor claims.
        options: Of `ray.remote`, beside the claim.
        call_timeout_s: An actor that takes longer for one call counts as dead; infinite: it may take its time.
        start_timeout_s: The run ends where actors have not started after this time. Starting means: Ray finds a node
            with room, starts a process there and imports this package; an autoscaler may have to start a node first.
        error: Raised where a host raises an error that is not one of ours.
        can_grow: Whether the cluster can start nodes. Where it cannot, the replacement of an actor whose node is gone
            claims no CPU: the nodes that are left may be full, and a crowded node is better than a run that waits.
        inner: Actors that the hosts themselves start, name of one and claim; None: none. Their waits are told here.
    """

    name: str
    shell: type
    arguments: tuple[Any, ...]
    claim: Claim
    options: Mapping[str, Any] = field(default_factory=dict)
    call_timeout_s: float = math.inf
    start_timeout_s: float = math.inf
    error: type[JepawmError] = EnvironmentFault
    can_grow: bool = False
    inner: tuple[str, Claim] | None = None


@dataclass
class _Actor:
    """One actor and its start.

    Attributes:
        handle: Ray's handle of the actor.
        starting: Resolves when the actor has started; None from then on.
        ready_at: When the actor was first seen to have started, seconds of `time.monotonic`.
        node_id: Where the actor runs; None: not known yet.
    """

    handle: Any
    starting: Any
    ready_at: float = 0.0
    node_id: str | None = None


@dataclass(frozen=True)
class _Submitted:
    host: int
    call: Call[Any, Any]
    submitted_at: float


class RayBackend:
    """Hosts in actors, see `jepawm.rollout.backend.Backend`.

    The pool restarts actors, and Ray does not: a fresh actor has to be told its episodes first.

    Args:
        kind: Of the hosts.
        num_hosts: Actors.
        say: Told where actors wait for room; None: printed.

    Attributes:
        call_timeout_s: As in `kind`. The time begins when the actor has started and the call is submitted; the start
            of an actor has a limit of its own, `ActorKind.start_timeout_s`.
    """

    def __init__(self, kind: ActorKind, num_hosts: int, say: Say | None = None) -> None:
        self.kind = kind
        self.num_hosts = num_hosts
        self.call_timeout_s = kind.call_timeout_s
        self._submitted: dict[Any, _Submitted] = {}
        self._lost_nodes = LostNodes()
        self._waiting = Waiting(kind.name, kind.claim, kind.start_timeout_s, say, ends_slow_starts=True)
        # The hosts end the wait of their own actors.
        self._inner = None if kind.inner is None else Waiting(*kind.inner, math.inf, say)
        self._actors = [self._start() for _ in range(num_hosts)]

    def _start(self) -> _Actor:
        options = {"max_restarts": 0, **self.kind.options, **self.kind.claim.options()}
        if off_lost_nodes := self._lost_nodes.selector():
            options["label_selector"] = {**self.kind.claim.selector, **off_lost_nodes}
            if not self.kind.can_grow:
                options["num_cpus"] = 0
        handle = ray.remote(**options)(self.kind.shell).remote(*self.kind.arguments)
        return _Actor(handle, handle.ready.remote())

    def submit(self, host: int, call: Call[Any, Any]) -> Any:
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
            left_s = self._deadline(first_late) - time.monotonic()
            self._waiting.look(len(starting), self.num_hosts)
            if self._inner is not None and self.kind.inner is not None:
                self._inner.look(number_waiting(self.kind.inner[1]), None)
            wait_s = min(left_s, LOOK_EVERY_S) if starting or self._inner else left_s
            ready, _ = ray.wait(
                [*starting, *handles], num_returns=1, timeout=None if math.isinf(wait_s) else max(0.0, wait_s)
            )
            if ready and ready[0] not in starting:
                return ready[0], True
            if ready:
                _note_start(starting[ready[0]])
            elif wait_s == left_s:
                return first_late, False

    def restart(self, host: int) -> None:
        ray.kill(self._actors[host].handle)
        self._actors[host] = self._start()
        # The replacement's wait begins now.
        self._waiting.look(0, self.num_hosts)

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
            return math.inf
        return max(submitted.submitted_at, actor.ready_at) + self.call_timeout_s

    def _raise_late(self, submitted: _Submitted) -> Any:
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
            if isinstance(error.cause, JepawmError):
                raise error.cause from error
            raise self.kind.error(
                f"{self.kind.name} {submitted.host} failed in '{submitted.call.method}': {error.cause!r}"
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
