"""Signals that ask a process to end: SIGTERM of batch systems and containers, SIGINT of Ctrl-C.

A command ends with exit code 128 + the signal's number, and its last line says how to go on. Training notes the first
signal and ends at the next boundary between two train steps, after a checkpoint; a second signal ends it at once.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Handler = Callable[[int, FrameType | None], Any]


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    It is a `KeyboardInterrupt`, so that code which passes Ctrl-C on passes every signal on.

    Args:
        signal_number: The signal.
        remark: How the same command goes on; empty where nothing is known.
    """

    def __init__(self, signal_number: int, remark: str = "") -> None:
        super().__init__(signal_number, remark)
        self.signal_number = signal_number
        self.remark = remark

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process that the signal ended."""
        return 128 + self.signal_number

    def __str__(self) -> str:
        name = signal.Signals(self.signal_number).name
        return f"interrupted by {name}" + (f"; {self.remark}" if self.remark else "")


@dataclass
class StopRequest:
    """Whether a signal has asked for the end.

    Attributes:
        signal_number: The first signal; None: none has come.
    """

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


# The last signal that a handler of this module got. Ray turns what a handler raises inside `ray.get` into a plain
# KeyboardInterrupt, which does not say which signal it was.
_last = StopRequest()


@contextlib.contextmanager
def raised_signals() -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM raise `Interrupted` in the main thread."""
    # A signal that ended an earlier command of this process says nothing of this one.
    _last.signal_number = None

    def end(number: int, _frame: FrameType | None) -> None:
        _last.signal_number = number
        raise Interrupted(number)

    with _handled_by(end):
        yield


@contextlib.contextmanager
def noted_signals() -> Iterator[StopRequest]:
    """Within the block, the first SIGINT or SIGTERM is noted and the second one raises `Interrupted`.

    Only the main thread may handle signals; in another thread the request stays empty.
    """
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        _last.signal_number = number
        if request:
            raise Interrupted(number)
        request.signal_number = number

    with _handled_by(note):
        yield request


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Puts handlers of this module back that the block replaced; a library may set its own without asking."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if getattr(handler, "__module__", None) == __name__:
                signal.signal(number, handler)


@contextlib.contextmanager
def telling_how_to_go_on(remark: Callable[[], str]) -> Iterator[None]:
    """Adds a remark to a signal or Ctrl-C that ends the block.

    Args:
        remark: Returns how the same command goes on; it is called after the block has ended.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(interrupted(stop).signal_number, remark()) from stop


def interrupted(stop: KeyboardInterrupt) -> Interrupted:
    """The signal behind a `KeyboardInterrupt`."""
    if isinstance(stop, Interrupted):
        return stop
    return Interrupted(_last.signal_number or int(signal.SIGINT))


@contextlib.contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # A shell starts background commands with SIGINT ignored, and they must go on ignoring it.
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            # None stands for a handler that was not set from Python and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if old is None else old)
