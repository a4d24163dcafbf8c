"""Which frames a clip is made of, by the published rule."""

import numpy as np
import pytest

from jepawm.config.clips import ClipsConfig, ClipSourceConfig
from jepawm.data.clips.frames import clip_frames, frame_step
from jepawm.data.video import frames_apart


def test_frames_are_spread_over_the_clip_with_both_its_ends():
    # 4 frames 7 apart are a clip of 28 frames: 0, 9.33, 18.67 and 28, which lies one past its end.
    assert clip_frames(100, 7, 4, 0.0).tolist() == [0, 9, 18, 27]
    # 72 places are possible; the last one starts at 71.
    assert clip_frames(100, 7, 4, 0.999).tolist() == [71, 80, 89, 98]
    # With one frame a step, 16 frames over 16: the last of the clip, and no other twice.
    assert clip_frames(50, 1, 16, 0.0).tolist() == list(range(16))


def test_the_last_frame_of_a_short_video_fills_the_clip():
    # 10 frames hold three steps of 3: 0, 5 and 10, then the last frame until there are five.
    assert clip_frames(10, 3, 5, 0.7).tolist() == [0, 5, 9, 9, 9]
    # A video that is as long as the clip has one place.
    assert clip_frames(28, 7, 4, 0.9).tolist() == [0, 9, 18, 27]
    # Shorter than one step, and a picture.
    assert clip_frames(4, 7, 3, 0.0).tolist() == [3, 3, 3]
    assert clip_frames(1, 1, 3, 0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("num_frames", [1, 2, 8, 16])
def test_a_clip_lies_in_its_video(num_frames):
    rng = np.random.default_rng(num_frames)
    for _ in range(300):
        length, step = int(rng.integers(1, 200)), int(rng.integers(1, 9))
        frames = clip_frames(length, step, num_frames, rng.random())
        assert frames.shape == (num_frames,)
        assert frames[0] >= 0
        assert frames[-1] < length
        assert (np.diff(frames) >= 0).all()
        if length > num_frames * step:
            assert frames[-1] - frames[0] < num_frames * step


def test_every_start_is_drawn_and_equally_often():
    places = (np.arange(400) + 0.5) / 400
    starts = [int(clip_frames(28, 2, 4, place)[0]) for place in places]
    assert np.unique(starts, return_counts=True)[1].tolist() == [20] * 20


def test_the_step_is_the_rate_rounded_up_over_the_wanted_rate_rounded_down():
    assert [frames_apart(fps, 4.0) for fps in (30, 29.97, 25, 24, 10, 4, 3)] == [7, 7, 6, 6, 2, 1, 1]
    source, clips = ClipSourceConfig("videos"), ClipsConfig()
    assert frame_step(source, clips, 29.97) == 7
    assert frame_step(source, ClipsConfig(fps=None, frame_step=3), 29.97) == 3
    assert frame_step(ClipSourceConfig("videos", fps=10), clips, 29.97) == 3
    assert frame_step(ClipSourceConfig("videos", frame_step=5), clips, 29.97) == 5
