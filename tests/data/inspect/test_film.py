"""`jepawm data show --mp4`: every frame of the chosen episodes, in real time."""

import sys

import numpy as np
import pytest

from jepawm.cli import data as data_cli
from jepawm.data.inspect.film import film
from jepawm.data.inspect.show import CAPTION_PX
from jepawm.data.video import read_video
from jepawm.data.video_writer import write_video
from jepawm.errors import DataError

pytest.importorskip("av", reason="the extra video is not installed")


def nearest(frames: np.ndarray, true: np.ndarray) -> list[int]:
    """Which of the true frames of 16x20 px, enlarged 13 times, each frame of a film is nearest to."""
    middles = frames[:, CAPTION_PX + 6 : CAPTION_PX + 208 : 13, 6:260:13].astype(float)
    return np.abs(middles[:, None] - true[None]).mean(axis=(2, 3, 4)).argmin(axis=1).tolist()


def test_a_film_shows_every_frame_of_the_chosen_episodes_in_real_time(write, tmp_path, capsys):
    dataset = write(lengths=(9, 40, 17))
    video = tmp_path / "out" / "film.mp4"
    assert data_cli.main(["show", str(dataset.path), "--mp4", str(video), "--ids", "16", "10"]) == 0
    assert capsys.readouterr().out.split() == [str(video)]
    assert not (tmp_path / "sheet.png").exists()
    frames, fps = read_video(video, what="film")
    assert fps == pytest.approx(10)
    true = np.concatenate([dataset.read_episode(16).pixels, dataset.read_episode(10).pixels])
    assert len(frames) == len(true) == 17 + 9
    assert nearest(frames, true) == list(range(26))


def test_a_window_of_a_film_is_what_a_model_sees(write, tmp_path):
    dataset = write(lengths=(40,))
    frames, fps = read_video(film(dataset.path, tmp_path / "w.mp4", window=4, frames=5, frameskip=3), what="film")
    assert (len(frames), fps) == (5, pytest.approx(10 / 3, rel=1e-3))
    assert nearest(frames, dataset.read_episode(10).pixels) == [4, 7, 10, 13, 16]
    with pytest.raises(DataError, match="a window of 5 frames, 10 apart from 4 on, ends at 44"):
        film(dataset.path, tmp_path / "w.mp4", window=4, frames=5, frameskip=10)


def test_a_video_that_cannot_be_written_leaves_no_file(tmp_path, write, capsys, monkeypatch):
    with pytest.raises(DataError, match=r"v.gif: a video is written as .mp4"):
        write_video(tmp_path / "v.gif", [], fps=10)
    with pytest.raises(DataError, match="there are no frames to write"):
        write_video(tmp_path / "v.mp4", [], fps=10)
    sizes = [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 20, 3), np.uint8)]
    with pytest.raises(DataError, match=r"frame 1 is \(16, 20, 3\), those before it are \(16, 16, 3\)"):
        write_video(tmp_path / "v.mp4", sizes, fps=10)
    assert list(tmp_path.iterdir()) == []
    dataset = write()
    monkeypatch.setitem(sys.modules, "av", None)
    assert data_cli.main(["show", str(dataset.path), "--mp4", str(tmp_path / "v.mp4")]) == 1
    assert 'run: pip install "jepawm[video]"' in capsys.readouterr().err


def test_odd_sizes_and_one_frame_are_written(tmp_path):
    frame = np.full((33, 47, 3), 120, np.uint8)
    frames, fps = read_video(write_video(tmp_path / "one.mp4", [frame], fps=29.97), what="film")
    assert (frames.shape, fps) == ((1, 34, 48, 3), pytest.approx(29.97, abs=1e-3))
    np.testing.assert_allclose(frames, 120, atol=3)
