"""A lease: what a file lock is on one machine, between machines that share an object store.

Its holder renews it every few seconds. A lease that was not renewed for a while is over, and another driver takes the
next number. The number is written into each manifest, so a holder that slept too long cannot write any more.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from jepawm.config.checks import positive_variable
from jepawm.errors import StorageError
from jepawm.storage.numbered import NumberedObjects
from jepawm.storage.store import ObjectMissingError, ObjectStore, now_s

LEASES = ".jepawm/leases"
# A lease that was not renewed in this many intervals is over.
INTERVALS = 4
DEFAULT_INTERVAL_S = 15.0
INTERVAL_VARIABLE = "JEPAWM_PUSH_EVERY_S"


class FolderBusyError(StorageError):
    """Another driver holds the folder."""


class LeaseLostError(StorageError):
    """Another driver has taken the folder over."""


def interval_s() -> float:
    """Time between two renewals and two pushes: `$JEPAWM_PUSH_EVERY_S`, else 15 s.

    Raises:
        ConfigError: The variable is no positive number.
    """
    return positive_variable(INTERVAL_VARIABLE, DEFAULT_INTERVAL_S, "seconds")


@dataclass(frozen=True)
class LeaseRecord:
    """What the object of a lease says.

    Attributes:
        owner: The holder, in words.
        mirror: Identity of the working copies that it works in, see `jepawm.storage.mirror.mirror_id`.
        interval_s: How often it renews the lease, seconds.
        beat: Renewals so far.
        released: Whether it ended as it should.
    """

    owner: str
    mirror: str
    interval_s: float
    beat: int = 0
    released: bool = False

    def to_bytes(self) -> bytes:
        """As the object holds it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "LeaseRecord":
        """Inverse of `to_bytes`.

        Raises:
            StorageError: The object holds no lease.
        """
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise StorageError(f"{where} holds no lease ({error}); delete the object") from error


def this_process() -> str:
    """This process in words that tell a person where to look for it."""
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"


class Lease:
    """A lease that this process holds. `Lease.take` makes it.

    Attributes:
        token: Its number; a later holder has a larger one.
        took_over: Whether the holder before did not end as it should.
    """

    def __init__(self, store: ObjectStore, token: int, record: LeaseRecord, took_over: bool) -> None:
        self._store = store
        self._leases = NumberedObjects(store, LEASES)
        self._record = record
        self.token = token
        self.took_over = took_over

    @classmethod
    def take(
        cls,
        store: ObjectStore,
        mirror: str,
        *,
        say: Callable[[str], None] = lambda text: None,
        wait: Callable[[float], object] = time.sleep,
    ) -> "Lease":
        """Takes the lease of a folder.

        A holder that lives is seen within one of its intervals, and refuses this process. One that says nothing for
        `INTERVALS` of them is taken to be dead. A holder in the same working copies is dead at once: the caller holds
        their file lock, so no other process works there.

        Args:
            store: The folder.
            mirror: Identity of this machine's working copies.
            say: Told a line where this takes longer.
            wait: Sleeps so many seconds.

        Raises:
            FolderBusyError: Another driver holds the folder; names it.
        """
        leases = NumberedObjects(store, LEASES)
        own = LeaseRecord(this_process(), mirror, interval_s())
        first_seen: tuple[int, int] | None = None
        while True:
            latest = leases.latest()
            number, before = (0, None) if latest is None else (latest[0], _record(latest[1], store, latest[0]))
            if before is not None and not before.released and before.mirror != mirror:
                seen = (number, before.beat)
                silent_s = _silent_s(store, leases, number)
                left_s = INTERVALS * before.interval_s - silent_s
                if first_seen is not None and seen != first_seen:
                    raise FolderBusyError(
                        f"{store.uri} is in use by {before.owner}; wait for it, stop it, or choose another folder"
                    )
                if left_s > 0:
                    if first_seen is None:
                        say(
                            f"{store.uri} was in use {silent_s:.0f} s ago by {before.owner}; it is asked for a sign of "
                            f"life, for at most {left_s:.0f} s"
                        )
                    first_seen = seen
                    wait(min(left_s, before.interval_s / 2))
                    continue
            if leases.append(number + 1, own.to_bytes()):
                # The one before stays readable, for a driver that learns that it lost it.
                leases.forget([number - 1] if number > 1 else [])
                return cls(store, number + 1, own, before is not None and not before.released)

    def renew(self) -> None:
        """Says that this process lives.

        Raises:
            LeaseLostError: Another driver has taken the folder over.
        """
        numbers = self._leases.numbers()
        if numbers and numbers[-1] > self.token:
            raise self._lost(numbers[-1])
        self._record = replace(self._record, beat=self._record.beat + 1)
        self._leases.overwrite(self.token, self._record.to_bytes())

    def release(self) -> None:
        """Gives the folder back. A lease that another driver took over stays theirs."""
        self._record = replace(self._record, released=True)
        self._leases.overwrite(self.token, self._record.to_bytes())

    def _lost(self, number: int) -> LeaseLostError:
        try:
            owner = _record(self._leases.read(number), self._store, number).owner
        except ObjectMissingError:
            owner = "another driver"
        return LeaseLostError(lost(self._store.uri, owner))


def lost(uri: str, owner: str) -> str:
    """Why a driver that slept must end."""
    return (
        f"{uri} was taken over by {owner}, because this process gave no sign of life; it must not go on. What it wrote "
        "since then stays in its working copy and goes when the folder is next used here"
    )


@dataclass(frozen=True)
class Holder:
    """Who holds a folder.

    Attributes:
        owner: In words.
        silent_s: Since its last sign of life, seconds.
        lives: Whether that is so short that it counts as alive.
    """

    owner: str
    silent_s: float
    lives: bool


def holder_of(store: ObjectStore) -> Holder | None:
    """The driver that holds a folder; None where no one does."""
    leases = NumberedObjects(store, LEASES)
    latest = leases.latest()
    if latest is None:
        return None
    record = _record(latest[1], store, latest[0])
    if record.released:
        return None
    silent_s = _silent_s(store, leases, latest[0])
    return Holder(record.owner, silent_s, silent_s < INTERVALS * record.interval_s)


def _record(data: bytes, store: ObjectStore, number: int) -> LeaseRecord:
    return LeaseRecord.from_bytes(data, f"{store.uri}/{NumberedObjects(store, LEASES).key(number)}")


def _silent_s(store: ObjectStore, leases: NumberedObjects, number: int) -> float:
    try:
        return max(0.0, now_s(store) - leases.written_at_s(number))
    except ObjectMissingError:
        # It was followed by another lease meanwhile, which the next look sees.
        return 0.0
