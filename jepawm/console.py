"""What a run says while it works: stages, progress bars on a terminal, plain lines in a log."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

# Seconds between two lines of a bar in a log, and seconds that a rate looks back.
_LINE_EVERY_S, _RATE_OVER_S = 10.0, 15.0


class Advance(Protocol):
    """Moves a bar: units done, a short remark, and the number of units in all where it was not known before."""

    def __call__(self, done: int, remark: str = "", total: int | None = None) -> None: ...


class Rate:
    """How fast a counter grows: over the last seconds, at each moment somebody looks.

    Args:
        count: Returns the counter.
        clock: Seconds.
    """

    def __init__(self, count: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._clock = count, clock
        self._seen = deque([(clock(), count())])

    def per_s(self) -> float:
        """Growth per second since the latest look that is at least 15 s old, or since the first one."""
        now, count = self._clock(), self._count()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _RATE_OVER_S:
            self._seen.popleft()
        began, before = self._seen[0]
        return (count - before) / (now - began) if now > began else 0.0


class _ProgressWithRoles(Progress):
    """A bar, and one line below it for each role."""

    def __init__(self, *columns: Any, roles: Callable[[], list[str]], **options: Any) -> None:
        # The first drawing happens in the constructor of the parent.
        self._roles = roles
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in self._roles():
            yield Text(f"   {line}", no_wrap=True, overflow="ellipsis")


class Console:
    """Stages with their wall times.

    Args:
        quiet: Say nothing (tests).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
        self._roles: dict[str, Callable[[], str]] = {}
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
    def role(self, name: str, line: Callable[[], str]) -> Iterator[None]:
        """What a role of the run does (`train`, `data`, `environments`, `planners`), while the context lasts.

        On a terminal each role has a line of its own below the bar; in a log, the bar's line ends with them.

        Args:
            name: Of the role.
            line: Returns what it does now, or nothing; called whenever the bar is drawn.
        """
        self._roles[name] = line
        try:
            yield
        finally:
            del self._roles[name]

    def _role_lines(self) -> list[str]:
        return [f"{name:<12} {words}" for name, words in self._role_words()]

    def _role_words(self) -> list[tuple[str, str]]:
        told = [(name, line()) for name, line in list(self._roles.items())]
        return [(name, words) for name, words in told if words]

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
            with _ProgressWithRoles(*columns, roles=self._role_lines, console=self._rich) as progress:
                task = progress.add_task(what, total=total, remark="")

                def move(done: int, remark: str = "", total: int | None = None) -> None:
                    progress.update(task, completed=done, remark=remark, total=total)

                yield move
            return
        said = {"at": time.perf_counter(), "done": -1, "total": total}

        def tell(done: int, remark: str = "", total: int | None = None) -> None:
            said["total"] = total or said["total"]
            now = time.perf_counter()
            if (done >= said["total"] > said["done"]) or now - said["at"] >= _LINE_EVERY_S:
                said.update(at=now, done=done)
                roles = "".join(f"; {name}: {words}" for name, words in self._role_words())
                self.say(f"   {what} {done}/{said['total']} {remark}".rstrip() + roles)

        yield tell
