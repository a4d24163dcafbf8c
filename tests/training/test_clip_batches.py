"""Batches of clips: the same for any number of threads and workers, and from any train step on."""

import dataclasses
import itertools
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from clip_folders import write_episodes, write_pictures, write_videos

from jepawm.config.clips import AugmentConfig, ClipsConfig, ClipSourceConfig
from jepawm.data.clips.frames import clip_frames
from jepawm.errors import ConfigError, DataError
from jepawm.training.clip_batches import ClipBatches, ClipRequest
from jepawm.types import ClipBatch

pytest.importorskip("av")

REQUEST = ClipRequest(4, 16, 8, seed=3, first_train_step=0, last_train_step=6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_episodes(root / "episodes", (9, 40, 17, 5))
    write_videos(root / "videos", (12, 25, 21))
    write_pictures(root / "pictures", 3)
    return root


def mixed(folders: Path, **settings: object) -> ClipsConfig:
    """Three sources, one of them with fewer frames, and so two groups."""
    sources = (
        ClipSourceConfig(str(folders / "episodes"), weight=2),
        ClipSourceConfig(str(folders / "videos"), weight=2),
        ClipSourceConfig(str(folders / "pictures"), weight=1, num_frames=2),
    )
    return ClipsConfig(sources=sources, **settings)


def all_batches(
    config: ClipsConfig, *, request: ClipRequest = REQUEST, start: int = 0, **share: int
) -> list[ClipBatch]:
    return list(ClipBatches(config, request, **share).batches(start))


def assert_equal(left: list[ClipBatch], right: list[ClipBatch]) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.train_step == other.train_step
        for group, same in zip(one.groups, other.groups, strict=True):
            assert (group.index, group.num_clips, group.rows) == (same.index, same.num_clips, same.rows)
            np.testing.assert_array_equal(group.slots, same.slots)
            np.testing.assert_array_equal(group.pixels, same.pixels)


def test_threads_and_loaders_and_a_resume_change_nothing(folders: Path) -> None:
    batches = all_batches(mixed(folders, num_threads=1, loader="files"))
    assert [batch.train_step for batch in batches] == list(range(6))
    assert_equal(all_batches(mixed(folders, num_threads=4, loader="cache")), batches)
    assert_equal(all_batches(mixed(folders, num_threads=2), start=4), batches[4:])
    for batch in batches:
        assert len(batch) == 8
        for group in batch.groups:
            assert group.pixels.shape == (len(group), (4, 2)[group.index], 3, 16, 16)
            assert group.num_frames == (4, 2)[group.index]
            assert group.rows == slice(0, group.num_clips)
    assert {group.index for batch in batches for group in batch.groups} == {0, 1}
    assert not np.array_equal(batches[0].groups[0].pixels[0], batches[1].groups[0].pixels[0])


def test_workers_share_the_batch_of_one(folders: Path) -> None:
    alone = all_batches(mixed(folders))
    shared = [all_batches(mixed(folders), rank=rank, world_size=2) for rank in range(2)]
    for batch, first, second in zip(alone, *shared, strict=True):
        for group, one, other in zip(batch.groups, first.groups, second.groups, strict=True):
            assert group.num_clips == one.num_clips == other.num_clips
            np.testing.assert_array_equal(np.concatenate([one.pixels, other.pixels]), group.pixels)
            np.testing.assert_array_equal(group.pixels[one.rows], one.pixels)
            np.testing.assert_array_equal(group.pixels[other.rows], other.pixels)


def test_without_augmentation_clips_are_frames_of_the_episodes(tmp_path: Path) -> None:
    dataset = write_episodes(tmp_path / "episodes", (9, 40, 17, 5), width=20)
    request = dataclasses.replace(REQUEST, image_size=20, batch_size=4)
    config = ClipsConfig(paths=(str(dataset.path),), augment=AugmentConfig(crop=False, flip=False))
    seen = []
    for batch in all_batches(config, request=request):
        for clip in batch.groups[0].pixels:
            matches = []
            for video, episode_id in enumerate(dataset.episode_ids.tolist()):
                frames = dataset.read_episode(episode_id).pixels
                # 8 frames a second and clips of 4 a second: every second frame.
                for place in np.linspace(0, 1, 200, endpoint=False):
                    chosen = clip_frames(len(frames), 2, 4, place)
                    if np.array_equal(np.moveaxis(frames[chosen], -1, 1), clip):
                        matches.append((video, chosen.tolist()))
                        break
            assert len(matches) == 1
            seen.append(matches[0])
    # Six batches of four are six epochs of four episodes.
    assert sorted(video for video, _ in seen) == sorted(list(range(4)) * 6)
    assert len({tuple(frames) for video, frames in seen if video == 1}) > 2
    assert [frames for video, frames in seen if video == 3] == [[0, 4, 4, 4]] * 6


def test_several_clips_of_a_video_come_from_its_parts(tmp_path: Path) -> None:
    dataset = write_episodes(tmp_path / "episodes", (40, 40), width=20)
    config = ClipsConfig(
        paths=(str(dataset.path),), clips_per_video=2, fps=8, augment=AugmentConfig(crop=False, flip=False)
    )
    request = dataclasses.replace(REQUEST, image_size=20, batch_size=4)
    mixture = ClipBatches(config, request).mixture
    draws = mixture.sampler.draws(0)
    for slot in range(4):
        frames = mixture.read(draws, slot)
        whole = dataset.read_episode(int(dataset.episode_ids[draws.videos[slot]])).pixels
        half = np.moveaxis(whole[20 * (slot % 2) : 20 * (slot % 2 + 1)], -1, 1)
        (start,) = (t for t in range(17) if np.array_equal(half[t : t + 4], frames))
        assert 0 <= start <= 15
    with pytest.raises(DataError, match=r"40 frames cannot be split into 42 parts; lower clips.clips_per_video"):
        ClipBatches(dataclasses.replace(config, clips_per_video=42), dataclasses.replace(request, batch_size=42))


def test_held_out_videos_give_no_clips(tmp_path: Path) -> None:
    dataset = write_episodes(tmp_path / "episodes", (6,) * 8)
    config = ClipsConfig(paths=(str(dataset.path),), held_out_fraction=0.5)
    mixture = ClipBatches(config, REQUEST).mixture
    held_out = mixture.sources[0].split(0.5, REQUEST.seed)[1]
    drawn = {mixture.video_of(mixture.sampler.draws(step), slot) for step in range(6) for slot in range(8)}
    assert drawn == set(range(8)) - set(held_out.tolist())
    assert len(drawn) == 4


def test_a_video_that_cannot_be_decoded_is_named_or_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_videos(tmp_path / "videos", (12, 12, 12), fps=4)
    config = ClipsConfig(paths=(str(tmp_path / "videos"),))
    ClipBatches(config, REQUEST)
    # Damaged after it was counted, with the size and the time that it had.
    stat, data = files[1].stat(), bytearray(files[1].read_bytes())
    data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
    files[1].write_bytes(data)
    os.utime(files[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=str(files[1])):
        all_batches(config)
    skipping = dataclasses.replace(config, unreadable="skip")
    with caplog.at_level(logging.WARNING):
        batches = all_batches(skipping)
    assert f"{files[1]}" in caplog.text
    assert "another video takes its place" in caplog.text
    assert_equal(all_batches(dataclasses.replace(skipping, num_threads=3)), batches)


def test_closing_the_batches_ends_their_threads(folders: Path) -> None:
    batches = ClipBatches(mixed(folders), dataclasses.replace(REQUEST, last_train_step=10**6)).batches(0)
    first = list(itertools.islice(batches, 3))
    assert len(first) == 3
    readers = [thread for thread in threading.enumerate() if thread.name.startswith("clips")]
    assert readers
    batches.close()
    assert list(batches) == []
    for thread in readers:
        thread.join(timeout=60)
        assert not thread.is_alive(), thread.name


def test_what_cannot_be_shared_or_needs_ray_is_refused(folders: Path) -> None:
    with pytest.raises(ConfigError, match="8 clips cannot be split over 3 workers"):
        ClipBatches(mixed(folders), REQUEST, rank=0, world_size=3)
    with pytest.raises(ConfigError, match="'stream' reads clips with Ray Data"):
        ClipBatches(mixed(folders, loader="stream"), REQUEST)
