"""Ray Data: reads shards, shuffles their windows, and streams batches to the training workers."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from jepawm.config.training import TrainingPlan
from jepawm.data import EpisodeDataset, decode_window_batch, windows_of_shard
from jepawm.data.loading.split import Split, window_index
from jepawm.types import WindowBatch

_BLOCK_WINDOWS = 64
_MAX_BLOCKS = 2000


def window_stream(plan: TrainingPlan, dataset_path: str, *, start_step: int) -> "ray.data.Dataset":
    """A lazy Ray dataset of encoded windows, from a train step to the end of the run.

    Each task reads one shard and yields its windows in random order. Every epoch visits the shards in a new random
    order, and batches mix the shards that are read at the same time. Frames stay encoded until they reach a training
    worker.

    Ray Data promises no order between tasks, so a resumed run cannot continue inside an epoch and begins the next one.
    No window is used more than one epoch ahead of another, but the batches differ from those of an uninterrupted run.
    The `cache` and `shards` loaders resume exactly.

    Args:
        plan: Window size, batch size, seed and split.
        dataset_path: A dataset that all nodes can read.
        start_step: Train steps that are done already.
    """
    dataset = EpisodeDataset(dataset_path)
    allowed = Split.of(dataset, plan.data.held_out_fraction, plan.seed).train
    windows = len(window_index(dataset, allowed, plan.data, plan.data.num_frames_in_window))
    first_epoch = math.ceil(start_step * plan.train.batch_size / windows)
    last_epoch = math.ceil(plan.train.num_train_steps * plan.train.batch_size / windows)
    visits = [
        {"epoch": epoch, "shard": int(shard)}
        for epoch in range(first_epoch, max(last_epoch, first_epoch) + 1)
        for shard in np.random.default_rng([plan.seed, epoch]).permutation(dataset.num_shards)
    ]
    size: dict[str, Any] = {
        "frameskip": plan.data.frameskip,
        "num_frames_in_window": plan.data.num_frames_in_window,
    }
    seed = plan.seed

    def read(visit: pa.Table) -> Iterator[pa.Table]:
        epoch, shard = visit["epoch"][0].as_py(), visit["shard"][0].as_py()
        shard_seed = int(np.random.SeedSequence([seed, epoch, shard]).generate_state(1)[0])
        yield from windows_of_shard(
            dataset_path, shard, **size, batch_size=_BLOCK_WINDOWS, seed=shard_seed, episode_ids=allowed
        )

    source = ray.data.from_items(visits, override_num_blocks=min(len(visits), _MAX_BLOCKS))
    return source.map_batches(read, batch_size=1, batch_format="pyarrow")


def stream_batches(plan: TrainingPlan, dataset_path: str, shard: Any, *, world_size: int) -> Iterator[WindowBatch]:
    """The batches of one training worker, without end.

    The stream holds one epoch more than the run needs; if it still ends, it starts again.

    Args:
        plan: Batch size.
        dataset_path: The dataset, for its specification.
        shard: The `DataIterator` of this worker.
        world_size: Training workers; each takes `train.batch_size / world_size` windows per train step.
    """
    spec = EpisodeDataset(dataset_path).spec
    size = plan.train.batch_size // world_size
    while True:
        # A short last batch is dropped: it would change the size of the global batch, and workers would wait for each
        # other's missing batches.
        for batch in shard.iter_batches(batch_size=size, batch_format="pyarrow", drop_last=True, prefetch_batches=2):
            yield decode_window_batch(batch, spec)
