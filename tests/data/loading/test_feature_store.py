"""Stored features: the windows of the frame readers, resumable, and refused where they come from something else."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jepawm.config import DataConfig
from jepawm.data import EpisodeDataset, ShardReader
from jepawm.data.loading.feature_store import FeatureKey, FeatureReader, FeatureStore
from jepawm.data.loading.split import Split, held_out_windows, open_reader, window_index
from jepawm.errors import ConfigError, DataError

P, D = 3, 2
SIZE: dict[str, Any] = {"frameskip": 2, "num_frames_in_window": 3}


def features_of(frames: np.ndarray) -> np.ndarray:
    """`[...,Y,X,C]` frames to `[...,P,D]` numbers that tell frames apart."""
    flat = frames.reshape(*frames.shape[:-3], -1).astype(np.float32)
    weights = np.random.default_rng(0).normal(size=(flat.shape[-1], P * D)).astype(np.float32) / 255
    return (flat @ weights).reshape(*flat.shape[:-1], P, D)


def key_of(dataset: EpisodeDataset, **changes: Any) -> FeatureKey:
    key = FeatureKey(dataset.fingerprint, "a" * 64, {"name": "linear", "resize_to": None}, "float32", P, D)
    return replace(key, **changes)


def filled(dataset: EpisodeDataset, **changes: Any) -> FeatureStore:
    store = FeatureStore(dataset, key_of(dataset, **changes))
    store.begin()
    for number in store.missing_shards:
        store.write_shard(number, features_of(store.frames(number)))
    store.finish()
    return store


def test_windows_are_those_of_the_frames(write: Callable[..., EpisodeDataset]):
    dataset = write()
    index = window_index(dataset, dataset.episode_ids, DataConfig(frameskip=2), 3)
    order = np.random.default_rng(1).permutation(len(index))
    ids, starts = index.locate(order)
    frames = ShardReader(dataset, **SIZE).read(ids, starts)
    read = FeatureReader(filled(dataset), **SIZE).read(ids, starts)
    # One product of 960 numbers a feature; a batch of another size may add them in another order.
    np.testing.assert_allclose(read.features, features_of(frames.pixels), rtol=0, atol=1e-3)
    for name in ("actions", "proprio", "sim_state", "episode_ids", "starts"):
        np.testing.assert_array_equal(getattr(read, name), getattr(frames, name))
    assert read.pixels.size == 0
    assert len(read) == len(order)
    assert read.inputs is read.features
    assert frames.inputs.shape[2] == 3, "frames come as channels first"


def test_half_precision_rounds_and_takes_half_the_disk(write):
    dataset = write()
    whole, half = filled(dataset), filled(dataset, dtype="float16")
    assert whole.path != half.path
    frames = int(dataset.num_frames_each.sum())
    assert whole.key.disk_bytes(frames) == 2 * half.key.disk_bytes(frames) == frames * P * D * 4
    ids, starts = np.array([dataset.episode_ids[1]]), np.array([4])
    read = [FeatureReader(store, **SIZE).read(ids, starts).features for store in (whole, half)]
    np.testing.assert_array_equal(read[1], read[0].astype(np.float16).astype(np.float32))


def test_an_encoding_that_was_stopped_goes_on_with_the_missing_shards(write):
    dataset = write()
    store = FeatureStore(dataset, key_of(dataset))
    store.begin()
    assert store.missing_shards == list(range(dataset.num_shards))
    store.write_shard(0, features_of(store.frames(0)))
    kept = store.shard_path(0).stat().st_mtime_ns
    # What a kill in the middle of a shard leaves.
    (store.path / "features-00001.npy.7.tmp").write_bytes(b"half of it")
    with pytest.raises(DataError, match=r"holds no whole store of features of this encoder"):
        FeatureReader(store, **SIZE)
    with pytest.raises(DataError, match=r"features of \d+ of \d+ shards are missing"):
        store.finish()
    again = filled(dataset)
    assert again.shard_path(0).stat().st_mtime_ns == kept
    assert {path.suffix for path in again.path.iterdir()} == {".npy", ".json"}


def test_features_of_other_weights_settings_or_episodes_are_not_read(write):
    dataset = write()
    store = filled(dataset)
    for change in ({"weights_sha256": "b" * 64}, {"encoder": {"name": "linear", "resize_to": 8}}, {"dtype": "float16"}):
        other = FeatureStore(dataset, key_of(dataset, **change))
        with pytest.raises(DataError, match=r"no whole store .*; it holds 1 of other weights or settings"):
            FeatureReader(other, **SIZE)
        # Somebody renames the folder that is there.
        store.path.rename(other.path)
        with pytest.raises(DataError, match=rf"stale: its features come from another {next(iter(change))} "):
            FeatureReader(other, **SIZE)
        with pytest.raises(DataError, match="stale"):
            other.begin()
        other.path.rename(store.path)
    longer = write("longer", (9, 40, 17, 6))
    assert key_of(longer).name != store.key.name
    FeatureReader(store, **SIZE)


def test_what_is_no_feature_is_refused(write):
    dataset = write()
    store = FeatureStore(dataset, key_of(dataset, dtype="float16"))
    store.begin()
    good = features_of(store.frames(0))
    with pytest.raises(DataError, match=r"features of shard 0 have shape \(1, 3, 2\), expected"):
        store.write_shard(0, good[:1])
    with pytest.raises(DataError, match=r"not finite as float16 \(the largest is 1e\+05\); take .* float32"):
        store.write_shard(0, np.full_like(good, 1e5))
    store = filled(dataset)
    np.save(store.shard_path(0), good[:1])
    with pytest.raises(DataError, match=r"features-00000.npy: holds float32 \(1, 3, 2\), expected float32"):
        FeatureReader(store, **SIZE)
    store.shard_path(0).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"features-00000.npy: damaged features: "):
        FeatureReader(store, **SIZE)
    (store.path / "store.json").write_text(json.dumps({"dataset": "x"}))
    with pytest.raises(DataError, match="stale"):
        store.check_whole()


def test_split_and_sample_know_the_store(write):
    dataset = write()
    store, config = filled(dataset), DataConfig(frameskip=2, num_frames_in_window=3, features="stored")
    assert isinstance(open_reader(config, dataset, store), FeatureReader)
    split = Split.of(dataset, 0.4, seed=1)
    options = {"seed": 3, "num_frames": 2, "num_windows": 10}
    stored = held_out_windows(dataset, split, config, **options, store=store)
    frames = held_out_windows(dataset, split, config, **options)
    np.testing.assert_array_equal(stored.episode_ids, frames.episode_ids)
    np.testing.assert_array_equal(stored.starts, frames.starts)
    np.testing.assert_allclose(stored.features, features_of(frames.pixels), rtol=0, atol=1e-3)
    sample = FeatureReader(store, **SIZE).sample(20, split.train)
    assert 10 <= len(sample) <= 20
    with pytest.raises(ConfigError, match=r"loader 'stream' streams frames"):
        DataConfig(features="stored", loader="stream")
