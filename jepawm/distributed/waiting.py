"""Tells what a run waits for where the cluster has no room for its processes, and ends the wait after a stated time."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from jepawm.console import Console
from jepawm.distributed.cluster import number_waiting, room_in_words
from jepawm.errors import PlacementError
from jepawm.runs.placement.demand import Claim

# A wait is told after this time, and then again and again, seconds.
TELL_AFTER_S = 30.0
TELL_AGAIN_EVERY_S = 300.0
# Seconds between two looks of whatever waits.
LOOK_EVERY_S = 5.0

Say = Callable[[str], None]
Row = TypeVar("Row")


class Waiting:
    """Processes of one role that have not started.

    Args:
        name: Of one of them.
        claim: Of each.
        timeout_s: See `scaling.placement_timeout_s`.
        say: Told what is waited for; None: printed.
        ends_slow_starts: Whether processes that have room, and yet do not start, end the run after that time as well.
    """

    def __init__(
        self, name: str, claim: Claim, timeout_s: float, say: Say | None = None, *, ends_slow_starts: bool = False
    ) -> None:
        self._name, self._claim, self._timeout_s, self._ends_slow_starts = name, claim, timeout_s, ends_slow_starts
        self._say = say or Console().say
        self._pending = 0
        self._since = self._tell_at = 0.0

    def look(self, pending: int, total: int | None) -> None:
        """Looks at the wait; call it every few seconds.

        Args:
            pending: Processes that have not started.
            total: Processes in all; None: not known.

        Raises:
            PlacementError: Those that are left found no room for `timeout_s`, also where others run.
        """
        now = time.monotonic()
        if pending != self._pending:
            # Some have started, or others have begun to wait.
            self._since, self._tell_at = now, now + TELL_AFTER_S
        self._pending = pending
        if not pending or now < min(self._tell_at, self._since + self._timeout_s):
            return
        waited = f"{now - self._since:.0f} s"
        what = f"{pending}{'' if total is None else f' of {total}'} {self._name}s ({self._claim.words()})"
        # A process that has room may only be slow to start.
        has_no_room, is_late = number_waiting(self._claim) > 0, now - self._since >= self._timeout_s
        if is_late and (has_no_room or self._ends_slow_starts):
            raise PlacementError(
                f"{what} did not start within {self._timeout_s:g} s (scaling.placement_timeout_s): {room_in_words()}; "
                "claim less, use fewer of them, or a larger cluster; the same command goes on where this run stopped"
            )
        if has_no_room:
            self._tell_at = now + TELL_AGAIN_EVERY_S
            self._say(f"   waiting {waited} for room for {what}: {room_in_words()}")


def watched(rows: Iterable[Row], look: Callable[[bool], None]) -> Iterator[Row]:
    """Rows that another thread reads, so that the wait for them can be looked at.

    Args:
        rows: Read one ahead.
        look: Called every few seconds while no row comes, with whether one has come before; what it raises is raised.

    Yields:
        The rows. What reading them raises is raised here.
    """
    found: queue.Queue[tuple[str, Row | BaseException | None]] = queue.Queue(maxsize=1)
    is_left = threading.Event()

    def put(kind: str, value: Row | BaseException | None) -> None:
        while not is_left.is_set():
            try:
                return found.put((kind, value), timeout=1.0)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for row in rows:
                put("row", row)
                if is_left.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the rows are taken
            put("error", error)
        else:
            put("end", None)

    threading.Thread(target=read, name="rows", daemon=True).start()
    has_begun = False
    try:
        while True:
            try:
                kind, value = found.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                look(has_begun)
                continue
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            has_begun = True
            yield value  # type: ignore[misc]
    finally:
        is_left.set()
