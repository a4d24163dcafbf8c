"""`jepawm data list | get | verify`: public datasets and their downloads on this disk."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from jepawm.data.download.fetch import Reporter
    from jepawm.data.download.public_sources import Licence, PublicSource
    from jepawm.data.download.transfer import Progress as Moved


@dataclass(frozen=True)
class List:
    """List the public datasets: what they are, their size and licence, and whether they are here."""

    json: bool = False
    """Everything that is known, as JSON."""

    def run(self) -> int:
        """Prints a table, or JSON."""
        from rich.console import Console
        from rich.table import Table

        from jepawm.data.download.fetch import state_of
        from jepawm.data.download.public_sources import sources

        if self.json:
            print(json.dumps([{**asdict(item), "state": state_of(item)} for item in sources()], indent=1))
            return 0
        table = Table(box=None, pad_edge=False)
        for name in ("name", "size", "licence", "here", "what it is"):
            table.add_column(name, justify="right" if name == "size" else "left", no_wrap=name in ("name", "licence"))
        for item in sources():
            state = state_of(item) or ("by hand" if item.how else "")
            table.add_row(item.name, _size(item), _licence(item.licence), state, item.about)
        # Into a pipe every row is one line.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
        console.print(table)
        console.print("nc: non-commercial use only. by hand: jepawm data get NAME says how.", markup=False)
        return 0


@dataclass(frozen=True)
class Get:
    """Download a public dataset, check it and unpack it; the same command resumes a download that stopped."""

    name: Positional[str]
    """Which; `jepawm data list` names them."""
    dest: Path | None = None
    """Folder for its files; by default `$JEPAWM_HOME/downloads/NAME`."""
    only: tuple[str, ...] = ()
    """Only files whose path fits one of these patterns, e.g. '*.json'."""
    keep_archives: bool = True
    """Keep archives after unpacking, so that `verify` can check them."""

    def run(self) -> int:
        """Prints licence and citation, progress, and the command that converts the data."""
        from jepawm.data.download.fetch import get_source
        from jepawm.data.download.public_sources import find
        from jepawm.interrupts import telling_how_to_go_on

        source = find(self.name)
        _introduce(source)
        with telling_how_to_go_on(lambda: "the same command goes on with the download"), _reporter() as report:
            folder = get_source(source, self.dest, only=self.only, keep_archives=self.keep_archives, report=report)
        print(f"{folder}: done")
        if source.format is not None and source.opens is not None:
            print(f"next: jepawm data convert {folder / source.opens} DESTINATION --from {source.format}")
        if source.note:
            print(f"note: {source.note}")
        return 0


@dataclass(frozen=True)
class Verify:
    """Check downloads against the publisher's checksums or those of the first download. Exit code 1 if any is bad."""

    target: Positional[str]
    """Name of a public dataset, or a folder that `get --dest` downloaded into."""

    def run(self) -> int:
        """Prints one line a bad file, or one summary line."""
        from jepawm.data.download.fetch import resolve, verify_folder
        from jepawm.data.download.ledger import Ledger

        folder, source = resolve(self.target)
        with _reporter() as report:
            found = verify_folder(folder, source, report)
        for line in found:
            print(line)
        if found:
            print(f"{folder}: {len(found)} problem(s); delete what is bad and run: jepawm data get")
            return 1
        entries = Ledger(folder).entries.values()
        trusted = sum(entry.vouched_by == "first use" for entry in entries)
        gone = sum(not entry.kept for entry in entries)
        facts = [f"{len(entries)} file(s)"]
        if trusted:
            facts.append(f"{trusted} by the checksum of the first download alone")
        if gone:
            facts.append(f"{gone} archive(s) deleted after unpacking cannot be judged")
        print(f"{folder}: ok, {', '.join(facts)}")
        return 0


def _licence(licence: "Licence") -> str:
    return f"{licence.name} (nc)" if licence.commercial_use is False else licence.name


def _size(source: "PublicSource") -> str:
    from rich.filesize import decimal

    size, exact = source.size
    if size is None:
        return "" if source.how else "unknown"
    return decimal(size) if exact else f"~{decimal(size)}"


def _introduce(source: "PublicSource") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    lines = {
        source.name: f"{source.about} ({source.environment})",
        "size": _size(source) or "unknown",
        "licence": f"{source.licence.name} ({source.licence.seen_in})",
        "cite": str(source.citation),
        "homepage": source.homepage,
    }
    width = max(len(key) for key in lines) + 2
    for key, value in lines.items():
        console.print(f"{key:<{width}}{value}", markup=False)
    if source.licence.commercial_use is False:
        console.print("NON-COMMERCIAL USE ONLY: what is trained on this data may be bound by it too", style="bold red")
    elif source.licence.commercial_use is None:
        console.print(
            "No licence was seen for this data: ask its authors before you use or pass it on", style="bold yellow"
        )


@contextmanager
def _reporter() -> Iterator["Reporter"]:
    """Progress bars on a terminal; in a log, one line at the start of each file."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from jepawm.data.download.fetch import Reporter

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        shown: list[TaskID] = []

        def begin(what: str) -> "Moved":
            for task in shown:
                bars.remove_task(task)
            shown[:] = [bars.add_task(what, total=None)]
            if not console.is_terminal:
                console.print(what, markup=False)

            def move(done: int, total: int | None) -> None:
                bars.update(shown[0], completed=done, total=total)

            return move

        yield Reporter(say=lambda text: console.print(text, markup=False), progress=begin)
