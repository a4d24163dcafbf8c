"""The part of a report that tells what was played: success, goal distance, causes of failure, rollouts."""

import html
from collections.abc import Mapping

from jepawm.config import ProtocolConfig
from jepawm.evaluation.distance_page import distance_curve
from jepawm.evaluation.outcomes import CAUSES, DiagnosedEpisode, EpisodeOutcome, FailureDiagnosis, ProtocolReport
from jepawm.evaluation.pages import LEARNED, PLANNED, RANDOM, facts, figure, intervals, percent, table
from jepawm.evaluation.play import Animation
from jepawm.evaluation.result import Played
from jepawm.evaluation.rollout_cards import about_imagination, curves_of, pictures_of

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
    parts = ["<h2>Success</h2>", *_verdicts(played), _success_table(played), _CHUNK, _success_figure(played)]
    if played.distance_curve:
        parts += ["<h2>Success against goal distance</h2>", distance_curve(played)]
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


def _verdicts(played: Played) -> list[str]:
    """In words: the baselines that planning does not beat."""
    return [
        f"<p class=no>{html.escape(name)}: {html.escape(text)}.</p>"
        for name, protocol in played.protocols.items()
        for text in protocol.verdicts()
    ]


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
    heads = baseline_names(played)
    rows = []
    for name, protocol in played.protocols.items():
        entries = [("planned", PLANNED, protocol.planned.rate), ("random plans", RANDOM, protocol.random.rate)]
        for at, head in enumerate(heads):
            if head in protocol.baselines:
                entries.append((f"{head} alone", LEARNED[at % len(LEARNED)], protocol.baselines[head].rate))
        rows.append((name, entries))
    return figure(lambda axes: intervals(axes, rows), (7.0, 0.6 + 0.55 * len(rows)))


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
    return f"{told}{said}{about_imagination(animations)}<div class=rolls>{''.join(cards)}</div>"


def _card(played: Played, outcome: EpisodeOutcome, item: Animation, cause: DiagnosedEpisode | None) -> str:
    verdict = "<span class=ok>solved</span>" if outcome.solved else "<span class=no>not solved</span>"
    why = "" if cause is None else f"<br>cause: <b>{cause.cause}</b>, {html.escape(CAUSES[cause.cause])}"
    return (
        f"<div class=roll>episode {outcome.episode_id}: {verdict} after {outcome.env_steps} environment steps, "
        f"{outcome.num_plans} plan(s){why}{_varied(outcome)}{pictures_of(item)}"
        f"{curves_of(item, played.distance_name)}</div>"
    )


def _varied(outcome: EpisodeOutcome) -> str:
    if not outcome.variation:
        return ""
    shown = ", ".join(f"{name} {value}" for name, value in outcome.variation.items())
    return f"<br><span class=muted>{html.escape(shown)}</span>"
