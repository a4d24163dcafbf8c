"""The windows of a run: the split of its episodes, the windows of each part, and their reader."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jepawm.config.data import DataConfig
from jepawm.data.episodes import EpisodeDataset
from jepawm.data.loading.feature_store import FeatureReader, FeatureStore
from jepawm.data.loading.frame_cache import CacheReader, FrameCache
from jepawm.data.loading.shard_reader import ShardReader
from jepawm.data.loading.windows import WindowIndex, WindowReader, WindowSampler, split_episodes
from jepawm.seeding import stream_seed
from jepawm.types import WindowBatch

HELD_OUT_KEY = "held_out_episodes"
"""In `DatasetSpec.source`: ids of the held-out episodes, of a dataset that grew out of another one."""

Loader = Literal["cache", "shards", "stream", "features"]
"""`cache`, `shards` or `stream`; see `DataConfig.loader`. `features`: stored ones, see `DataConfig.features`."""


def choose_loader(config: DataConfig, dataset: EpisodeDataset, *, local: bool) -> Loader:
    """The loader for a dataset: `data.loader`, where `auto` caches a dataset that fits under `data.cache_limit_gib`."""
    if config.features == "stored":
        return "features"
    if config.loader != "auto":
        return config.loader
    frames = sum(dataset.num_frames(int(episode_id)) for episode_id in dataset.episode_ids)
    if frames * int(np.prod(dataset.spec.pixels.shape)) <= config.cache_limit_gib * 2**30:
        return "cache"
    return "shards" if local else "stream"


@dataclass(frozen=True)
class Split:
    """Training and held-out episodes of a dataset; the split depends on seed and episode ids alone.

    A dataset that grew says itself which episodes are held out, so an episode that was trained on never becomes a test.

    Attributes:
        train: `[E]` ids, ascending.
        held_out: `[H]` ids, ascending.
    """

    train: np.ndarray
    held_out: np.ndarray

    @classmethod
    def of(cls, dataset: EpisodeDataset, held_out_fraction: float, seed: int, train_fraction: float = 1.0) -> "Split":
        """The split of a run.

        Args:
            dataset: The episodes.
            held_out_fraction: `data.held_out_fraction`.
            seed: Of the run.
            train_fraction: `data.train_fraction`; 1: all episodes that are not held out.
        """
        whole = cls._whole(dataset, held_out_fraction, seed)
        return cls(train_share(whole.train, train_fraction, seed), whole.held_out)

    @classmethod
    def _whole(cls, dataset: EpisodeDataset, held_out_fraction: float, seed: int) -> "Split":
        stated = dataset.spec.source.get(HELD_OUT_KEY)
        if stated is not None:
            held_out = np.array(sorted(stated), dtype=np.int64)
            return cls(np.setdiff1d(dataset.episode_ids, held_out), held_out)
        return cls(*split_episodes(dataset.episode_ids, held_out_fraction, seed))


def train_share(episode_ids: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A share of training episodes: the first ones of an order that the seed alone decides, so shares are nested.

    Args:
        episode_ids: `[E]` ids, ascending.
        fraction: In (0, 1]; at least one episode is left.
        seed: Of the run.

    Returns:
        `[max(1, round(fraction * E))]` ids, ascending.
    """
    if fraction == 1:
        return episode_ids
    number = max(1, round(fraction * len(episode_ids)))
    order = np.random.default_rng(stream_seed(seed, "train share")).permutation(len(episode_ids))
    return np.sort(episode_ids[order[:number]])


def window_index(dataset: EpisodeDataset, episode_ids: np.ndarray, config: DataConfig, num_frames: int) -> WindowIndex:
    """All windows of some episodes."""
    lengths = [dataset.num_frames(int(episode_id)) for episode_id in episode_ids]
    stride = dataset.spec.frames_per_chunk(config.frameskip)
    return WindowIndex(episode_ids, lengths, frameskip=stride, num_frames_in_window=num_frames)


def held_out_windows(
    dataset: EpisodeDataset,
    split: Split,
    config: DataConfig,
    *,
    seed: int,
    num_frames: int,
    num_windows: int,
    store: FeatureStore | None = None,
) -> WindowBatch | None:
    """A fixed random sample of held-out windows, or None where no episode is held out.

    Args:
        dataset: The dataset.
        split: The split; its held-out episodes are used.
        config: The section `data`; its `frameskip` is used.
        seed: Seed of the sample.
        num_frames: Frames in a window.
        num_windows: Largest number of windows.
        store: Features that stand for the frames; None: the frames are read.
    """
    if not len(split.held_out):
        return None
    index = window_index(dataset, split.held_out, config, num_frames)
    rng = np.random.default_rng([seed, num_frames])
    chosen = rng.permutation(len(index))[:num_windows]
    size: dict[str, Any] = {"frameskip": config.frameskip, "num_frames_in_window": num_frames}
    reader: WindowReader = ShardReader(dataset, **size) if store is None else FeatureReader(store, **size)
    # Read in sorted order, so that each row group is read once, and then shuffled again: the probe splits the sample
    # into a part to fit and a part to test.
    ids, starts = index.locate(np.sort(chosen))
    batch = reader.read(ids, starts)
    order = rng.permutation(len(batch))
    return batch[order]


def sampled_batches(
    reader: WindowReader, index: WindowIndex, sampler: WindowSampler, start_step: int
) -> Iterator[WindowBatch]:
    """Batches from a train step on. Each is a pure function of (seed, train step), so a resume is exact."""
    for step in itertools.count(start_step):
        yield reader.read(*index.locate(sampler.ids(step)))


def open_reader(config: DataConfig, dataset: EpisodeDataset, store: FeatureStore | None = None) -> WindowReader:
    """The reader of training windows in this process: the frame cache or the shards, as `choose_loader` says, or
    stored features."""
    size: dict[str, Any] = {
        "frameskip": config.frameskip,
        "num_frames_in_window": config.num_frames_in_window,
    }
    if store is not None:
        return FeatureReader(store, **size)
    if choose_loader(config, dataset, local=True) == "cache":
        return CacheReader(FrameCache(dataset), **size)
    return ShardReader(dataset, **size)
