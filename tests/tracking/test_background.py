"""A tracker may be late, slow, broken, or back again: the run goes on and says so once."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from jepawm.tracking import BackgroundTracker, Outcome


class Sink:
    """A tracker that fails where it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: set[str] = set()
        self.outcomes: list[Outcome] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def _do(self, name: str) -> int:
        self.calls.append(name)
        self.go_on.wait()
        if name in self.broken:
            raise ConnectionError("no such server")
        return 0

    def start(self) -> None:
        self._do("start")

    def sync(self) -> int:
        return self._do("sync")

    def finish(self, outcome: Outcome) -> None:
        self._do("finish")
        self.outcomes.append(outcome)


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def background(sink: Sink, told: list[str], *, wait_s: float = 60.0) -> BackgroundTracker:
    return BackgroundTracker(sink, say=told.append, again="jepawm track sync RUN", wait_s=wait_s, look_every_s=0.01)


@pytest.mark.parametrize("breaks_in", ["start", "sync", "finish"])
def test_a_broken_tracker_is_told_of_and_nothing_else_happens(breaks_in: str) -> None:
    sink, told = Sink(), []
    sink.broken.add(breaks_in)
    tracker = background(sink, told)
    wait_for(lambda: breaks_in == "finish" or sink.calls.count(breaks_in) > 2)
    tracker.close(lambda: Outcome("FINISHED"))
    # However often it failed: once while the run went on, and once at its end.
    assert len(told) == (1 if breaks_in == "finish" else 2)
    assert "ConnectionError: no such server" in told[0]
    assert told[-1].endswith("`jepawm track sync RUN` sends them later")


def test_a_tracker_that_comes_back_gets_everything() -> None:
    sink, told = Sink(), []
    sink.broken.add("sync")
    tracker = background(sink, told)
    wait_for(lambda: sink.calls.count("sync") > 1)
    sink.broken.clear()
    wait_for(lambda: tracker.failure is None)
    tracker.close(lambda: Outcome("FINISHED", {"eval/success_rate": 1.0}))
    assert [outcome.summary for outcome in sink.outcomes] == [{"eval/success_rate": 1.0}]
    assert len(told) == 1
    # It was opened again: what it knew of the run may be lost.
    assert sink.calls.count("start") > 1


def test_the_end_of_a_run_waits_for_a_slow_tracker_only_so_long() -> None:
    sink, told = Sink(), []
    sink.go_on.clear()
    tracker = background(sink, told, wait_s=0.05)
    wait_for(lambda: sink.calls)
    tracker.close(lambda: Outcome("FINISHED"))
    assert told == [
        "   MLflow did not take the whole run within 0.05 s (tracking.wait_s); the run's own files are complete, and "
        "`jepawm track sync RUN` sends them later"
    ]
    sink.go_on.set()


def test_a_password_in_an_address_is_not_told() -> None:
    class Leaky(Sink):
        def sync(self) -> int:
            raise ConnectionError("API request to http://me:secret@host:5000/api failed")

    told: list[str] = []
    background(Leaky(), told).close(lambda: Outcome("FINISHED"))
    assert "secret" not in told[-1]
    assert "http://me:***@host:5000/api" in told[-1]


def test_without_a_sink_nothing_is_started() -> None:
    told: list[str] = []
    tracker = BackgroundTracker(None, say=told.append, again="", wait_s=1.0)
    tracker.close(lambda: pytest.fail("nobody asks how it ended"))
    assert tracker._thread.ident is None
    assert told == []
