"""Videos without actions become datasets whose actions and proprio have no width, and damaged ones are named."""

import pytest
from published_datasets import video_bytes
from robot_datasets import converted, frame_numbers, numbered_frames, refused

from jepawm.cli import data as data_cli
from jepawm.data import (
    CacheReader,
    FrameCache,
    ShardReader,
    WindowIndex,
    compute_statistics,
    decode_window_batch,
    windows_of_groups,
)

pytest.importorskip("av")


@pytest.fixture
def videos(tmp_path):
    """Three videos of two classes: 12, 30 and 8 frames a second, the last of another size."""
    root = tmp_path / "videos"
    for name, frames, fps in (
        ("jump/b.mp4", numbered_frames(12), 12),
        ("jump/a.mp4", numbered_frames(30), 30),
        ("run/c.mp4", numbered_frames(10, 48, 64), 8),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(video_bytes(frames, fps=fps))
    (root / "README.txt").write_text("not a video")
    return root


def test_a_folder(videos, tmp_path, capsys):
    dataset = converted(videos, tmp_path / "d")
    spec = dataset.spec
    assert (spec.name, spec.control_hz, spec.pixels.shape, spec.pixels.codec) == ("videos", 4, (24, 24, 3), "jpeg")
    assert (spec.action.dim, spec.proprio.dim) == (0, 0)
    kept = {
        "jump/a.mp4": (list(range(0, 30, 7)), 30 / 7),
        "jump/b.mp4": ([0, 3, 6, 9], 4),
        "run/c.mp4": ([0, 2, 4, 6, 8], 4),
    }
    for number, (video, (numbers, fps)) in enumerate(kept.items()):
        episode = dataset.read_episode(number)
        assert frame_numbers(episode.pixels) == numbers
        assert episode.actions.shape == (len(numbers) - 1, 0)
        assert episode.proprio.shape == (len(numbers), 0)
        assert episode.info == {"video": video, "label": video.split("/")[0], "fps": pytest.approx(fps)}
    assert data_cli.main(["show", str(tmp_path / "d"), "--output", str(tmp_path / "sheet.png")]) == 0
    assert data_cli.main(["check", str(tmp_path / "d")]) == 0
    assert "ok, 3 episodes, 14 frames" in capsys.readouterr().out


def test_windows_without_actions(videos, tmp_path):
    """What training reads, by each of the ways to read it: batches whose actions are empty."""
    dataset = converted(videos, tmp_path / "d", control_hz=100)
    assert dataset.num_frames_each.tolist() == [30, 12, 10]
    assert compute_statistics(dataset).action_mean.shape == (0,)
    options = {"frameskip": 2, "num_frames_in_window": 4}
    ids, starts = WindowIndex(dataset.episode_ids, dataset.num_frames_each, **options).locate([0, 23, 24, 33])
    assert (ids.tolist(), starts.tolist()) == ([0, 0, 1, 2], [0, 23, 0, 3])
    cache = FrameCache(dataset, root=tmp_path / "cache")
    for reader in (ShardReader(dataset, **options), CacheReader(cache, **options)):
        batch = reader.read(ids, starts)
        assert [frame_numbers(window) for window in batch.pixels] == [[s, s + 2, s + 4, s + 6] for s in starts]
        assert batch.actions.shape == (4, 3, 0)
        assert batch.proprio.shape == (4, 4, 0)
    (table,) = windows_of_groups(dataset, [(0, 0)], batch_size=99, seed=0, **options)
    batch = decode_window_batch(table, dataset.spec)
    assert batch.actions.shape == (34, 3, 0)
    assert batch.proprio.shape == (34, 4, 0)


def test_lists(videos, tmp_path):
    spaces, commas = tmp_path / "k400.csv", tmp_path / "ssv2.csv"
    spaces.write_text(f"videos/run/c.mp4 7\n\n{videos}/jump/b.mp4 -1\n")
    dataset = converted(spaces, tmp_path / "d", image_size=16, control_hz=8)
    assert (dataset.spec.pixels.height, dataset.spec.control_hz) == (16, 8)
    assert [dataset.info(n)["label"] for n in range(2)] == [7, -1]
    assert frame_numbers(dataset.read_episode(0).pixels) == list(range(10))
    (tmp_path / "tabs.txt").write_text("videos/jump/b.mp4\thigh jump\n")
    assert converted(tmp_path / "tabs.txt", tmp_path / "f").info(0)["label"] == "high jump"
    commas.write_text('videos/jump/a.mp4, "a jump, high"\nvideos/jump/b.mp4\n')
    dataset = converted(commas, tmp_path / "e")
    assert dataset.info(0) == {"video": "videos/jump/a.mp4", "label": "a jump, high", "fps": pytest.approx(30 / 7)}
    assert dataset.info(1) == {"video": "videos/jump/b.mp4", "fps": 4}


LISTS = {
    "missing": ("videos/run/c.mp4 0\nvideos/run/d.mp4 0\n", "list.csv: line 2: no such file: .*videos/run/d.mp4"),
    "outside": ("../videos/run/c.mp4 0\n", "line 1: the path '../videos/run/c.mp4' points outside"),
    "climbing": ("videos/../../x.mp4\n", "line 1: the path 'videos/../../x.mp4' points outside"),
    "columns": ("videos/run/c.mp4 0 1 2\n", "line 1 has 4 columns, expected a path and a label"),
    "empty": ("\n", "no videos"),
}


@pytest.mark.parametrize("fault", LISTS)
def test_lists_that_are_wrong(fault, videos, tmp_path):
    text, message = LISTS[fault]
    (tmp_path / "list.csv").write_text(text)
    refused(tmp_path / "list.csv", tmp_path / "d", message, "video-folder")


def test_videos_that_are_wrong(videos, tmp_path):
    whole = (videos / "run/c.mp4").read_bytes()
    for data, message in (
        (whole[: len(whole) // 2], "run/c.mp4: not a video that can be read"),
        (b"", "run/c.mp4: not a video that can be read"),
        (b"hello" * 50, "run/c.mp4: not a video that can be read"),
        (video_bytes(numbered_frames(2), fps=8), "c.mp4: 2 frames at 8 Hz leave 1 at 4 Hz, an episode needs 2; give a"),
    ):
        (videos / "run/c.mp4").write_bytes(data)
        refused(videos, tmp_path / "d", message, "auto")
    (videos / "jump/a.mp4").write_bytes(b"hello")
    refused(videos, tmp_path / "d", "jump/a.mp4: not a video that can be read", "auto")
    refused(videos, tmp_path / "d", "--camera left: the format 'video-folder' has no choice", "auto", camera="left")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "d", "empty: no videos .*mp4", "video-folder")
