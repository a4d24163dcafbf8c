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
pytestmark = pytest.mark.ray

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


# Two workers from the start, and one that begins again from an earlier checkpoint, with two Ray datasets.
@pytest.mark.long
@pytest.mark.parametrize(("world_size", "start", "stop", "most_tasks"), [(2, 2, 5, 4000), (1, 10, 12, 1)])
@pytest.mark.usefixtures("ray_local")
def test_the_stream_holds_the_clips_of_one_process_for_any_number_of_workers(
    tmp_path, monkeypatch, world_size, start, stop, most_tasks
):
    from jepawm.distributed import clip_stream
    from jepawm.distributed.clip_stream import streamed_clips

    config = mixed(tmp_path)
    alone = list(ClipBatches(config, REQUEST).batches(2))
    streamed = dataclasses.replace(config, loader="stream")
    monkeypatch.setattr(clip_stream, "_MAX_TASKS", most_tasks)
    monkeypatch.setattr(clip_stream, "_TASK_CLIPS", 18)
    workers = [
        streamed_clips(streamed, REQUEST, train_step=start, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for step in range(start, stop):
        shares = [next(worker) for worker in workers]
        assert {share.train_step for share in shares} == {step}
        for place, group in enumerate(alone[step - 2].groups):
            parts = [share.groups[place] for share in shares]
            assert {(part.index, part.num_clips) for part in parts} == {(group.index, group.num_clips)}
            np.testing.assert_array_equal(np.concatenate([part.pixels for part in parts]), group.pixels)
            np.testing.assert_array_equal(np.concatenate([part.slots for part in parts]), group.slots)
    if stop == REQUEST.last_train_step:
        assert list(workers[0]) == []
    for worker in workers:
        worker.close()


@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_a_video_that_cannot_be_decoded_is_named(tmp_path):
    from jepawm.distributed.clip_stream import opened_once, streamed_clips

    (file,) = write_videos(tmp_path / "videos", (12,))
    config = ClipsConfig(paths=(str(tmp_path / "videos"),))
    opened_once(config, REQUEST)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=f"cannot be read: {file}"):
        next(streamed_clips(config, REQUEST, train_step=2))


@pytest.mark.parametrize(
    ("batch_size", "world_size", "image_size"), [(6, 2, 16), (200, 2, 16), (96, 3, 256), (1, 1, 8)]
)
def test_tasks_hold_each_clip_once_and_in_order(batch_size, world_size, image_size):
    from jepawm.distributed.clip_stream import ClipTasks

    request = dataclasses.replace(REQUEST, batch_size=batch_size, image_size=image_size, last_train_step=75)
    tasks = ClipTasks.of(ClipsConfig(paths=("videos",)), request, train_step=2, world_size=world_size)
    share = batch_size // world_size
    read = [list(tasks.clips(task, lambda step: 1000 * step + np.arange(share))) for task in range(tasks.num_tasks)]
    expected = [(step, 1000 * step + slot) for step in range(2, tasks.last_step) for slot in range(share)]
    assert [clip for clips in read for clip in clips] == expected
    assert tasks.last_step == 75
    clip_bytes = 4 * 3 * image_size**2
    assert max(map(len, read)) <= max(1, min(32, 64 * 2**20 // clip_bytes))
