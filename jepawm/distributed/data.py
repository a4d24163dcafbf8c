"""Ray Data: reads shards, samples windows, shuffles, and streams batches to the training workers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import ray.data

from jepawm.config import RunConfig
from jepawm.data import EpisodeDataset, decode_window_batch, windows_of_shard
from jepawm.data.selection import Split
from jepawm.types import WindowBatch

_BLOCK_WINDOWS = 64


def window_stream(config: RunConfig, dataset_path: str, *, first_epoch: int, num_epochs: int) -> "ray.data.Dataset":
    """A lazy Ray dataset of encoded windows, epoch after epoch.

    Each task reads one shard and yields its windows in a random order of its own; shards are visited in a new random
    order every epoch, and batches mix the shards that are read at the same time. Frames stay encoded until they
    reach a training worker.

    Args:
        config: Window size, seed and split.
        dataset_path: A dataset every node can read.
        first_epoch: Seeds the order, with the run's seed.
        num_epochs: Epochs in the stream.
    """
    dataset = EpisodeDataset(dataset_path)
    allowed = Split.of(config, dataset).train
    visits = [
        {"epoch": epoch, "shard": int(shard)}
        for epoch in range(first_epoch, first_epoch + num_epochs)
        for shard in np.random.default_rng([config.seed, epoch]).permutation(dataset.num_shards)
    ]
    frameskip, frames = config.data.frameskip, config.data.num_frames_in_window
    seed = config.seed

    def read(visit: dict[str, Any]) -> Iterator[dict[str, Any]]:
        epoch, shard = int(visit["epoch"]), int(visit["shard"])
        shard_seed = int(np.random.SeedSequence([seed, epoch, shard]).generate_state(1)[0])
        tables = windows_of_shard(
            dataset_path,
            shard,
            frameskip=frameskip,
            num_frames_in_window=frames,
            batch_size=_BLOCK_WINDOWS,
            seed=shard_seed,
            episode_ids=allowed,
        )
        for table in tables:
            yield from table.to_pylist()

    return ray.data.from_items(visits, override_num_blocks=len(visits)).flat_map(read)


def stream_batches(config: RunConfig, dataset_path: str, shard: Any, *, world_size: int) -> Iterator[WindowBatch]:
    """This worker's batches, without end: a stream that runs dry is started again.

    Args:
        config: Batch size.
        dataset_path: For the dataset's specification.
        shard: This worker's `DataIterator`.
        world_size: Workers; each takes `train.batch_size / world_size` windows per step.
    """
    spec = EpisodeDataset(dataset_path).spec
    size = config.train.batch_size // world_size
    while True:
        # drop_last: a short batch would change the global batch, and break the workers' step.
        for batch in shard.iter_batches(batch_size=size, batch_format="pyarrow", drop_last=True, prefetch_batches=2):
            yield decode_window_batch(batch, spec)
