"""One recorded episode in a report: start, goal, rollout, what the model imagined of it, and curves over time."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepawm.evaluation.goal_outline import with_goal_outline
from jepawm.evaluation.imagination import Imagination
from jepawm.evaluation.pages import PLANNED, RANDOM, animation, figure, picture
from jepawm.evaluation.play import Animation


def pictures_of(item: Animation) -> str:
    """A table of pictures beside each other: start, goal, rollout, and the imaginations where there are any."""
    sources = {"start": picture(item.rollout[0]), "goal": picture(item.goal), "rollout": _rollout(item)}
    if item.imagination is not None:
        sources |= _imagined(item, item.imagination)
    images = "".join(
        f"<td><img alt='{name}' src='{source}'><br><span class=muted>{name}</span></td>"
        for name, source in sources.items()
    )
    return f"<table><tr>{images}</tr></table>"


def _rollout(item: Animation) -> str:
    if item.distances is None:
        captions = [f"env_step {at}" for at in range(len(item.rollout))]
    else:
        captions = [f"{at}: {distance:.3g}" for at, distance in enumerate(item.distances)]
    return animation(with_goal_outline(item.rollout, item.goal), captions)


def about_imagination(animations: Mapping[int, Animation]) -> str:
    """What the imagined pictures are, once for all cards of a page."""
    about = [item.imagination.about for item in animations.values() if item.imagination is not None]
    if not about:
        return (
            "<p class=muted>What the model imagined is not shown: no head draws its latents, and training frames are "
            "not here or not asked for (evaluation.num_nearest_frames).</p>"
        )
    return (
        "<p class=muted><b>imagined, as planned</b>: what each plan's actions lead to by prediction, from what was "
        "seen when it was made. <b>imagined from the start</b>: all executed actions, predicted from the first frame "
        "alone. While a chunk is executed, both show the moment after it. Latent distances are to the goal, mean "
        f"squared differences of visual latents. Pictures: {html.escape(about[0])}.</p>"
    )


def _imagined(item: Animation, imagination: Imagination) -> dict[str, str]:
    """The two imaginations, in step with the rollout beside them."""
    moment_of = imagination.moments(len(item.rollout))
    # The chunk in whose imagination a moment lies, and the plan that chunk belongs to.
    plan_of = np.repeat(np.arange(len(item.chunks)), [len(part) for part in item.chunks])
    planned = ["seen" if at == 0 else f"step {at}, plan {plan_of[at - 1] + 1}" for at in moment_of]
    from_start = ["seen" if at == 0 else f"{at} steps on" for at in moment_of]
    films = imagination.films(len(item.rollout)).items()
    return {
        title: animation(frames, captions)
        for (title, frames), captions in zip(films, (planned, from_start), strict=True)
    }


def curves_of(item: Animation, distance_name: str) -> str:
    """The distance to the goal over time, seen and imagined, and the costs of each plan's search."""
    costs = [cost for cost in item.costs if len(cost) > 1 and np.isfinite(cost).all()]
    distances, imagined = item.distances, item.imagination
    if not costs and distances is None and imagined is None:
        return ""

    def draw(axes: Any) -> None:
        of_distance, of_cost, *of_latents = axes
        if imagined is not None:
            env_steps = imagined.frameskip * np.arange(len(imagined.distance_seen))
            for name, colour, values in (
                ("seen", PLANNED, imagined.distance_seen),
                ("as planned", "#d1702f", imagined.distance_planned),
                ("from the start", RANDOM, imagined.distance_from_start),
            ):
                of_latents[0].plot(env_steps, values, marker=".", color=colour, label=name)
            of_latents[0].set(xlabel="env_step", ylabel="latent distance")
            of_latents[0].set_ylim(bottom=0)
            of_latents[0].legend(frameon=False, fontsize=7)
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
            of_cost.set(xlabel="iteration of the search", ylabel="lowest cost")

    said = "<br><span class=muted>costs: one line a plan, later plans darker</span>" if len(costs) > 1 else ""
    columns = 2 if imagined is None else 3
    return figure(draw, (3.0 * columns, 1.9), columns=columns) + said
