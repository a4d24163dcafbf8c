"""Feeds a tracker from a thread, so that a tracker which is slow, locked or gone never delays an update."""

import threading
from collections.abc import Callable
from typing import Any, Protocol

from jepawm.errors import TrackingError, first_line
from jepawm.tracking.mlflow_sink import Outcome

# Seconds between two looks for new records, and between two attempts at a tracker that failed, at most.
LOOK_EVERY_S, LONGEST_PAUSE_S = 2.0, 60.0


class Sink(Protocol):
    """What a run, a head, a sweep or a study is copied with; see `MLflowSink`."""

    def start(self) -> None:
        """Opens the copy or continues it."""
        ...

    def sync(self) -> int:
        """Sends what is new."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """Sends what is known at the end."""
        ...


class BackgroundTracker:
    """Calls a `Sink` from a thread of its own.

    Whatever the tracker dies of, the run goes on and says so once. The thread tries again, after pauses that grow.

    Args:
        sink: Where records go, or None for no tracking.
        say: Told what the tracker did not take.
        again: The command that sends the rest later; None: there is none.
        wait_s: Seconds that `close` waits for the tracker, at most.
        look_every_s: Seconds between two looks for new records.
    """

    def __init__(
        self,
        sink: Sink | None,
        *,
        say: Callable[[str], Any],
        again: str | None,
        wait_s: float,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.sink = sink
        self.failure: str | None = None
        self._say, self._again, self._wait_s, self._look_every_s = say, again, wait_s, look_every_s
        self._outcome: Callable[[], Outcome] | None = None
        self._is_open = False
        self._told = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        if sink is not None:
            self._thread.start()

    def _work(self) -> None:
        pause_s = self._look_every_s
        while True:
            closing = self._closing.is_set()
            self._attempt(self._outcome if closing else None)
            if closing:
                return
            pause_s = self._look_every_s if self.failure is None else min(2 * pause_s, LONGEST_PAUSE_S)
            self._closing.wait(pause_s)

    def _attempt(self, outcome: Callable[[], Outcome] | None) -> None:
        assert self.sink is not None, "otherwise there is no thread"
        try:
            if not self._is_open:
                self.sink.start()
                self._is_open = True
            self.sink.sync()
            if outcome is not None:
                self.sink.finish(outcome())
            self.failure = None
        except Exception as error:  # noqa: BLE001 - whatever a tracker dies of, the run goes on and says so
            self._is_open = False
            self.failure = (
                str(error) if isinstance(error, TrackingError) else f"{type(error).__name__}: {first_line(error)}"
            )
            if not self._told and outcome is None:
                self._told = True
                self._say(f"   MLflow takes nothing now ({self.failure}); the run goes on, and it is tried again")

    def close(self, outcome: Callable[[], Outcome]) -> None:
        """Sends what is left and how the run ended; says so where the tracker does not take it.

        Args:
            outcome: Called in the tracker's thread.
        """
        if self.sink is None:
            return
        self._outcome = outcome
        self._closing.set()
        self._thread.join(self._wait_s)
        if self._thread.is_alive():
            missing = f"MLflow did not take the whole run within {self._wait_s:g} s (tracking.wait_s)"
        elif self.failure is not None:
            missing = f"MLflow did not take the whole run ({self.failure})"
        else:
            return
        later = "" if self._again is None else f", and `{self._again}` sends them later"
        self._say(f"   {missing}; the run's own files are complete{later}")
