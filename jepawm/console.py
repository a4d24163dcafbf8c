"""What a run says while it works: stages, progress bars on a terminal, plain lines in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]
"""Called with the number of units done, and a short remark."""


class Console:
    """Stages with their wall times.

    Args:
        quiet: Say nothing (tests).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
        self.wall_s: dict[str, float] = {}

    def say(self, text: str = "") -> None:
        """Prints a line."""
        self._rich.print(text, markup=False)

    @contextlib.contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Announces a stage and measures its wall time into `wall_s[name]`."""
        self._rich.print(f"[bold]== {name}[/bold]", end=" ")
        self._rich.print(what, markup=False)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.wall_s[name] = self.wall_s.get(name, 0.0) + time.perf_counter() - began

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
                yield lambda done, remark="": progress.update(task, completed=done, remark=remark)
            return
        last = [time.perf_counter(), -1.0]

        def advance(done: int, remark: str = "") -> None:
            now = time.perf_counter()
            if (done >= total and last[1] < total) or now - last[0] >= 10:
                last[:] = [now, done]
                self.say(f"   {what} {done}/{total} {remark}".rstrip())

        yield advance
