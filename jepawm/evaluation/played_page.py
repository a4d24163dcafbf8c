"""The part of a report that tells what was played: success, goal distance, causes of failure, rollouts."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepawm.config import ProtocolConfig
from jepawm.evaluation.goal_outline import with_goal_outline
from jepawm.evaluation.outcomes import CAUSES, DiagnosedEpisode, EpisodeOutcome, FailureDiagnosis, ProtocolReport
from jepawm.evaluation.pages import PLANNED, RANDOM, animation, facts, figure, intervals, percent, picture, table
from jepawm.evaluation.play import Animation
from jepawm.evaluation.result import Played

_CHUNK = (
    "<p class=muted>A chunk is the actions of one model step. Random plans are drawn from the planner's own first "
    "distribution and run under the same rules. A cost of <code>last</code> is the distance of a plan's last predicted "
    "latent to the goal's; of <code>sum</code>, over all predicted latents.</p>"
)


def played_parts(played: Played, animations: Mapping[int, Animation]) -> list[str]:
    """HTML of what was played, in the order a person asks for it.

    Args:
        played: The numbers.
        animations: Recorded episodes of the headline protocol, by episode id.
    """
    headline = played.protocols[played.headline]
    parts = ["<h2>Success</h2>", _success_table(played), _CHUNK, _success_figure(played)]
    if played.distance_curve:
        parts += ["<h2>Success against goal distance</h2>", _distance_curve(played)]
    if headline.failures is not None:
        parts += ["<h2>Why episodes failed</h2>", _failures(headline.failures, played.headline)]
    return [*parts, "<h2>Rollouts</h2>", _rollouts(played, animations)]


def rules_in_words(rules: ProtocolConfig) -> str:
    """A protocol in a line."""
    shrinking = ", horizon shrinking" if rules.horizon == "shrinking" else ""
    return (
        f"replan every {rules.replan_every} chunk(s){shrinking}, at most {rules.max_chunks}; solved at "
        f"{rules.success_at.replace('_', ' ')}; cost: {rules.cost}"
    )


def _success_table(played: Played) -> str:
    rows = []
    learned = baseline_names(played)
    for name, protocol in played.protocols.items():
        planned = protocol.planned
        rows.append(
            [
                f"<b>{html.escape(name)}</b><br><span class=muted>{html.escape(rules_in_words(protocol.rules))}</span>",
                percent(planned.rate),
                percent(protocol.random.rate),
                *(percent(protocol.baselines[head].rate) if head in protocol.baselines else "" for head in learned),
                str(planned.rate.num_episodes),
                *([_distances(protocol)] if played.distance_name else []),
                _steps(protocol),
                _speed(protocol),
            ]
        )
    unit = html.escape(played.distance_name)
    distance = [f"mean distance at the end, planned / random ({unit})"] if unit else []
    alone = [f"{html.escape(head)} alone, without search [95 %]" for head in learned]
    header = ["protocol", "planned [95 %]", "random plans [95 %]", *alone, "episodes", *distance]
    header += ["env_steps to success (median)", "ms per decision, p50 / p95"]
    return table(header, rows)


def baseline_names(played: Played) -> list[str]:
    """Learned policies that search nothing, in order."""
    return list(dict.fromkeys(head for protocol in played.protocols.values() for head in protocol.baselines))


def _distances(protocol: ProtocolReport) -> str:
    planned, random = protocol.planned.mean_distance, protocol.random.mean_distance
    return "" if planned is None or random is None else f"{planned:.3g} / {random:.3g}"


def _steps(protocol: ProtocolReport) -> str:
    steps = protocol.planned.median_env_steps_to_success
    return "never" if steps is None else f"{steps:.0f}"


def _speed(protocol: ProtocolReport) -> str:
    planned = protocol.planned
    if planned.decision_ms_p50 is None:
        return f"{planned.plan_ms_p50:.0f} / {planned.plan_ms_p95:.0f} (a batch)"
    return f"{planned.decision_ms_p50:.3g} / {planned.decision_ms_p95:.3g}"


def _success_figure(played: Played) -> str:
    rows = [
        (name, [("planned", PLANNED, protocol.planned.rate), ("random plans", RANDOM, protocol.random.rate)])
        for name, protocol in played.protocols.items()
    ]
    return figure(lambda axes: intervals(axes, rows), (7.0, 0.6 + 0.55 * len(rows)))


def _distance_curve(played: Played) -> str:
    points = played.distance_curve
    offsets = [point.goal_offset_env_steps for point in points]

    def draw(axes: Any) -> None:
        for label, colour, rates in (
            ("planned", PLANNED, [point.report.planned.rate for point in points]),
            ("random plans", RANDOM, [point.report.random.rate for point in points]),
        ):
            low, high = zip(*(rate.success_interval for rate in rates), strict=True)
            axes.fill_between(offsets, low, high, color=colour, alpha=0.18, linewidth=0)
            values = [rate.success_rate for rate in rates]
            axes.plot(offsets, values, marker="o", color=colour, label=label)
        axes.set(
            xlabel="env_steps from start to goal where the goal comes from",
            ylabel="success rate, 95 % interval",
            xticks=offsets,
            ylim=(-0.02, 1.02),
        )
        axes.legend(frameon=False)

    rows = [
        [
            f"{point.goal_offset_env_steps}",
            percent(point.report.planned.rate),
            percent(point.report.random.rate),
            str(point.report.planned.rate.num_episodes),
            str(point.report.rules.max_chunks),
            str(point.solved_at_start),
        ]
        for point in points
    ]
    header = ["env_steps to the goal", "planned [95 %]", "random plans [95 %]", "episodes", "chunks at most"]
    said = f"<p class=muted>Protocol {html.escape(played.headline)}, goals from {html.escape(played.goal_source)}.</p>"
    return said + figure(draw, (7.0, 3.2)) + table([*header, "solved at the start"], rows)


def _failures(failures: FailureDiagnosis, protocol: str) -> str:
    number = len(failures.episodes)
    rows = [
        [f"<b>{cause}</b>: {html.escape(CAUSES[cause])}", str(count), f"{100 * count / number:.0f} %"]
        for cause, count in failures.counts.items()
    ]
    how = (
        f"<p>{number} of {failures.num_failed} failed episodes of protocol <b>{html.escape(protocol)}</b>. For each, "
        f"its first plan, {failures.num_candidates} other candidates and, where they are known, the actions that the "
        "goal comes from were executed in the environment from the episode's start.</p>"
    )
    return how + table(["cause", "episodes", "share"], rows)


def _rollouts(played: Played, animations: Mapping[int, Animation]) -> str:
    if not animations:
        return "<p class=muted>None were recorded (evaluation.num_animations is 0).</p>"
    headline = played.protocols[played.headline]
    outcomes = {outcome.episode_id: outcome for outcome in headline.planned.episodes}
    causes = {} if headline.failures is None else {each.episode_id: each for each in headline.failures.episodes}
    # Failures first: a person looks for them.
    shown = sorted(animations, key=lambda episode_id: (outcomes[episode_id].solved, episode_id))
    cards = [_card(played, outcomes[each], animations[each], causes.get(each)) for each in shown]
    rules = (("protocol", f"{played.headline}: {rules_in_words(headline.rules)}"), ("goals", played.goal_source))
    told = facts((*rules, *(headline.conditions or {}).items()))
    strip = "env_step: distance to the goal" if played.distance_name else "env_step"
    said = (
        f"<p class=muted>Failures first. Below a rollout: {strip}. Coloured lines in a rollout: outlines of the goal's "
        "picture where it differs from the start's.</p>"
    )
    return f"{told}{said}<div class=rolls>{''.join(cards)}</div>"


def _card(played: Played, outcome: EpisodeOutcome, item: Animation, cause: DiagnosedEpisode | None) -> str:
    verdict = "<span class=ok>solved</span>" if outcome.solved else "<span class=no>not solved</span>"
    sources = {"start": picture(item.rollout[0]), "goal": picture(item.goal), "rollout": _rollout(item)}
    images = "".join(
        f"<td><img alt='{name}' src='{source}'><br><span class=muted>{name}</span></td>"
        for name, source in sources.items()
    )
    why = "" if cause is None else f"<br>cause: <b>{cause.cause}</b>, {html.escape(CAUSES[cause.cause])}"
    return (
        f"<div class=roll>episode {outcome.episode_id}: {verdict} after {outcome.env_steps} environment steps, "
        f"{outcome.num_plans} plan(s){why}{_varied(outcome)}<table><tr>{images}</tr></table>"
        f"{_curves(item, played.distance_name)}</div>"
    )


def _rollout(item: Animation) -> str:
    if item.distances is None:
        captions = [f"env_step {at}" for at in range(len(item.rollout))]
    else:
        captions = [f"{at}: {distance:.3g}" for at, distance in enumerate(item.distances)]
    return animation(with_goal_outline(item.rollout, item.goal), captions)


def _curves(item: Animation, distance_name: str) -> str:
    """The distance to the goal over time, and the costs of each plan's search."""
    costs = [cost for cost in item.costs if len(cost) > 1 and np.isfinite(cost).all()]
    distances = item.distances
    if not costs and distances is None:
        return ""

    def draw(axes: Any) -> None:
        of_distance, of_cost = axes
        if distances is None:
            of_distance.set_axis_off()
        else:
            of_distance.plot(range(len(distances)), distances, color=PLANNED)
            of_distance.set(xlabel="env_step", ylabel=distance_name)
            of_distance.set_ylim(bottom=0)
        if not costs:
            of_cost.set_axis_off()
        for number, cost in enumerate(costs):
            shade = 0.25 + 0.75 * (number + 1) / len(costs)
            of_cost.plot(range(1, len(cost) + 1), cost, color=PLANNED, alpha=shade, linewidth=1)
            of_cost.set(xlabel="iteration of the search", ylabel="lowest cost of a candidate")

    said = "<br><span class=muted>costs: one line a plan, later plans darker</span>" if len(costs) > 1 else ""
    return figure(draw, (6.0, 1.9), columns=2) + said


def _varied(outcome: EpisodeOutcome) -> str:
    if not outcome.variation:
        return ""
    shown = ", ".join(f"{name} {value}" for name, value in outcome.variation.items())
    return f"<br><span class=muted>{html.escape(shown)}</span>"
