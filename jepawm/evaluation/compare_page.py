"""A page of evaluations beside each other: one file, no network."""

import html
import itertools
from collections.abc import Mapping
from pathlib import Path

from jepawm.evaluation.compare import Comparison, Difference, ProtocolComparison
from jepawm.evaluation.distance_page import Curve, curves_figure
from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.pages import RANDOM, figure, intervals, page, percent, table

_GREYS = ("#8b97a5", "#5b6878", "#b5a27f", "#a58b97", "#7f9fb5")
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
        parts += _protocol(protocol)
    if comparison.distances:
        parts += ["<h2>Success against goal distance</h2>", _distances(comparison)]
    parts += ["<h2>Settings that differ</h2>", _settings(comparison)]
    Path(path).write_text(page("jepawm: comparison", parts), encoding="utf-8")


def _distances(comparison: Comparison) -> str:
    """Every evaluation on the same axes, beside random plans and policies that search nothing; and what follows."""
    rates: dict[str, list[tuple[int, SuccessRate]]] = {}
    beside: dict[str, list[tuple[int, SuccessRate]]] = {}
    for each in comparison.distances:
        offset = each.goal_offset_env_steps
        for name, rate in each.played.rates.items():
            rates.setdefault(name, []).append((offset, rate))
            beside.setdefault(f"random plans, {name}", []).append((offset, each.played.random_rates[name]))
            for head, baseline in each.played.baseline_rates[name].items():
                beside.setdefault(f"{head} alone, {name}", []).append((offset, baseline))
    colours = dict(zip(rates, itertools.cycle(_COLOURS), strict=False))
    lines = [Curve(name, colours[name], points) for name, points in rates.items()]
    greys = itertools.cycle(_GREYS)
    lines += [Curve(name, next(greys), points, dashed=True) for name, points in _once(beside).items()]
    parts = [curves_figure(lines)]
    for each in comparison.distances:
        parts += _protocol(each.played, level=3)
    return "".join(parts)


def _once(curves: Mapping[str, list[tuple[int, SuccessRate]]]) -> dict[str, list[tuple[int, SuccessRate]]]:
    """Of curves that are equal the first: evaluations of one model on the same tasks have the same baselines."""
    kept: dict[str, list[tuple[int, SuccessRate]]] = {}
    for name, points in curves.items():
        if points not in kept.values():
            kept[name] = points
    return kept


def _protocol(protocol: ProtocolComparison, *, level: int = 2) -> list[str]:
    first, *others = protocol.rates
    heads = list(dict.fromkeys(head for each in protocol.baseline_rates.values() for head in each))
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
            *(_baseline(protocol.baseline_rates[name].get(head)) for head in heads),
            str(rate.num_episodes),
            _milliseconds(protocol.decision_ms_p50[name]),
        ]
        for name, rate in protocol.rates.items()
    ]
    header = ["evaluation", "success rate [95 %]", "random plans [95 %]"]
    header += [*(f"{html.escape(head)} alone [95 %]" for head in heads), "episodes", "ms per decision, p50"]
    verdicts = "".join(f"<p>{html.escape(text)}.</p>" for text in protocol.verdicts())
    pairs = [_pair(each, first) for each in protocol.differences]
    pair_header = ["pair", "both solve", "the first alone", "the second alone", "neither", "p", "p, adjusted", "test"]
    shown = [f"<h{level}>{html.escape(protocol.protocol)}</h{level}>", verdicts, table(header, rates)]
    if not others:
        return shown
    return [
        *shown,
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


def _baseline(rate: SuccessRate | None) -> str:
    return "" if rate is None else percent(rate)


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
