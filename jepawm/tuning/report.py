"""The page of a sweep: one file, no network, no scripts."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepawm.config.tune import TuneConfig
from jepawm.evaluation.pages import PLANNED, RANDOM, facts, figure, intervals, page, percent, table
from jepawm.tuning.points import in_words
from jepawm.tuning.ranking import (
    FEWEST_FOR_IMPORTANCE,
    Importance,
    as_number,
    importances,
    ranked,
    seconds_of,
    unbeaten,
)
from jepawm.tuning.space import Choice, Parameter, Space
from jepawm.tuning.sweep_folder import Final
from jepawm.tuning.trial import TrialRecord

_STATUS_CLASS = {"finished": "ok", "stopped": "muted", "failed": "no"}


@dataclass(frozen=True)
class Sweep:
    """What the page shows.

    Attributes:
        name: Space and recipe.
        settings: Of the sweep.
        space: What was tried.
        records: Of all trials.
        finals: The best trials on fresh episodes, the best there first.
        best: Number of the trial to take.
        command: What repeats it; None where no command can.
    """

    name: str
    settings: TuneConfig
    space: Space
    records: tuple[TrialRecord, ...]
    finals: tuple[Final, ...]
    best: int
    command: str | None


def write_sweep_report(path: str, sweep: Sweep) -> None:
    """Writes the page.

    Args:
        path: Of the HTML file.
        sweep: What is shown.
    """
    best = next(record for record in sweep.records if record.number == sweep.best)
    metric = sweep.settings.metric
    parts = [
        f"<h1>Sweep: {html.escape(sweep.name)}</h1>",
        f"<p class=big>{html.escape(metric)} {_number(best.metrics.get(metric))} "
        f"<span class=muted>trial {best.number}</span></p>",
        f"<p>{html.escape(in_words(best.point))}</p>",
        *_again(sweep, best),
        *_finals(sweep),
        "<h2>All trials</h2>",
        _table(sweep),
        _parallel(sweep),
        *_importance(sweep),
        *_cost(sweep),
        *_curves(sweep),
        "<h2>What was asked for</h2>",
        facts(_asked(sweep)),
    ]
    Path(path).write_text(page(f"jepawm: sweep {sweep.name}", parts), encoding="utf-8")


def _again(sweep: Sweep, best: TrialRecord) -> list[str]:
    if sweep.command is not None:
        return ["<p>The same again:</p>", f"<pre>{html.escape(sweep.command)}</pre>"]
    changes = "".join(
        f"<li>from train step {each.train_step}, with the weights of trial {each.source}: "
        f"{html.escape(in_words(each.point))}</li>"
        for each in best.takeovers
    )
    return [
        "<p>Its settings changed on the way, so no single command repeats it. Its model is in "
        f"<code>{html.escape(best.run_dir)}</code>.</p><ul>{changes}</ul>"
    ]


def _finals(sweep: Sweep) -> list[str]:
    if not sweep.finals:
        return []
    rows = [
        [
            str(each.number),
            percent(each.in_sweep),
            percent(each.fresh),
            str(each.fresh.num_episodes),
            f"{-100 * each.drop:+.1f}",
        ]
        for each in sweep.finals
    ]
    mean = sum(each.drop for each in sweep.finals) / len(sweep.finals)
    shown = [
        (f"trial {each.number}", [("the sweep's episodes", RANDOM, each.in_sweep), ("fresh", PLANNED, each.fresh)])
        for each in sweep.finals
    ]
    return [
        "<h2>The best trials on fresh episodes</h2>",
        "<p>The best of many noisy trials looks better than it is, for it was chosen by the same episodes. These "
        f"episodes chose nothing before. On average the rate is {100 * mean:.1f} points lower on them.</p>",
        table(
            ["trial", "in the sweep [95 %]", "fresh episodes [95 %]", "fresh episodes", "fresh - sweep, points"], rows
        ),
        figure(lambda axes: intervals(axes, shown), (8.0, 0.6 + 0.55 * len(shown))),
    ]


def _table(sweep: Sweep) -> str:
    metrics, keys = sweep.settings.metrics, list(sweep.space.parameters)
    order = {record.number: place for place, record in enumerate(ranked(sweep.records, metrics))}
    records = sorted(sweep.records, key=lambda each: (order.get(each.number, len(order)), each.number))
    front = {record.number for record in unbeaten(sweep.records, metrics)} if len(metrics) > 1 else set()
    header = ["trial", *(html.escape(metric) for metric, _ in metrics), "status", "seconds", "rungs"]
    rows = []
    for record in records:
        rungs = ", ".join(f"{_number(rung.value)} at {rung.train_step}" for rung in record.rungs)
        mark = " (unbeaten)" if record.number in front else ""
        rows.append(
            [
                f"{record.number}{mark}",
                *(_number(record.metrics.get(metric)) for metric, _ in metrics),
                f"<span class={_STATUS_CLASS[record.status]}>{record.status}</span> {html.escape(record.error[:200])}",
                f"{record.seconds:.1f}",
                rungs,
                *(html.escape(_setting(record.point, key)) for key in keys),
            ]
        )
    return table([*header, *(f"<code>{html.escape(key)}</code>" for key in keys)], rows)


def _parallel(sweep: Sweep) -> str:
    """One line a finished trial through all its settings, coloured by the metric."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    finished = ranked(sweep.records, sweep.settings.metrics)
    if len(finished) < 2:
        return ""
    metric, mode = sweep.settings.metrics[0]
    keys = [key for key, parameter in sweep.space.parameters.items() if len(parameter.ends) > 1]
    values = [record.metrics[metric] for record in finished]
    scale = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
    colours = colormaps["viridis" if mode == "max" else "viridis_r"]

    def draw(axes: Any) -> None:
        # The best lines are drawn last, on top.
        for record, value in reversed(list(zip(finished, values, strict=True))):
            heights = [as_number(sweep.space.parameters[key], record.point.get(key)) for key in keys]
            axes.plot(range(len(keys) + 1), [*heights, scale(value)], color=colours(scale(value)), linewidth=1.5)
        for at, key in enumerate(keys):
            axes.axvline(at, color="#d8dee6", zorder=0)
            for tick, label in _ticks(sweep.space.parameters[key]):
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.7}
                axes.text(at + 0.02, tick, label, fontsize=7, color="#1c2430", va="center", bbox=box)
        for height, end in ((0.0, scale.vmin), (1.0, scale.vmax)):
            axes.text(len(keys) + 0.02, height, _number(end), fontsize=7, color="#5b6878", va="center")
        axes.set(xlim=(-0.1, len(keys) + 0.4), ylim=(-0.35, 1.1), yticks=[])
        axes.set_xticks(range(len(keys) + 1), [*keys, metric], rotation=20, ha="right", fontsize=8)
        axes.spines["left"].set_visible(False)

    return (
        "<h2>Settings of the finished trials</h2><p class=muted>One line a trial, bright where the metric is good; "
        "below the axes: the setting has no meaning for the trial.</p>"
        + figure(draw, (max(6.0, 1.5 * (len(keys) + 1)), 4.2))
    )


def _ticks(parameter: Parameter) -> list[tuple[float, str]]:
    values: Sequence[Any] = parameter.options if isinstance(parameter, Choice) else parameter.ends
    return [(as_number(parameter, value), _text(value)) for value in values]


def _importance(sweep: Sweep) -> list[str]:
    found = importances(sweep.records, sweep.space, sweep.settings.metrics)
    title = "<h2>Which settings mattered</h2>"
    if not found:
        finished = len(ranked(sweep.records, sweep.settings.metrics))
        return [
            title,
            f"<p class=muted>{finished} trials finished; it takes {FEWEST_FOR_IMPORTANCE} with different values.</p>",
        ]

    def draw(axes: Any) -> None:
        axes.barh([each.key for each in found], [each.share for each in found], color=PLANNED)
        axes.set(xlim=(0, 1), xlabel="share of the variance of ranks that the setting explains by itself")
        axes.invert_yaxis()

    rows = [
        [
            f"<code>{html.escape(each.key)}</code>",
            f"{each.share:.2f}",
            f"{each.p_value:.3g}",
            html.escape(_groups(each)),
        ]
        for each in found
    ]
    return [
        title,
        figure(draw, (8.0, 0.8 + 0.35 * len(found))),
        table(["setting", "share", "p", f"mean {html.escape(sweep.settings.metric)} (trials)"], rows),
        "<p class=muted>Kruskal and Wallis' test of each setting alone, not corrected for their number. A search that "
        "prefers good points, and a scheduler that stops bad ones, show some values more often than others.</p>",
    ]


def _groups(each: Importance) -> str:
    return "; ".join(f"{name}: {mean:.4g} ({count})" for name, mean, count in each.groups)


def _cost(sweep: Sweep) -> list[str]:
    """The first metric against what a trial took, and against the second metric."""
    metrics = sweep.settings.metrics
    metric = metrics[0][0]
    finished = ranked(sweep.records, metrics)
    if not finished:
        return []
    others: list[tuple[str, Callable[[TrialRecord], float | None]]] = [
        ("seconds of the trial", lambda each: each.seconds)
    ]
    second = metrics[1][0] if len(metrics) > 1 else "decision_ms"
    if any(record.value(second) is not None for record in finished) and second != metric:
        others.append((second, lambda each: each.value(second)))
    front = {record.number for record in unbeaten(sweep.records, metrics)} if len(metrics) > 1 else {sweep.best}

    def draw(axes: Any) -> None:
        for place, (name, cost) in zip([axes] if len(others) == 1 else axes, others, strict=True):
            for record in finished:
                x = cost(record)
                if x is not None:
                    chosen = record.number in front
                    place.plot(x, record.metrics[metric], "o", color=PLANNED if chosen else RANDOM)
                    place.annotate(
                        str(record.number),
                        (x, record.metrics[metric]),
                        fontsize=7,
                        xytext=(4, 3),
                        textcoords="offset points",
                    )
            place.set(xlabel=name, ylabel=metric)

    chosen = "trials that no other one beats in both metrics" if len(metrics) > 1 else "the trial that is taken"
    title = f"<h2>{html.escape(metric)} against cost</h2>"
    note = f"<p class=muted>Blue: {chosen}. Wall times of trials that ran beside others are longer than alone.</p>"
    return [title, figure(draw, (4.6 * len(others), 3.4), columns=len(others)), note]


def _curves(sweep: Sweep) -> list[str]:
    """What trials were compared by on the way."""
    with_rungs = [record for record in sweep.records if record.rungs]
    if not with_rungs:
        return []
    colours = {"finished": PLANNED, "stopped": RANDOM, "failed": "#a4262c"}

    def draw(axes: Any) -> None:
        for record in with_rungs:
            steps = [rung.train_step for rung in record.rungs]
            axes.plot(
                steps,
                [rung.value for rung in record.rungs],
                "o-",
                color=colours[record.status],
                markersize=3,
                linewidth=1,
            )
        axes.set(xlabel="train step", ylabel=sweep.settings.rung_metric[0])

    return [
        "<h2>On the way</h2>",
        figure(draw, (8.0, 3.4)),
        "<p class=muted>Blue: trained to the end; grey: stopped at its last point.</p>",
    ]


def _asked(sweep: Sweep) -> list[tuple[str, object]]:
    settings = sweep.settings
    seconds = seconds_of(sweep.records)
    return [
        ("search", settings.search),
        ("scheduler", settings.scheduler),
        ("seed of the points", settings.seed),
        *((f"seconds in trials that {status}", f"{total:.0f}") for status, total in seconds.items()),
        *((key, parameter) for key, parameter in sweep.space.parameters.items()),
    ]


def _setting(point: dict[str, Any], key: str) -> str:
    return _text(point[key]) if key in point else "-"


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"
