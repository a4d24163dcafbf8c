"""Success against goal distance as a figure: every condition on the same axes, with intervals."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.outcomes import DistancePoint
from jepawm.evaluation.pages import LEARNED, PLANNED, RANDOM, figure, percent, table
from jepawm.evaluation.result import Played


@dataclass(frozen=True)
class Curve:
    """One condition on the figure.

    Attributes:
        label: In the legend.
        colour: Of its line.
        points: Env_steps to the goal, and the success rate there.
        dashed: For what is beside the planner: random plans, policies that search nothing.
    """

    label: str
    colour: str
    points: Sequence[tuple[int, SuccessRate]]
    dashed: bool = False


def curves_figure(curves: Sequence[Curve]) -> str:
    """The curves with their intervals, as SVG."""

    def draw(axes: Any) -> None:
        for curve in curves:
            offsets = [offset for offset, _ in curve.points]
            low, high = zip(*(rate.success_interval for _, rate in curve.points), strict=True)
            axes.fill_between(offsets, low, high, color=curve.colour, alpha=0.15, linewidth=0)
            rates = [rate.success_rate for _, rate in curve.points]
            axes.plot(offsets, rates, "--o" if curve.dashed else "-o", color=curve.colour, label=curve.label)
        axes.set(
            xlabel="env_steps from start to goal where the goal comes from",
            ylabel="success rate, 95 % interval",
            xticks=sorted({offset for curve in curves for offset, _ in curve.points}),
            ylim=(-0.02, 1.02),
        )
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return figure(draw, (8.0, 3.4))


def _baseline_curves(points: Sequence[DistancePoint]) -> list[Curve]:
    """Random plans, and each policy that searches nothing."""
    heads = dict.fromkeys(head for point in points for head in point.report.baselines)
    random = [(point.goal_offset_env_steps, point.report.random.rate) for point in points]
    learned = [
        Curve(
            f"{head} alone",
            LEARNED[at % len(LEARNED)],
            [
                (point.goal_offset_env_steps, point.report.baselines[head].rate)
                for point in points
                if head in point.report.baselines
            ],
            dashed=True,
        )
        for at, head in enumerate(heads)
    ]
    return [Curve("random plans", RANDOM, random, dashed=True), *learned]


def distance_curve(played: Played) -> str:
    """The figure of one evaluation, what is not beaten in words, and the numbers."""
    points = played.distance_curve
    planned = Curve("planned", PLANNED, [(each.goal_offset_env_steps, each.report.planned.rate) for each in points])
    heads = list(dict.fromkeys(head for point in points for head in point.report.baselines))
    rows = [
        [
            f"{point.goal_offset_env_steps}",
            percent(point.report.planned.rate),
            percent(point.report.random.rate),
            *(percent(point.report.baselines[head].rate) if head in point.report.baselines else "" for head in heads),
            str(point.report.planned.rate.num_episodes),
            str(point.report.rules.max_chunks),
            str(point.solved_at_start),
        ]
        for point in points
    ]
    header = ["env_steps to the goal", "planned [95 %]", "random plans [95 %]"]
    header += [f"{html.escape(head)} alone [95 %]" for head in heads]
    verdicts = "".join(
        f"<p class=no>{point.goal_offset_env_steps} env_steps away: {html.escape(text)}.</p>"
        for point in points
        for text in point.report.verdicts()
    )
    said = f"<p class=muted>Protocol {html.escape(played.headline)}, goals from {html.escape(played.goal_source)}.</p>"
    figures = curves_figure([planned, *_baseline_curves(points)])
    return said + figures + verdicts + table([*header, "episodes", "chunks at most", "solved at the start"], rows)
