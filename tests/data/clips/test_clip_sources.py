"""Episodes, video files and pictures behind one protocol."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from clip_folders import write_episodes, write_irregular_video, write_pictures, write_videos

from jepawm.config.clips import ClipsConfig, ClipSourceConfig
from jepawm.data.clips import video_index
from jepawm.data.clips.sources import ClipSource, DatasetClips, PictureClips, VideoClips, open_source
from jepawm.data.loading.split import Split
from jepawm.data.video import read_video
from jepawm.errors import DataError

pytest.importorskip("av")

LENGTHS = (9, 40, 17, 5)


def opened(path, **settings):
    source = open_source(ClipSourceConfig(str(path)), ClipsConfig(**settings))
    assert isinstance(source, ClipSource)
    return source


@pytest.mark.parametrize("loader", ["cache", "files", "auto"])
@pytest.mark.parametrize("codec", ["zstd", "raw"])
def test_episodes(codec, loader, tmp_path):
    dataset = write_episodes(tmp_path / "episodes", LENGTHS, codec=codec)
    source = opened(dataset.path, loader=loader)
    assert isinstance(source, DatasetClips)
    assert source.num_frames_each.tolist() == list(LENGTHS)
    assert source.fps_each.tolist() == [8.0] * 4
    for video, frames in ((0, [0, 8]), (1, [3, 3, 17, 30, 39, 39]), (2, [16]), (3, [0, 1, 2, 3, 4])):
        episode = dataset.read_episode(int(dataset.episode_ids[video])).pixels
        found = source.read(video, np.array(frames))
        np.testing.assert_array_equal(found, np.moveaxis(episode[frames], -1, 1))


def test_threads_read_at_the_same_time(tmp_path):
    dataset = write_episodes(tmp_path / "episodes", (40, 33, 50, 24))
    source = opened(dataset.path, loader="files")
    wanted = [(video, np.sort(np.random.default_rng(n).integers(0, 24, 5))) for n in range(40) for video in range(4)]
    alone = [source.read(*each) for each in wanted]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: source.read(*each), wanted))
    np.testing.assert_array_equal(together, alone)


def test_the_same_episodes_are_held_out_as_by_a_training(tmp_path):
    dataset = write_episodes(tmp_path / "episodes", (5,) * 20)
    train, held_out = opened(dataset.path).split(0.25, 3)
    expected = Split.of(dataset, 0.25, 3)
    assert dataset.episode_ids[train].tolist() == expected.train.tolist()
    assert dataset.episode_ids[held_out].tolist() == expected.held_out.tolist()
    assert len(held_out) == 5


def test_videos_in_nested_folders(tmp_path):
    files = write_videos(tmp_path / "videos", (12, 9, 15), fps=25)
    hidden = tmp_path / "videos" / ".hidden"
    hidden.mkdir()
    for copy in (hidden / "video.mp4", tmp_path / "videos" / "._video.mp4"):
        copy.write_bytes(files[0].read_bytes())
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    source = opened(tmp_path / "videos")
    assert isinstance(source, VideoClips)
    assert [source.name(video) for video in range(3)] == [str(file) for file in files]
    assert sorted(source.num_frames_each.tolist()) == [9, 12, 15]
    assert source.fps_each.tolist() == [25.0] * 3
    for video, file in enumerate(files):
        whole, _ = read_video(file, what="v")
        for frames in ([0, 3, 3, 8], [5, 7], [8, 8]):
            np.testing.assert_array_equal(source.read(video, np.array(frames)), np.moveaxis(whole[frames], -1, 1))


def test_a_list_of_videos(tmp_path):
    files = write_videos(tmp_path / "videos", (6, 7, 8))
    (tmp_path / "videos" / "train.csv").write_text(f"{files[2].relative_to(tmp_path / 'videos')} 3\n{files[0]} 1\n")
    source = opened(tmp_path / "videos" / "train.csv")
    assert [source.name(video) for video in range(2)] == [str(files[2]), str(files[0])]


def test_a_varying_frame_rate_is_decoded_from_the_beginning(tmp_path):
    file = write_irregular_video(tmp_path / "videos" / "v.mp4")
    whole, _ = read_video(file, what="v")
    source = opened(tmp_path / "videos")
    assert source.num_frames_each.tolist() == [9]
    np.testing.assert_array_equal(source.read(0, np.array([5, 6, 8])), np.moveaxis(whole[[5, 6, 8]], -1, 1))


def test_videos_are_counted_once(tmp_path, monkeypatch):
    files = write_videos(tmp_path / "videos", (6, 7, 8))
    counted = []
    scan = video_index.scan_video
    monkeypatch.setattr(video_index, "scan_video", lambda source, **how: counted.append(source) or scan(source, **how))
    assert sorted(opened(tmp_path / "videos").num_frames_each.tolist()) == [6, 7, 8]
    assert sorted(counted) == files
    counted.clear()
    assert sorted(opened(tmp_path / "videos").num_frames_each.tolist()) == [6, 7, 8]
    assert counted == []
    # Another file under the name, one that is gone, and a new one.
    files[0].write_bytes(files[1].read_bytes())
    os.utime(files[0], ns=(1, 1))
    files[2].rename(files[2].with_name("renamed.mp4"))
    assert len(opened(tmp_path / "videos").num_frames_each) == 3
    assert sorted(counted) == [files[0], files[2].with_name("renamed.mp4")]


def test_a_damaged_index_is_made_again(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path / "cache"))
    write_videos(tmp_path / "videos", (6,))
    opened(tmp_path / "videos")
    (file,) = (tmp_path / "cache").glob("videos-*.json")
    before = file.read_text()
    file.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path / "videos").num_frames_each.tolist() == [6]
    assert "the index of videos is damaged" in caplog.text
    assert file.read_text() == before


def test_unreadable_videos_are_named_and_left_out_only_if_asked(tmp_path, caplog):
    files = write_videos(tmp_path / "videos", (6, 7, 8))
    files[1].write_bytes(files[1].read_bytes()[:200])
    with pytest.raises(DataError, match=rf"1 of 3 videos cannot be read: {files[1]}.*clips.unreadable 'skip'"):
        opened(tmp_path / "videos")
    with caplog.at_level(logging.WARNING):
        source = opened(tmp_path / "videos", unreadable="skip")
    assert [source.name(video) for video in range(2)] == [str(files[0]), str(files[2])]
    assert "1 videos cannot be read and are left out" in caplog.text
    for file in files:
        file.write_bytes(b"no video")
    with pytest.raises(DataError, match="none of its 3 videos can be read"):
        opened(tmp_path / "videos", unreadable="skip")


@pytest.mark.parametrize("kind", ["videos", "pictures"])
def test_a_file_more_moves_few_others_between_training_and_held_out(kind, tmp_path):
    def held_out(folder):
        source = open_source(ClipSourceConfig(str(folder), kind=kind), ClipsConfig())
        train, held = source.split(0.25, 3)
        assert sorted([*train, *held]) == list(range(len(source.num_frames_each)))
        return {os.path.relpath(source.name(int(video)), folder) for video in held}

    write = {"videos": lambda path: write_videos(path, (3,) * 12), "pictures": lambda path: write_pictures(path, 12)}
    write[kind](tmp_path / "folder")
    before = held_out(tmp_path / "folder")
    assert len(before) == 3
    # The split belongs to the names, wherever the folder lies.
    (tmp_path / "folder").rename(tmp_path / "moved")
    assert held_out(tmp_path / "moved") == before
    # A file that sorts before all others gives all of them other numbers.
    first = min(path for path in (tmp_path / "moved").rglob("*") if path.suffix in (".mp4", ".png"))
    (tmp_path / "moved" / f"-first{first.suffix}").write_bytes(first.read_bytes())
    after = held_out(tmp_path / "moved")
    assert len(after) == 3
    assert len(before - after) <= 1


def test_pictures_are_videos_of_one_frame(tmp_path):
    write_pictures(tmp_path / "pictures", 3)
    source = opened(tmp_path / "pictures")
    assert isinstance(source, PictureClips)
    assert source.num_frames_each.tolist() == [1, 1, 1]
    found = source.read(1, np.zeros(4, dtype=np.int64))
    assert found.shape == (4, 3, 20, 24)
    expected = np.random.default_rng([4, 1]).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    np.testing.assert_array_equal(found, np.broadcast_to(np.moveaxis(expected, -1, 0), found.shape))


def test_what_is_no_source_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: neither a dataset .* nor a folder with videos"):
        opened(tmp_path / "empty")
    with pytest.raises(DataError, match=r"empty: no videos"):
        open_source(ClipSourceConfig(str(tmp_path / "empty"), kind="videos"), ClipsConfig())
    with pytest.raises(DataError, match=r"empty: no pictures"):
        open_source(ClipSourceConfig(str(tmp_path / "empty"), kind="pictures"), ClipsConfig())
    grey = write_episodes(tmp_path / "grey", (5,), channels=1)
    with pytest.raises(DataError, match=r"grey: frames have 1 channels, clips need the 3 of RGB"):
        opened(grey.path)
