"""The part of a report that leads to the other runs of the same experiment."""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jepawm.evaluation.pages import table


@dataclass(frozen=True)
class OtherRun:
    """One run beside the one that a report is about.

    Attributes:
        name: Name of its folder.
        recipe: Name of its recipe.
        env_id: Its environment.
        headline: What it found, or how far it came.
        report: Path of its report; None: there is none yet.
    """

    name: str
    recipe: str
    env_id: str
    headline: str
    report: str | None


@dataclass(frozen=True)
class OtherRuns:
    """The runs of an experiment, without the one that a report is about.

    Attributes:
        experiment: `tracking.experiment` of all of them.
        runs: The newest first.
        num_left_out: Older runs that are not in `runs`.
        unreadable: Names of folders whose configuration cannot be read.
    """

    experiment: str
    runs: Sequence[OtherRun]
    num_left_out: int = 0
    unreadable: Sequence[str] = ()


def other_runs_part(others: OtherRuns, folder: str) -> list[str]:
    """HTML of a table of runs that links to their reports.

    Args:
        others: The runs; without any, nothing is written.
        folder: Of the report: links are relative to it, so that a folder of runs can be moved as a whole.
    """
    if not others.runs:
        return []
    rows = [
        [_link(run, folder), html.escape(run.recipe), html.escape(run.env_id), html.escape(run.headline)]
        for run in others.runs
    ]
    older = f" {others.num_left_out} older runs are left out." if others.num_left_out else ""
    if others.unreadable:
        older += f" Folders that cannot be read: {html.escape(', '.join(sorted(others.unreadable)))}."
    said = (
        f"<p class=muted>Runs with <code>tracking.experiment</code> {html.escape(others.experiment)} when this report "
        f"was written, the newest first.{older} <code>jepawm compare RUN RUN</code> compares their evaluations.</p>"
    )
    return [
        "<h2>Other runs of the same experiment</h2>",
        said,
        table(["run", "recipe", "environment", "success rate [95 % interval], or how far it came"], rows),
    ]


def _link(run: OtherRun, folder: str) -> str:
    name = html.escape(run.name)
    if run.report is None:
        return name
    way = quote(Path(os.path.relpath(run.report, folder)).as_posix())
    return f'<a href="{html.escape(way)}">{name}</a>'
