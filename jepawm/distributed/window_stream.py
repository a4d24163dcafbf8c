"""Ray Data: reads row groups, shuffles their windows, and streams batches to the training workers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from jepawm.config.training import TrainingPlan
from jepawm.data import EpisodeDataset, decode_window_batch, windows_of_groups
from jepawm.data.loading.split import Split
from jepawm.data.loading.stream_plan import PART_BYTES, StreamPart, StreamPlan
from jepawm.types import WindowBatch

_BLOCK_WINDOWS = 64
_MAX_BLOCKS = 2000


def window_stream(
    plan: TrainingPlan, dataset_path: str, *, start_step: int, part_bytes: int = PART_BYTES
) -> "ray.data.Dataset":
    """A lazy Ray dataset of encoded windows, from a train step to the end of the run.

    Each task reads one part of an epoch and yields its windows in random order, see `jepawm.data.loading.stream_plan`.
    Frames stay encoded until they reach a training worker. Parts arrive in order, so the stream from a train step on is
    the rest of the stream from the first step on, and one worker resumes exactly. Ray Data shares windows between
    several workers as they ask, so their batches after a restart may hold other windows of the same part.

    Args:
        plan: Window size, batch size, seed and split.
        dataset_path: A dataset that all nodes can read.
        start_step: Train steps that are done already.
        part_bytes: Encoded frames that a task holds, bytes.
    """
    dataset = EpisodeDataset(dataset_path)
    allowed = Split.of(dataset, plan.data.held_out_fraction, plan.seed).train
    size: dict[str, Any] = {
        "frameskip": plan.data.frameskip,
        "num_frames_in_window": plan.data.num_frames_in_window,
    }
    stream = StreamPlan(dataset, allowed, **size, seed=plan.seed, part_bytes=part_bytes)
    done, batch_size, seed = start_step * plan.train.batch_size, plan.train.batch_size, plan.seed
    # An epoch to spare: workers drop short batches at the end.
    last = max(done, plan.train.num_train_steps * batch_size) + stream.num_windows
    parts = list(stream.between(done, last))

    def read(item: pa.Table) -> Iterator[pa.Table]:
        part: StreamPart = parts_in_store(item["part"][0].as_py())
        yield from windows_of_groups(
            dataset_path,
            part.groups,
            **size,
            batch_size=_BLOCK_WINDOWS,
            seed=int(np.random.SeedSequence([seed, part.epoch, part.number]).generate_state(1)[0]),
            episode_ids=allowed,
            skip=part.skip,
            spread=not part.is_whole,
        )

    shared = ray.put(parts)

    def parts_in_store(number: int) -> StreamPart:
        part: StreamPart = ray.get(shared)[number]
        return part

    numbers = [{"part": number} for number in range(len(parts))]
    source = ray.data.from_items(numbers, override_num_blocks=min(len(numbers), _MAX_BLOCKS))
    windows = source.map_batches(read, batch_size=1, batch_format="pyarrow")
    windows.context.execution_options.preserve_order = True
    return windows


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
