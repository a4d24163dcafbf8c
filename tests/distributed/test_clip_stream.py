"""Ray Data reads the clips that threads of a trainer read, in the same order."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from clip_folders import write_episodes, write_videos

from jepawm.config.clips import ClipsConfig, ClipSourceConfig
from jepawm.errors import DataError
from jepawm.training.clip_batches import ClipBatches, ClipRequest

pytest.importorskip("av")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]

REQUEST = ClipRequest(4, 16, 6, seed=3, first_train_step=2, last_train_step=12)


def mixed(root: Path) -> ClipsConfig:
    write_episodes(root / "episodes", (9, 40, 17, 5))
    write_videos(root / "videos", (12, 20, 9))
    return ClipsConfig(
        sources=(
            ClipSourceConfig(str(root / "episodes"), weight=2),
            ClipSourceConfig(str(root / "videos"), weight=1, num_frames=2),
        )
    )


def test_the_stream_holds_the_clips_of_one_process_for_any_number_of_workers(tmp_path, monkeypatch):
    from jepawm.distributed import clip_stream
    from jepawm.distributed.clip_stream import opened_once, start_clip_feed, streamed_clips

    config = mixed(tmp_path)
    alone = list(ClipBatches(config, REQUEST).batches(2))
    feed = start_clip_feed(dataclasses.replace(config, loader="stream"), REQUEST)
    sampler = opened_once(config, REQUEST).sampler
    # Two workers from the start, then one that begins again from an earlier checkpoint.
    for world_size, start, stop in ((2, 2, 8), (1, 5, 12)):
        workers = [
            streamed_clips(sampler, feed, train_step=start, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for step in range(start, stop):
            shares = [next(worker) for worker in workers]
            batch = alone[step - 2]
            for place, group in enumerate(batch.groups):
                parts = [share.groups[place] for share in shares]
                assert {(part.index, part.num_clips) for part in parts} == {(group.index, group.num_clips)}
                np.testing.assert_array_equal(np.concatenate([part.pixels for part in parts]), group.pixels)
                np.testing.assert_array_equal(np.concatenate([part.slots for part in parts]), group.slots)
            assert {share.train_step for share in shares} == {step}
        if world_size == 1:
            assert list(workers[0]) == []

    # A stage that is longer than one stream goes on in the next one.
    monkeypatch.setattr(clip_stream, "_MAX_TASKS", 3)
    short = clip_stream.ClipFeed(config, REQUEST, task_clips=4)
    for step in (2, 3, 4, 5, 6):
        table = short.share(step, np.arange(REQUEST.batch_size))
        assert table["slot"].to_pylist() == list(range(REQUEST.batch_size))
        group = alone[step - 2].groups[0]
        found = [np.frombuffer(table["pixels"][slot].as_py(), dtype=np.uint8) for slot in group.slots.tolist()]
        np.testing.assert_array_equal(found, np.moveaxis(group.pixels, 2, -1).reshape(len(group), -1))
    short.close()


def test_a_video_that_cannot_be_decoded_is_named(tmp_path):
    from jepawm.distributed.clip_stream import ClipFeed

    (file,) = write_videos(tmp_path / "videos", (12,))
    config = ClipsConfig(paths=(str(tmp_path / "videos"),))
    file.write_bytes(file.read_bytes()[:300])
    feed = ClipFeed(config, REQUEST)
    with pytest.raises(DataError, match=f"cannot be read: {file}"):
        feed.share(2, np.arange(6))
    feed.close()
