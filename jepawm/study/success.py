"""Sections of the report about success: ranking, sample efficiency, ablations."""

import itertools
from collections.abc import Sequence
from typing import Any

from jepawm.evaluation.pages import PLANNED, RANDOM
from jepawm.study.parts import ABOVE, Plot, Section, Table, of_seeds, percent, share_in_words
from jepawm.study.statistics import is_above
from jepawm.study.summary import Comparison, StudySummary, SuccessRow

_COLOURS = ("#1f6feb", "#d1702f", "#17703a", "#8250df", "#a4262c", "#0b7285", "#b58900", "#5b6878")


def ranking(summary: StudySummary, environment: str) -> Section | None:
    """Success in one environment, and which differences are shown; None: no trial is done."""
    rows = [row for row in summary.success if row.environment == environment]
    if not rows:
        return None
    tests = [each for each in summary.comparisons if each.environment == environment and each.what == "encoders"]
    best = max((each.fraction or 0.0 for each in tests), default=max(row.fraction for row in rows))
    conclusions: list[str] = []
    tables = [_success_table(rows)]
    for comparison in tests:
        conclusions += _conclusions(comparison)
        if comparison.fraction == best:
            tables += [_rank_table(comparison), _pair_table(comparison)]
    conclusions += [
        f"{row.encoder} at {share_in_words(row.fraction)} is not shown to beat random plans "
        f"({percent(row.planned)} % against {percent(row.random)} %)"
        for row in rows
        if not is_above(row.planned, row.random)
    ]
    at_best = [row for row in rows if row.fraction == best]
    plots = (Plot(lambda axes: _draw_rates(axes, at_best), (8.0, 0.8 + 0.5 * len(at_best))),) if at_best else ()
    return Section(
        f"Success in {environment}",
        tuple(conclusions),
        tuple(tables),
        plots,
        (
            "Success in percent with Wilson's 95 % interval over all episodes of all seeds; it takes the episodes for "
            "independent, though those of one seed share a model. Beside it stands the rate of each seed, and the 95 % "
            "interval of their mean by Student's t.",
            "A difference is called shown where McNemar's test on the same episodes of the same seeds has p < 0.05 "
            "after Holm's correction for all pairs of the table, and one encoder is ahead in every one of at least two "
            "seeds. All else is noise as far as this study goes.",
            ABOVE,
        ),
    )


def _success_table(rows: Sequence[SuccessRow]) -> Table:
    header = ("encoder", "share", "episodes", "success, % [95 %]", "of each seed, %", "random plans, %", "played")
    return Table(
        header,
        tuple(
            (
                row.encoder,
                share_in_words(row.fraction),
                f"{row.train_episodes:.0f}",
                percent(row.planned),
                of_seeds(row.planned),
                percent(row.random),
                str(row.planned.rate.num_episodes),
            )
            for row in rows
        ),
    )


def _rank_table(comparison: Comparison) -> Table:
    header = ("rank", "encoder", "success, % [95 %]", "shown to be worse than", "not told apart from")
    return Table(
        header,
        tuple(
            (
                str(at),
                rank.label,
                percent(rank.rate),
                ", ".join(rank.worse_than) or "none",
                ", ".join(rank.not_told_apart_from) or "none",
            )
            for at, rank in enumerate(comparison.ranks, start=1)
        ),
    )


def _pair_table(comparison: Comparison) -> Table:
    header = ("pair", "the second is ahead by, points", "by seed", "only the first", "only the second", "p", "p, Holm")
    return Table(
        header,
        tuple(
            (
                f"{pair.first}, {pair.second}",
                f"{100 * pair.difference:+.1f}",
                ", ".join(f"{100 * each:+.0f}" for each in pair.by_seed),
                str(pair.paired.only_first),
                str(pair.paired.only_second),
                f"{pair.paired.p_value:.2g}",
                f"{pair.adjusted_p_value:.2g}",
            )
            for pair in comparison.pairs
        ),
    )


def _conclusions(comparison: Comparison) -> list[str]:
    """Every difference that is shown, and the number of those that are not."""
    at = "" if comparison.fraction is None else f" at {share_in_words(comparison.fraction)} of the episodes"
    shown = [f"{pair.verdict()}{at}" for pair in comparison.pairs if pair.is_shown]
    rest = len(comparison.pairs) - len(shown)
    if not shown:
        return [f"No difference is shown{at} among {len(comparison.pairs)} pairs"]
    return [*shown, *([f"{rest} of {len(comparison.pairs)} pairs are not told apart{at}"] if rest else [])]


def _draw_rates(axes: Any, rows: Sequence[SuccessRow]) -> None:
    for at, row in enumerate(rows):
        for shift, colour, rate in ((-0.12, RANDOM, row.random), (0.12, PLANNED, row.planned)):
            axes.plot(rate.rate.success_interval, [at + shift] * 2, color=colour, linewidth=3, solid_capstyle="round")
            axes.plot(rate.rate.success_rate, at + shift, "o", color=colour)
        axes.plot(row.planned.spread.values, [at + 0.12] * len(row.planned.spread.values), "|", color="#1c2430")
    axes.set(xlim=(-0.02, 1.02), xlabel="success; grey: random plans; ticks: single seeds")
    axes.set(yticks=range(len(rows)), yticklabels=[row.encoder for row in rows])
    axes.invert_yaxis()


def efficiency(summary: StudySummary) -> Section | None:
    """Success against the number of training episodes; None: one share alone."""
    tests = [each for each in summary.comparisons if each.what == "share of the episodes"]
    if not tests:
        return None
    conclusions = [f"{each.environment}: {pair.verdict()}" for each in tests for pair in each.pairs]
    curves = [
        (environment, [row for row in summary.success if row.environment == environment])
        for environment in summary.environments
    ]
    curves = [(environment, rows) for environment, rows in curves if rows]
    return Section(
        "Success against training episodes",
        tuple(conclusions),
        plots=(Plot(lambda axes: _draw_curves(axes, curves), (5.2 * len(curves), 3.6), len(curves)),),
        notes=(
            "A smaller share is a part of a larger one, and every share is trained with the same number of updates. "
            "Each encoder's shares are compared with its largest on the same episodes.",
        ),
    )


def _each_axes(axes: Any, number: int) -> list[Any]:
    return [axes] if number == 1 else list(axes)


def _draw_curves(axes: Any, curves: Sequence[tuple[str, Sequence[SuccessRow]]]) -> None:
    for place, (environment, rows) in zip(_each_axes(axes, len(curves)), curves, strict=True):
        for label, colour in _coloured(row.encoder for row in rows):
            own = [row for row in rows if row.encoder == label]
            x = [row.train_episodes for row in own]
            rates = [row.planned.rate for row in own]
            place.plot(x, [each.success_rate for each in rates], "o-", color=colour, label=label, markersize=4)
            low, high = ([each.success_interval[end] for each in rates] for end in (0, 1))
            place.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        place.set(xscale="log", ylim=(-0.02, 1.02), xlabel="training episodes", ylabel="success", title=environment)
        place.legend(frameon=False, fontsize=7)


def _coloured(labels: Any) -> list[tuple[str, str]]:
    return list(zip(dict.fromkeys(labels), itertools.cycle(_COLOURS), strict=False))


def ablation(summary: StudySummary, label: str) -> Section | None:
    """Each arm against the first; None: fewer than two arms are done."""
    tests = [each for each in summary.comparisons if each.what == label]
    if not tests:
        return None
    conclusions, tables = [], []
    for each in tests:
        at = "" if each.fraction is None else f", {share_in_words(each.fraction)}"
        conclusions += [f"{each.environment}{at}: {pair.verdict()}" for pair in each.pairs]
        tables.append(_pair_table(each))
    return Section(
        f"Ablation: {label}",
        tuple(conclusions),
        tuple(tables),
        notes=("Each arm is compared with the first; Holm corrects for the arms of one environment and share.",),
    )
