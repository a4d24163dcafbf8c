"""What a run says while it works: stages, progress bars on a terminal, plain lines in a log."""

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Moves a bar: units done, a short remark, and the number of units in all where it was not known before."""

    def __call__(self, done: int, remark: str = "", total: int | None = None) -> None: ...


class Console:
    """Stages with their wall times.

    Args:
        quiet: Say nothing (tests).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
        self.wall_s: dict[str, float] = {}
        self._running: dict[str, float] = {}

    def say(self, text: str = "") -> None:
        """Prints a line."""
        self._rich.print(text, markup=False)

    @contextlib.contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Announces a stage and measures its wall time into `wall_s[name]`."""
        self._rich.print(f"[bold]== {name}[/bold]", end=" ")
        self._rich.print(what, markup=False)
        self._running[name] = time.perf_counter()
        try:
            yield
        finally:
            self.wall_s[name] = self.wall_s.get(name, 0.0) + time.perf_counter() - self._running.pop(name)

    def elapsed_s(self) -> dict[str, float]:
        """Wall time of each stage so far, seconds; stages that are running are included."""
        elapsed, now = dict(self.wall_s), time.perf_counter()
        for name, began in list(self._running.items()):
            elapsed[name] = elapsed.get(name, 0.0) + now - began
        return elapsed

    @contextlib.contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        """A progress bar on a terminal; in a log, a line every ten seconds and one at the end."""
        if self._rich.is_terminal and not self._rich.quiet:
            columns = (
                TextColumn("   {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[remark]}"),
            )
            with Progress(*columns, console=self._rich) as progress:
                task = progress.add_task(what, total=total, remark="")

                def move(done: int, remark: str = "", total: int | None = None) -> None:
                    progress.update(task, completed=done, remark=remark, total=total)

                yield move
            return
        said = {"at": time.perf_counter(), "done": -1, "total": total}

        def tell(done: int, remark: str = "", total: int | None = None) -> None:
            said["total"] = total or said["total"]
            now = time.perf_counter()
            if (done >= said["total"] > said["done"]) or now - said["at"] >= 10:
                said.update(at=now, done=done)
                self.say(f"   {what} {done}/{said['total']} {remark}".rstrip())

        yield tell
