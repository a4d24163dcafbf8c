"""Hosts in this process that die as scripted."""

from collections.abc import Callable, Sequence
from typing import Any

from jepawm.rollout import HostDied
from jepawm.rollout.calls import Call


class MortalBackend:
    """Hosts in this process that die as scripted.

    Args:
        make_host: Makes a fresh host.
        num_hosts: Hosts.
        deaths: `(host, method, n)`: that host dies in its n-th call of that method, counted from 1 over restarts.
        newest_first: Whether the newest of several calls ends first, and not the oldest.
        death: What a dying host raises.
    """

    def __init__(
        self,
        make_host: Callable[[], Any],
        num_hosts: int,
        deaths: Sequence[tuple[int, str, int]] = (),
        *,
        newest_first: bool = False,
        death: type[HostDied] = HostDied,
    ) -> None:
        self.death = death
        self.num_hosts = num_hosts
        self.make_host = make_host
        self.hosts: list[Any] = [make_host() for _ in range(num_hosts)]
        self.deaths = set(deaths)
        self.newest_first = newest_first
        self.calls: list[tuple[int, str]] = []
        self.in_flight: dict[int, tuple[int, Call[Any, Any]]] = {}
        self.died: list[tuple[int, str, int]] = []

    def submit(self, host: int, call: Call[Any, Any]) -> int:
        self.calls.append((host, call.method))
        handle = len(self.calls)
        self.in_flight[handle] = (host, call)
        assert sum(other == host for other, _ in self.in_flight.values()) == 1, "one call per host at a time"
        return handle

    def next_done(self, handles: Sequence[int]) -> tuple[int, Callable[[], Any]]:
        handle = max(handles) if self.newest_first else min(handles)
        host, call = self.in_flight.pop(handle)
        death = (host, call.method, self.calls[:handle].count((host, call.method)))

        def result() -> Any:
            if death in self.deaths:
                self.died.append(death)
                self.hosts[host] = None
                raise self.death("scripted")
            return call.run(self.hosts[host])

        return handle, result

    def restart(self, host: int) -> None:
        self.hosts[host] = self.make_host()

    def close(self) -> None:
        pass
