"""When an actor counts as dead. Ray and the clock are scripted, so these tests wait for nothing."""

from collections.abc import Sequence
from typing import Any

import pytest

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.distributed import actors, waiting
from jepawm.distributed.actors import RayBackend
from jepawm.distributed.env_pool import EnvActors, env_backend
from jepawm.distributed.waiting import LOOK_EVERY_S
from jepawm.errors import PlacementError
from jepawm.rollout import HostDied
from jepawm.rollout.calls import GetProcessId
from jepawm.runs.placement import Claim

LIMIT_S = 5.0


class ScriptedRay:
    """Actors that start and answer at times told in advance; waiting moves the clock.

    Args:
        start_s: From the creation of each actor to its start.
        answer_s: From an actor's start, or from the submission where that is later, to an answer.
    """

    def __init__(self, start_s: Sequence[float], answer_s: Sequence[float]) -> None:
        self.now = 0.0
        self.start_s, self.answer_s = list(start_s), list(answer_s)
        self.done_at: dict[str, float] = {}
        self.killed: list[str] = []
        self.said: list[str] = []

    def monotonic(self) -> float:
        return self.now

    def remote(self, **_options: Any) -> Any:
        return lambda _actor_class: ScriptedMethod(self.start_actor)

    def start_actor(self, _config: EnvConfig) -> Any:
        return ScriptedActor(self, self.now + self.start_s.pop(0))

    def wait(self, handles: Sequence[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        assert num_returns == 1
        first = min(handles, key=lambda handle: self.done_at[handle])
        if self.done_at[first] > self.now + timeout:
            self.now += timeout
            return [], list(handles)
        self.now = max(self.now, self.done_at[first])
        return [first], [handle for handle in handles if handle != first]

    def get(self, handle: str) -> str:
        return f"answer of {handle}"

    def kill(self, actor: "ScriptedActor") -> None:
        self.killed.append(actor.name)


class ScriptedMethod:
    def __init__(self, function: Any) -> None:
        self.remote = function


class ScriptedActor:
    count = 0

    def __init__(self, ray: ScriptedRay, starts_at: float) -> None:
        ScriptedActor.count += 1
        self.name = f"actor {ScriptedActor.count}"
        self._ray, self._starts_at = ray, starts_at
        self.ready, self.answer = ScriptedMethod(self._ready), ScriptedMethod(self._answer)

    def _ready(self) -> str:
        self._ray.done_at[f"start of {self.name}"] = self._starts_at
        return f"start of {self.name}"

    def _answer(self, call: GetProcessId) -> str:
        handle = f"call {len(self._ray.done_at)}"
        self._ray.done_at[handle] = max(self._ray.now, self._starts_at) + self._ray.answer_s.pop(0)
        return handle


def backend_on(ray: ScriptedRay, monkeypatch: pytest.MonkeyPatch, num_hosts: int = 1) -> RayBackend:
    monkeypatch.setattr(actors, "ray", ray)
    monkeypatch.setattr(actors, "time", ray)
    monkeypatch.setattr(waiting, "time", ray)
    monkeypatch.setattr(waiting, "number_waiting", lambda claim: 1)
    monkeypatch.setattr(waiting, "room_in_words", lambda: "0 of 8 CPUs are free")
    scaling = ScalingConfig(env_call_timeout_s=LIMIT_S, placement_timeout_s=900)
    return env_backend(EnvConfig(), scaling, num_hosts, EnvActors(Claim(1.0), say=ray.said.append))


def test_the_start_of_an_actor_does_not_count_as_time_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay(start_s=[100.0], answer_s=[4.0])
    backend = backend_on(ray, monkeypatch)
    call = backend.submit(0, GetProcessId())
    handle, result = backend.next_done([call])
    assert (handle, result()) == (call, f"answer of {call}")
    assert ray.now == 104.0
    assert not ray.killed


def test_a_call_without_an_answer_in_time_kills_its_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay(start_s=[100.0], answer_s=[1.0, 1e9])
    backend = backend_on(ray, monkeypatch)
    backend.next_done([backend.submit(0, GetProcessId())])
    ray.now += 50.0
    # The limit of the second call begins when it is submitted.
    call = backend.submit(0, GetProcessId())
    handle, result = backend.next_done([call])
    assert (handle, ray.now) == (call, 151.0 + LIMIT_S)
    assert len(ray.killed) == 1
    with pytest.raises(HostDied, match=r"no answer to 'pid' within 5 s \(scaling.env_call_timeout_s\)"):
        result()


def test_a_call_behind_a_slow_start_is_late_after_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay(start_s=[100.0], answer_s=[1e9])
    backend = backend_on(ray, monkeypatch)
    _, result = backend.next_done([backend.submit(0, GetProcessId())])
    assert ray.now == 100.0 + LIMIT_S
    with pytest.raises(HostDied, match="no answer to 'pid' within 5 s"):
        result()


def test_actors_without_room_are_told_and_end_the_run_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay(start_s=[40.0, 1e9], answer_s=[1.0, 1.0])
    backend = backend_on(ray, monkeypatch, num_hosts=2)
    calls = [backend.submit(host, GetProcessId()) for host in (0, 1)]
    assert backend.next_done(calls)[0] == calls[0]
    told = "waiting 30 s for room for 2 of 2 environment actors (1 CPU each): 0 of 8 CPUs are free"
    assert [line.strip() for line in ray.said] == [told]
    late = r"1 of 2 environment actors .* did not start within 900 s \(scaling.placement_timeout_s\): 0 of 8 CPUs"
    with pytest.raises(PlacementError, match=late):
        backend.next_done(calls[1:])
    # The wait of the second began anew when the first had started; it was told after 30 s, and then every 300 s.
    assert 940.0 <= ray.now <= 945.0
    # A look comes every few seconds.
    told_after_s = [int(line.split()[1]) for line in ray.said[1:]]
    assert [after_s - after_s % int(LOOK_EVERY_S) for after_s in told_after_s] == [30, 330, 630]


def test_actors_that_have_room_are_slow_and_not_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay(start_s=[800.0], answer_s=[1.0])
    backend = backend_on(ray, monkeypatch)
    monkeypatch.setattr(waiting, "number_waiting", lambda claim: 0)
    call = backend.submit(0, GetProcessId())
    assert backend.next_done([call])[1]() == f"answer of {call}"
    assert ray.said == []


def test_a_replacement_starts_with_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay(start_s=[1.0, 100.0], answer_s=[1e9, 1.0])
    backend = backend_on(ray, monkeypatch)
    backend.next_done([backend.submit(0, GetProcessId())])
    backend.restart(0)
    call = backend.submit(0, GetProcessId())
    _, result = backend.next_done([call])
    assert result() == f"answer of {call}"


def test_a_starting_actor_does_not_hold_up_another_ones_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay(start_s=[100.0, 1.0], answer_s=[1.0, 1.0])
    backend = backend_on(ray, monkeypatch, num_hosts=2)
    calls = [backend.submit(host, GetProcessId()) for host in (0, 1)]
    assert backend.next_done(calls)[0] == calls[1]
    assert ray.now == 2.0
    assert backend.next_done(calls[:1])[0] == calls[0]
    assert ray.now == 101.0
