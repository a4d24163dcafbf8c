"""Where hosts live. `jepawm.distributed.actors` has the backend of Ray actors."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jepawm.rollout.calls import Call


class HostDied(Exception):
    """A host is gone (process killed, out of memory, or no answer in time), and its state with it."""


class NodeLost(HostDied):
    """The machine that a host ran on is gone. The host did nothing wrong, so its restarts are not used up."""


class Backend(Protocol):
    """Holds hosts, numbered from 0. A call is submitted, then its answer is waited for; one call per host at a time."""

    num_hosts: int

    def submit(self, host: int, call: Call[Any, Any]) -> Any:
        """Starts a call and returns a handle."""
        ...

    def next_done(self, handles: Sequence[Any]) -> tuple[Any, Callable[[], Any]]:
        """Waits until one of several calls has ended.

        Returns:
            The handle of that call, and a callable that returns the answer or raises `HostDied` (`NodeLost` where the
            machine is gone).
        """
        ...

    def restart(self, host: int) -> None:
        """Replaces a host by a fresh one."""
        ...

    def close(self) -> None:
        """Ends all hosts."""
        ...


class SerialBackend:
    """Hosts in this process; calls run one after the other.

    Args:
        make_host: Makes a fresh host: an `EnvHost`, or another object that calls run on and that can be closed.
        num_hosts: Hosts.
    """

    def __init__(self, make_host: Callable[[], Any], num_hosts: int = 1) -> None:
        self.num_hosts = num_hosts
        self._make_host = make_host
        self._hosts = [make_host() for _ in range(num_hosts)]
        self._submitted: dict[int, tuple[int, Call[Any, Any]]] = {}
        self._next_handle = 0

    def submit(self, host: int, call: Call[Any, Any]) -> int:
        self._next_handle += 1
        self._submitted[self._next_handle] = (host, call)
        return self._next_handle

    def next_done(self, handles: Sequence[int]) -> tuple[int, Callable[[], Any]]:
        host, call = self._submitted.pop(handles[0])
        return handles[0], lambda: call.run(self._hosts[host])

    def restart(self, host: int) -> None:
        self._hosts[host] = self._make_host()

    def close(self) -> None:
        for host in self._hosts:
            host.close()
