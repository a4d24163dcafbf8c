"""A page of evaluations beside each other: one file, no network."""

import html
from pathlib import Path

from jepawm.evaluation.compare import Comparison, Difference, ProtocolComparison
from jepawm.evaluation.pages import RANDOM, figure, intervals, page, percent, table

_COLOURS = ("#1f6feb", "#d1702f", "#17703a", "#8250df", "#a4262c", "#0b7285")


def write_comparison(path: str, comparison: Comparison) -> None:
    """Writes the page.

    Args:
        path: Of the HTML file.
        comparison: What is shown.
    """
    parts = [
        "<h1>Comparison</h1>",
        f"<p class=muted>{' · '.join(html.escape(name) for name in comparison.names)}</p>",
        *(f"<p><b>Beware:</b> {html.escape(text)}.</p>" for text in comparison.warnings),
    ]
    for protocol in comparison.protocols:
        parts += _protocol(protocol, comparison.names[0])
    parts += ["<h2>Settings that differ</h2>", _settings(comparison)]
    Path(path).write_text(page("jepawm: comparison", parts), encoding="utf-8")


def _protocol(protocol: ProtocolComparison, first: str) -> list[str]:
    rows = [
        (
            name,
            [("random plans", RANDOM, protocol.random_rates[name]), ("planned", _COLOURS[at % len(_COLOURS)], rate)],
        )
        for at, (name, rate) in enumerate(protocol.rates.items())
    ]
    rates = [
        [
            html.escape(name),
            percent(rate),
            percent(protocol.random_rates[name]),
            str(rate.num_episodes),
            _milliseconds(protocol.decision_ms_p50[name]),
        ]
        for name, rate in protocol.rates.items()
    ]
    header = ["evaluation", "success rate [95 %]", "random plans [95 %]", "episodes", "ms per decision, p50"]
    verdicts = "".join(f"<p>{html.escape(each.verdict(first))}.</p>" for each in protocol.differences)
    pairs = [_pair(each, first) for each in protocol.differences]
    pair_header = ["pair", "both solve", "the first alone", "the second alone", "neither", "p", "p, adjusted", "test"]
    return [
        f"<h2>{html.escape(protocol.protocol)}</h2>",
        verdicts,
        table(header, rates),
        figure(lambda axes: intervals(axes, rows), (8.0, 0.6 + 0.55 * len(rows))),
        table(pair_header, pairs),
        "<p class=muted>p: how often a difference at least as large would arise if both were equally good; adjusted "
        "for all pairs of the protocol (Holm).</p>",
    ]


def _pair(difference: Difference, first: str) -> list[str]:
    paired = difference.paired
    counts = ["", "", "", ""]
    if paired is not None:
        counts = [str(each) for each in (paired.both, paired.only_first, paired.only_second, paired.neither)]
    test = "Fisher, other episodes" if paired is None else "McNemar, same episodes"
    name = f"{html.escape(first)}, {html.escape(difference.name)}"
    return [name, *counts, f"{difference.p_value:.3g}", f"{difference.adjusted_p_value:.3g}", test]


def _settings(comparison: Comparison) -> str:
    if not comparison.settings:
        return "<p class=muted>None.</p>"
    rows = [
        [f"<code>{html.escape(key)}</code>", *(html.escape(str(value)) for value in values)]
        for key, values in comparison.settings.items()
    ]
    return table(["setting", *(html.escape(name) for name in comparison.names)], rows)


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
