"""The part of a report that tells what plans towards pictures reached."""

import html
from collections.abc import Mapping
from typing import Any

from jepawm.evaluation.image_outcomes import ImageGoalEpisode, ImageGoals
from jepawm.evaluation.pages import PLANNED, RANDOM, figure, percent, table
from jepawm.evaluation.play import Animation
from jepawm.evaluation.rollout_cards import about_imagination, curves_of, pictures_of

NOT_JUDGED = (
    "The pictures come without a simulator state, so nothing can say whether a goal was reached: success is not "
    "judged, and there is latent distance alone."
)


def image_goals_parts(found: ImageGoals, animations: Mapping[int, Animation]) -> list[str]:
    """HTML of what plans towards pictures reached.

    Args:
        found: The numbers.
        animations: Recorded episodes, by episode id.
    """
    at_start, at_end, random = found.means
    rows = [
        ["at the start", f"{at_start:.4g}"],
        ["at the end", f"{at_end:.4g}"],
        ["at the end of random plans", f"{random:.4g}"],
    ]
    judged = f"<p>{NOT_JUDGED}</p>"
    if found.rate is not None and found.random_rate is not None:
        judged = (
            f"<p>Solved after the last env_step, by the states beside the pictures: {percent(found.rate)}; random "
            f"plans: {percent(found.random_rate)}.</p>"
        )
    rules = html.escape(
        f"{found.protocol}: replan every {found.rules.replan_every} chunk(s), {found.rules.max_chunks} chunks in all, "
        f"cost: {found.rules.cost}"
    )
    return [
        "<h2>Goals from pictures</h2>",
        f"<p class=muted>{html.escape(found.path)}; {rules}. Plans are judged by visual latents alone, for a picture "
        "has no proprio.</p>",
        judged,
        table(["mean latent distance to the picture", f"{len(found.episodes)} episodes"], rows),
        f"<p>{percent(found.nearer_than_random)} of the episodes end nearer to their picture than with random plans."
        "</p>",
        figure(lambda axes: _distances(axes, found.episodes), (7.0, 2.6)),
        "<p class=muted>Distances are mean squared differences of visual latents.</p>",
        "<h2>Rollouts</h2>",
        _rollouts(found, animations),
    ]


def _distances(axes: Any, episodes: tuple[ImageGoalEpisode, ...]) -> None:
    """Each episode from its start to its end, and the end of random plans."""
    for at, each in enumerate(episodes):
        axes.plot([at, at], [each.distance_at_start, each.distance_at_end], color=PLANNED, linewidth=1)
    ids = range(len(episodes))
    axes.plot(ids, [each.distance_at_start for each in episodes], "_", color=PLANNED, label="start")
    axes.plot(ids, [each.distance_at_end for each in episodes], "o", color=PLANNED, label="end, planned")
    axes.plot(ids, [each.random_distance_at_end for each in episodes], "x", color=RANDOM, label="end, random plans")
    axes.set(xlabel="episode", ylabel="latent distance")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _rollouts(found: ImageGoals, animations: Mapping[int, Animation]) -> str:
    if not animations:
        return "<p class=muted>None were recorded (evaluation.num_animations is 0).</p>"
    # Those that end farthest from their picture first: a person looks for them.
    shown = sorted(
        (each for each in found.episodes if each.episode_id in animations),
        key=lambda each: -each.distance_at_end,
    )
    cards = "".join(_card(each, animations[each.episode_id]) for each in shown)
    said = f"<p class=muted>Those that end farthest away first.</p>{about_imagination(animations)}"
    return f"{said}<div class=rolls>{cards}</div>"


def _card(each: ImageGoalEpisode, item: Animation) -> str:
    verdict = {None: "", True: " <span class=ok>solved</span>", False: " <span class=no>not solved</span>"}[each.solved]
    return (
        f"<div class=roll>episode {each.episode_id}:{verdict} latent distance {each.distance_at_start:.4g} at the "
        f"start, {each.distance_at_end:.4g} at the end; goal {html.escape(each.picture)}{pictures_of(item)}"
        f"{curves_of(item, '')}</div>"
    )
