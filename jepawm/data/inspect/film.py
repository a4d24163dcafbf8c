"""`jepawm data show --mp4`: episodes as a video, each frame above the actions of its episode."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jepawm.data.episodes import EpisodeDataset
from jepawm.data.inspect.show import CAPTION_PX, action_strip, as_rgb, picked_episodes, resized, shown_frames, write
from jepawm.data.video_writer import write_video

MIN_SIDE_PX = 256
MAX_SIDE_PX = 512
_NOW = (214, 39, 40)


def film(
    path: str | os.PathLike[str],
    output_mp4: str | os.PathLike[str],
    *,
    episodes: int | Sequence[int] = 4,
    window: int | None = None,
    frames: int = 8,
    frameskip: int = 1,
) -> Path:
    """Writes episodes as a video, one after the other, in real time.

    Below each frame are the episode's actions, drawn as in a contact sheet; a red line is at the frame's moment.

    Args:
        path: The dataset.
        output_mp4: The video to write.
        episodes: Their ids, or how many, evenly spaced over the dataset.
        window: First frame of a window: then `frames` frames are shown, `frameskip` apart, instead of all of them.
        frames: Frames of a window.
        frameskip: Frames between two that are shown, with `window`.

    Returns:
        The path of the video.

    Raises:
        DataError: Nothing to show, an unknown episode, a window that is longer than an episode, or a video that cannot
            be written.
        MissingDependencyError: The package `av` is not installed.
    """
    dataset = EpisodeDataset(path)
    spec = dataset.spec
    clips = []
    for episode_id in picked_episodes(dataset, episodes):
        times = list(range(dataset.num_frames(episode_id)))
        if window is not None:
            times = shown_frames(dataset, episode_id, frames, window, frameskip)
        clips.append((episode_id, times, action_strip(dataset, episode_id, times, _size(dataset)[1])))
    # Legends may take another number of lines in each episode, and a video has one size.
    below_px = max(strip.shape[0] for _, _, strip in clips)
    step = frameskip if window is not None else 1
    fps = spec.control_hz / (spec.env_steps_per_frame * step)
    return write_video(output_mp4, _frames(dataset, clips, below_px), fps=fps)


def _size(dataset: EpisodeDataset) -> tuple[int, int]:
    """`(height, width)` of a frame in the video, px: enlarged by a whole number, or shrunk in its own proportions."""
    height, width = dataset.spec.pixels.shape[:2]
    if max(height, width) > MAX_SIDE_PX:
        scale = MAX_SIDE_PX / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
    times = max(1, -(-MIN_SIDE_PX // width))
    return height * times, width * times


def _frames(
    dataset: EpisodeDataset, clips: Sequence[tuple[int, list[int], np.ndarray]], below_px: int
) -> Iterator[np.ndarray]:
    """`[height,width,3]` uint8 frames of the video; one episode is decoded at a time."""
    spec = dataset.spec
    height, width = _size(dataset)
    for episode_id, times, strip in clips:
        pixels = dataset.read_episode(episode_id).pixels
        for t in times:
            canvas = np.full((CAPTION_PX + height + below_px, width, 3), 255, np.uint8)
            second = t * spec.env_steps_per_frame / spec.control_hz
            caption = f"ep {episode_id}, frame {t}/{dataset.num_frames(episode_id) - 1} ({second:.1f} s)"
            write(canvas[:CAPTION_PX], caption, (3, CAPTION_PX - 5), scale=0.36)
            canvas[CAPTION_PX : CAPTION_PX + height] = resized(as_rgb(pixels[t]), (height, width))
            canvas[CAPTION_PX + height : CAPTION_PX + height + len(strip)] = strip
            at = round((t - times[0]) / max(times[-1] - times[0], 1) * (width - 1))
            canvas[CAPTION_PX + height :, at] = _NOW
            yield canvas
