"""Which frames of a video make up a clip, as V-JEPA 2 publishes it."""

import numpy as np

from jepawm.config.clips import ClipsConfig, ClipSourceConfig
from jepawm.data.video import frames_apart
from jepawm.errors import ConfigError


def frame_step(source: ClipSourceConfig, clips: ClipsConfig, video_fps: float) -> int:
    """Recorded frames from one frame of a clip to the next.

    Args:
        source: Its own `fps` or `frame_step` come before those of `clips`.
        clips: What all sources share.
        video_fps: Rate of the video, frames per second.
    """
    if source.frame_step is not None:
        return source.frame_step
    if source.fps is not None:
        return frames_apart(video_fps, source.fps)
    if clips.frame_step is not None:
        return clips.frame_step
    if clips.fps is None:
        raise ConfigError("clips: neither fps nor frame_step says how far the frames of a clip are apart")
    return frames_apart(video_fps, clips.fps)


def clip_frames(num_video_frames: int, step: int, num_frames: int, place: float) -> np.ndarray:
    """The frames of a clip of `num_frames * step` recorded frames at some place of a video, or of a part of one.

    The frames are spread evenly over the clip, its ends included, and rounded down, so they are a little more than
    `step` apart. A video that is no longer than the clip is spread over as many frames as it has steps, and its last
    frame fills the rest of the clip.

    Args:
        num_video_frames: Frames of the video, or of the part; 1 or more.
        step: Recorded frames from one frame of the clip to the next.
        num_frames: `T`.
        place: Of the clip, uniform in [0, 1).

    Returns:
        `[T]` int64, ascending.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985 (the data loader of its published code).
    """
    span = num_frames * step
    if num_video_frames > span:
        # The published draw never takes the last possible start.
        start = int(place * (num_video_frames - span))
        return np.minimum(np.linspace(start, start + span, num_frames), start + span - 1).astype(np.int64)
    own = np.linspace(0, num_video_frames, num_video_frames // step)
    padded = np.concatenate([own, np.full(num_frames - len(own), num_video_frames)])
    return np.minimum(padded, num_video_frames - 1).astype(np.int64)
