"""The two reports of a study: a page of one file without network or scripts, and Markdown for a repository."""

import html
from collections.abc import Sequence

from jepawm.evaluation.pages import figure, page, table
from jepawm.study.parts import Section
from jepawm.study.sections import sections
from jepawm.study.summary import StudySummary


def study_page(summary: StudySummary, command: str) -> str:
    """The HTML page.

    Args:
        summary: What is shown.
        command: What made it.
    """
    parts = [f"<h1>Study: {html.escape(summary.name)}</h1>", f"<p>{html.escape(summary.about)}</p>"]
    for section in sections(summary):
        parts += _section(section)
    parts += ["<h2>The same again</h2>", f"<pre>{html.escape(command)}</pre>"]
    return page(f"jepawm: study {summary.name}", parts)


def _section(section: Section) -> list[str]:
    conclusions = "".join(f"<li>{html.escape(text)}.</li>" for text in section.conclusions)
    return [
        f"<h2>{html.escape(section.title)}</h2>",
        f"<ul>{conclusions}</ul>" if conclusions else "",
        *(figure(plot.draw, plot.size, columns=plot.columns) for plot in section.plots),
        *(
            table([*map(html.escape, each.header)], [[*map(html.escape, row)] for row in each.rows])
            for each in section.tables
        ),
        *(f"<p class=muted>{html.escape(note)}</p>" for note in section.notes),
    ]


def study_markdown(summary: StudySummary, command: str) -> str:
    """The same without plots, for a repository."""
    lines = [f"# Study: {summary.name}", "", summary.about.strip(), "", "```bash", command, "```", ""]
    for section in sections(summary):
        lines += [f"## {section.title}", ""]
        lines += [*(f"* {text}." for text in section.conclusions), *([""] if section.conclusions else [])]
        for each in section.tables:
            lines += [*_markdown_table(each.header, each.rows), ""]
        for note in section.notes:
            lines += [note, ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

    return [line(header), line(["---"] * len(header)), *(line(row) for row in rows)]
