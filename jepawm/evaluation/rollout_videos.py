"""Recorded episodes as videos, for talks and for pages that show no WebP."""

import os
from collections.abc import Mapping

import numpy as np

from jepawm.data.video_writer import write_video
from jepawm.evaluation.filmstrips import side_by_side, with_strip
from jepawm.evaluation.play import Animation

FRAMES_PER_S = 12.5
"""As fast as the animations of a report."""


def write_videos(folder: str, animations: Mapping[int, Animation]) -> list[str]:
    """Writes each recorded episode as `episode-ID.mp4`: goal, rollout and what the model imagined, side by side.

    Args:
        folder: Where the files go.
        animations: By episode id.

    Returns:
        The files.

    Raises:
        DataError: A file that cannot be written.
        MissingDependencyError: The package `av` is not installed.
    """
    return [
        str(write_video(os.path.join(folder, f"episode-{number}.mp4"), _frames(item), fps=FRAMES_PER_S))
        for number, item in animations.items()
    ]


def _frames(item: Animation) -> np.ndarray:
    """`[F,Y',X',3]` uint8."""
    number = len(item.rollout)
    films = {"goal": np.repeat(item.goal[None], number, axis=0), "rollout": item.rollout}
    if item.imagination is not None:
        films |= item.imagination.films(number)
    captions = [f"env_step {at}" for at in range(number)]
    if item.distances is not None:
        captions = [f"{caption}: {far:.3g}" for caption, far in zip(captions, item.distances, strict=True)]
    return np.stack(
        [with_strip(frame, (at + 1) / number, captions[at]) for at, frame in enumerate(side_by_side(films))]
    )
