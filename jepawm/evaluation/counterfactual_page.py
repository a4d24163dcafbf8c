"""The page of a counterfactual: the branches as one animation, and their latent distances as numbers."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.evaluation.counterfactual import Counterfactual
from jepawm.evaluation.filmstrips import side_by_side, with_strip
from jepawm.evaluation.pages import facts, figure, page, table, webp

FRAME_MS, PAUSE_MS = 400, 1500


def filmstrip(films: Mapping[str, np.ndarray], frameskip: int) -> np.ndarray:
    """`[F,Y',X',3]` all films side by side, above a strip that says which model step it is.

    Args:
        films: Title and frames `[F,Y,X,3]` of each; pictures of one size.
        frameskip: Env_steps of a model step.
    """
    together = side_by_side(films)
    last = max(1, len(together) - 1)
    return np.stack(
        [
            with_strip(frame, at / last, f"model step {at} (env_step {at * frameskip})")
            for at, frame in enumerate(together)
        ]
    )


def durations(num_frames: int) -> list[int]:
    """Time of each frame of an animation, ms: it rests on the first and the last."""
    return [PAUSE_MS, *[FRAME_MS] * (num_frames - 2), PAUSE_MS][:num_frames]


def write_page(path: str, found: Counterfactual, strip: np.ndarray) -> None:
    """Writes the page: one file, no network.

    Args:
        path: Of the HTML file.
        found: The numbers.
        strip: `[F,Y',X',3]` the animation.
    """
    about = facts(
        [
            ("from", found.moment),
            ("model", f"{found.model} (sha256 {found.model_sha256[:16]})"),
            ("actions", found.actions_file),
            ("length", f"{found.horizon} model steps of {found.frameskip} env_step(s)"),
            ("pictures", found.pictures),
        ]
    )
    parts = [
        "<h1>What the model imagines under other actions</h1>",
        about,
        f"<p><img alt='the branches side by side' src='{webp(list(strip), durations(len(strip)))}' "
        "style='max-width:100%'></p>",
        "<p class=muted>Each branch begins with the picture of the present's own latent, before anything is "
        "predicted. Actions are in true units.</p>",
        "<h2>Actions</h2>",
        _actions(found),
        "<h2>How far the branches are apart</h2>",
        _distances(found),
    ]
    Path(path).write_text(page("jepawm: counterfactual", parts), encoding="utf-8")


def _actions(found: Counterfactual) -> str:
    """Every component that is not 0 throughout, over the env_steps."""
    actions_BSa = np.array([branch.actions for branch in found.branches])
    moving = [column for column in range(actions_BSa.shape[-1]) if actions_BSa[..., column].any()]
    if not moving:
        return "<p>All actions are 0.</p>"

    def draw(axes: Any) -> None:
        for each, column in zip(np.atleast_1d(axes), moving, strict=True):
            for branch, rows_Sa in zip(found.branches, actions_BSa, strict=True):
                each.step(range(len(rows_Sa)), rows_Sa[:, column], where="post", label=branch.name)
            each.set(xlabel="env_step", title=found.action_names[column])
        np.atleast_1d(axes)[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    units = f"<p class=muted>Units: {html.escape(found.action_units)}</p>" if found.action_units else ""
    return figure(draw, (2.4 * len(moving) + 1.6, 2.2), columns=len(moving)) + units


def _distances(found: Counterfactual) -> str:
    """Curves over the model steps, and the table of the last one."""
    steps = range(found.horizon + 1)

    def draw(axes: Any) -> None:
        apart, moved = axes
        for pair in found.distances:
            apart.plot(steps, pair.per_model_step, marker=".", label=f"{pair.first} | {pair.second}")
        apart.set(xlabel="model step", ylabel="latent distance", title="between branches")
        for branch in found.branches:
            moved.plot(steps, branch.from_present, marker=".", label=branch.name)
        moved.set(xlabel="model step", title="from the present")
        for each in axes:
            each.set_ylim(bottom=0)
            if each.lines:
                each.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.28))

    at = f"after {found.horizon} model steps"
    rows = [
        [html.escape(branch.name), f"{branch.from_present[-1]:.4g}", _last(branch.from_recording)]
        for branch in found.branches
    ]
    pairs = [
        [html.escape(f"{pair.first} | {pair.second}"), f"{pair.per_model_step[-1]:.4g}"] for pair in found.distances
    ]
    said = "<p class=muted>Distances are mean squared differences of visual latents.</p>"
    alone = table(["branch", f"from the present, {at}", "from the recorded frames, at their last"], rows)
    return figure(draw, (8.0, 3.4), columns=2) + alone + (table(["branches", at], pairs) if pairs else "") + said


def _last(distances: list[float]) -> str:
    return f"{distances[-1]:.4g} ({len(distances) - 1} model steps)" if distances else "nothing was recorded"
