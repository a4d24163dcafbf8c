"""Signals: what ends a command, what is only noted, and what the last line says."""

import signal
import threading
from collections.abc import Iterator

import pytest

from jepawm.cli.main import guarded
from jepawm.interrupts import (
    SIGNALS,
    Interrupted,
    interrupted,
    kept_handlers,
    noted_signals,
    raised_signals,
    telling_how_to_go_on,
)


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """SIGINT is heard here, also where a shell started the tests in the background and let them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _send(number: int) -> None:
    # To the main thread: Python handles a signal of its own process before this call returns there.
    signal.raise_signal(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_with_its_exit_code(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)

    def command() -> int:
        with telling_how_to_go_on(lambda: "the same command goes on from train step 7 of 9"):
            _send(number)
        return 0

    assert guarded(command) == 128 + number
    assert capsys.readouterr().err == f"interrupted by {number.name}; the same command goes on from train step 7 of 9\n"
    assert signal.getsignal(number) is before


def test_the_signal_is_known_where_a_library_raises_a_plain_keyboard_interrupt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> int:
        try:
            _send(signal.SIGTERM)
        except Interrupted:
            # As Ray does inside `ray.get`.
            raise KeyboardInterrupt from None
        return 0

    assert guarded(command) == 143
    assert capsys.readouterr().err == "interrupted by SIGTERM\n"

    def next_command() -> int:
        raise KeyboardInterrupt

    # The signal of an earlier command of the same process is not this one's.
    assert guarded(next_command) == 130
    assert capsys.readouterr().err == "interrupted by SIGINT\n"


def test_the_first_signal_is_noted_and_the_second_one_raises() -> None:
    with raised_signals(), noted_signals() as request:
        assert not request
        _send(signal.SIGTERM)
        assert request.signal_number == signal.SIGTERM
        with pytest.raises(Interrupted) as stop:
            _send(signal.SIGINT)
        assert interrupted(stop.value).exit_code == 130
        # The first one stays what ended the training.
        assert request.signal_number == signal.SIGTERM


def test_signals_that_were_ignored_stay_ignored() -> None:
    # A shell starts background commands so.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raised_signals(), noted_signals() as request:
            _send(signal.SIGINT)
            assert not request
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_that_a_library_replaces_come_back_and_others_are_left_to_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with raised_signals():
            ours = signal.getsignal(signal.SIGTERM)
            with kept_handlers():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            assert signal.getsignal(signal.SIGTERM) is ours
        with kept_handlers():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def work() -> None:
        with raised_signals(), noted_signals() as request, kept_handlers():
            seen.append((signal.getsignal(signal.SIGTERM), bool(request)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGTERM), False)]
