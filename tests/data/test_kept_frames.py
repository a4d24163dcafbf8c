"""Datasets that hold a frame every few environment steps: the same windows as from all frames, from fewer pictures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jepawm.config import DataConfig, EnvConfig
from jepawm.data import (
    CacheReader,
    DatasetSpec,
    EpisodeDataset,
    EpisodeWriter,
    FrameCache,
    PixelSpec,
    ShardReader,
    check_dataset,
    decode_window_batch,
    windows_of_groups,
)
from jepawm.data.inspect.show import contact_sheet
from jepawm.data.inspect.summary import summarise
from jepawm.data.loading.split import window_index
from jepawm.data.loading.stream_plan import StreamPlan
from jepawm.errors import ConfigError, DataError
from jepawm.rollout import CollectPlan, EnvHost

EVERY, FRAMESKIP, FRAMES = 5, 10, 3
EPISODES, ENV_STEPS = 6, 40
SIZE = {"frameskip": FRAMESKIP, "num_frames_in_window": FRAMES}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[int, EpisodeDataset]:
    """The same walks in Wall: every frame (1), and every fifth (5)."""
    folder = tmp_path_factory.mktemp("kept")
    host = EnvHost(EnvConfig(image_size=32))
    about = host.describe()
    datasets = {}
    for every in (1, EVERY):
        spec = DatasetSpec(
            "walks", about.control_hz, PixelSpec(32, 32), about.action, about.proprio, about.sim_state, {}, every
        )
        plan = CollectPlan("wall_mixed_walk", 0, ENV_STEPS, "zstd", every)
        with EpisodeWriter(folder / str(every), spec, shard_frames=20, chunk_frames=4) as writer:
            for episode in host.collect(range(EPISODES), plan):
                writer.write(episode)
        datasets[every] = EpisodeDataset(folder / str(every))
    host.close()
    return datasets


def test_kept_frames_are_those_of_the_whole_episode(recorded):
    for episode_id in range(EPISODES):
        whole, kept = (recorded[every].read_episode(episode_id) for every in (1, EVERY))
        assert kept.num_frames == ENV_STEPS // EVERY + 1
        np.testing.assert_array_equal(kept.pixels, whole.pixels[::EVERY])
        np.testing.assert_array_equal(kept.proprio, whole.proprio[::EVERY])
        np.testing.assert_array_equal(kept.sim_state, whole.sim_state[::EVERY])
        np.testing.assert_array_equal(kept.actions, whole.actions)
        np.testing.assert_array_equal(recorded[EVERY].read_column("actions", episode_id), whole.actions)
    for name in ("action_mean", "action_std"):
        ours, theirs = (getattr(recorded[every].statistics, name) for every in (EVERY, 1))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_every_reader_gives_the_windows_of_the_whole_episode(recorded, tmp_path):
    whole, kept = recorded[1], recorded[EVERY]
    config = DataConfig(frameskip=FRAMESKIP)
    ids, starts = window_index(kept, kept.episode_ids, config, FRAMES).locate(np.arange(EPISODES * 5))
    assert starts.max() == (ENV_STEPS - FRAMESKIP * (FRAMES - 1)) // EVERY
    expected = ShardReader(whole, **SIZE).read(ids, starts * EVERY)
    streamed = {}
    plan = StreamPlan(kept, kept.episode_ids, **SIZE, seed=0)
    assert plan.num_windows == len(ids)
    for part in plan.parts(epoch=0):
        for table in windows_of_groups(kept, part.groups, **SIZE, batch_size=7, seed=0):
            batch = decode_window_batch(table, kept.spec)
            for row in range(len(batch)):
                streamed[int(batch.episode_ids[row]), int(batch.starts[row])] = batch[row : row + 1]
    readers = (ShardReader(kept, **SIZE), CacheReader(FrameCache(kept, root=tmp_path), **SIZE))
    for batch in [reader.read(ids, starts) for reader in readers]:
        for name in ("pixels", "actions", "proprio", "sim_state"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(expected, name))
    for row, key in enumerate(zip(ids.tolist(), starts.tolist(), strict=True)):
        np.testing.assert_array_equal(streamed[key].pixels[0], expected.pixels[row])
        np.testing.assert_array_equal(streamed[key].actions[0], expected.actions[row])
    assert len(streamed) == len(ids)


def test_the_dataset_says_so_and_others_do_not(recorded, tmp_path):
    metas = {every: json.loads((recorded[every].path / "meta.json").read_text()) for every in (1, EVERY)}
    assert metas[EVERY]["env_steps_per_frame"] == EVERY
    assert "env_steps_per_frame" not in metas[1], "a dataset of all frames is what it was before"
    assert check_dataset(recorded[EVERY].path) == []
    summary, of_all = summarise(recorded[EVERY].path), summarise(recorded[1].path)
    assert summary.hours == pytest.approx(of_all.hours)
    contact_sheet(recorded[EVERY].path, tmp_path / "sheet.png", episodes=2)
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_frames_that_were_not_kept_are_not_asked_for(recorded, tmp_path):
    kept = recorded[EVERY]
    with pytest.raises(DataError, match=r"a frame every 5 env_steps; frameskip must be a multiple of that, found 7"):
        ShardReader(kept, frameskip=7, num_frames_in_window=2)
    with pytest.raises(ConfigError, match=r"data.frameskip must be a multiple of data.env_steps_per_frame \(4\)"):
        DataConfig(env_steps_per_frame=4, frameskip=5)
    with pytest.raises(DataError, match=r"cannot resume, 'env_steps_per_frame' is 5 on disk and 2 here"):
        EpisodeWriter(kept.path, replace(kept.spec, env_steps_per_frame=2), chunk_frames=4, resume=True)
    writer, episode = EpisodeWriter(tmp_path / "short", kept.spec), kept.read_episode(0)
    with pytest.raises(DataError, match=r"actions: expected shape \(40, 2\) \(9 frames\), found \(8, 2\)"):
        writer.write(replace(episode, actions=episode.actions[:8]))
