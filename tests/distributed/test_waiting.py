"""Rows that are waited for; the wait for actors is in `test_call_time_limit`."""

import threading

import pytest

from jepawm.distributed import waiting
from jepawm.distributed.waiting import watched
from jepawm.errors import PlacementError


def test_the_wait_for_rows_is_looked_at_until_they_come(monkeypatch):
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.001)
    goes_on, looks = [threading.Event(), threading.Event()], []

    def rows():
        for number, event in enumerate(goes_on):
            event.wait(60)
            yield number

    def look(has_begun):
        looks.append(has_begun)
        goes_on[int(has_begun)].set()

    assert list(watched(rows(), look)) == [0, 1]
    assert looks[0] is False
    assert looks[-1] is True


def test_a_wait_that_ends_ends_the_rows_and_their_errors_are_raised(monkeypatch):
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.001)
    never, closed = threading.Event(), threading.Event()

    def rows():
        try:
            never.wait(60)
            yield 0
        finally:
            closed.set()

    def refuse(has_begun):
        raise PlacementError("no room")

    with pytest.raises(PlacementError, match="no room"):
        list(watched(rows(), refuse))
    # The thread that reads ends as soon as it can.
    never.set()
    assert closed.wait(60)

    def broken():
        yield 1
        raise OSError("lost")

    found = watched(broken(), lambda has_begun: None)
    assert next(found) == 1
    with pytest.raises(OSError, match="lost"):
        next(found)
