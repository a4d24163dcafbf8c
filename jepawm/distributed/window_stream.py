"""Ray Data: reads row groups, shuffles their windows, and streams batches to the training workers."""

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from jepawm.config.training import TrainingPlan
from jepawm.data import EpisodeDataset, decode_window_batch, windows_of_groups
from jepawm.data.loading.split import Split
from jepawm.data.loading.stream_plan import PART_BYTES, StreamPart, StreamPlan
from jepawm.distributed.stopping import on_this_node
from jepawm.distributed.stored_home import fetched_once
from jepawm.errors import JepawmError, TrainingError
from jepawm.types import WindowBatch

_BLOCK_WINDOWS = 64
_MAX_BLOCKS = 2000
# Batches that a worker asks for before it needs them.
_AHEAD = 2
# Global batches that the feed keeps. Workers wait for each other in every train step, so none is further behind.
_KEPT_BATCHES = 2 * _AHEAD + 2


def window_stream(
    plan: TrainingPlan, dataset_path: str, *, start_step: int, part_bytes: int = PART_BYTES
) -> "ray.data.Dataset":
    """A lazy Ray dataset of encoded windows, from a train step to the end of the run.

    Each task reads one part of an epoch and yields its windows in random order, see `jepawm.data.loading.stream_plan`.
    Frames stay encoded until they reach a training worker. Parts arrive in order, so the stream from a train step on is
    the rest of the stream from the first step on.

    Args:
        plan: Window size, batch size, seed and split.
        dataset_path: A dataset that all nodes can read, or its URI.
        start_step: Train steps that are done already.
        part_bytes: Encoded frames that a task holds, bytes.
    """
    dataset = EpisodeDataset(fetched_once(dataset_path))
    allowed = Split.of(dataset, plan.data.held_out_fraction, plan.seed, plan.data.train_fraction).train
    size: dict[str, Any] = {
        "frameskip": plan.data.frameskip,
        "num_frames_in_window": plan.data.num_frames_in_window,
    }
    stream = StreamPlan(dataset, allowed, **size, seed=plan.seed, part_bytes=part_bytes)
    seed = plan.seed
    parts = list(stream.between(start_step * plan.train.batch_size, plan.train.num_train_steps * plan.train.batch_size))

    def read(item: pa.Table) -> Iterator[pa.Table]:
        part: StreamPart = parts_in_store(item["part"][0].as_py())
        yield from windows_of_groups(
            fetched_once(dataset_path),
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


class WindowFeed:
    """Cuts the stream into global batches, and each into the shares of the workers.

    Which windows a batch holds, and which of them a worker gets, depends on (seed, train step) alone: worker `r` of `W`
    gets the `r`-th of `W` equal parts, as from the index sampler. A training that begins again from an earlier
    checkpoint, or with another number of workers, asks for an earlier train step, and the stream is opened again there.

    Args:
        plan: Window size, batch size, seed and split.
        dataset_path: A dataset that all nodes can read, or its URI.
        part_bytes: Encoded frames that a task holds, bytes.
    """

    def __init__(self, plan: TrainingPlan, dataset_path: str, *, part_bytes: int = PART_BYTES) -> None:
        self._plan = plan
        self._dataset_path = dataset_path
        self._part_bytes = part_bytes
        self._batches: Iterator[pa.Table] = iter(())
        self._next_step = 0
        self._kept: dict[int, pa.Table] = {}
        self._is_open = False

    def share(self, train_step: int, rank: int, world_size: int) -> pa.Table:
        """The encoded windows of one worker in one train step.

        Args:
            train_step: Below `train.num_train_steps`.
            rank: Of the worker.
            world_size: Workers in all; `train.batch_size` is a multiple.

        Returns:
            `train.batch_size / world_size` rows, see `jepawm.data.windows_of_groups`.

        Raises:
            JepawmError: A damaged dataset.
        """
        if train_step not in self._kept:
            if not self._is_open or train_step < self._next_step:
                self._open(train_step)
            while self._next_step <= train_step:
                self._kept[self._next_step] = self._read()
                self._next_step += 1
                self._kept.pop(self._next_step - 1 - _KEPT_BATCHES, None)
        size = self._plan.train.batch_size // world_size
        return self._kept[train_step].slice(rank * size, size)

    def close(self) -> None:
        """Ends the tasks that read; the next `share` opens the stream again."""
        # Without this, tasks of an iterator that nobody reads go on until it is collected.
        if isinstance(self._batches, Generator):
            self._batches.close()
        self._batches, self._kept, self._is_open = iter(()), {}, False

    def _open(self, train_step: int) -> None:
        self.close()
        windows = window_stream(self._plan, self._dataset_path, start_step=train_step, part_bytes=self._part_bytes)
        batches = windows.iter_batches(
            batch_size=self._plan.train.batch_size, batch_format="pyarrow", drop_last=True, prefetch_batches=1
        )
        self._batches, self._next_step, self._kept, self._is_open = iter(batches), train_step, {}, True

    def _read(self) -> pa.Table:
        try:
            return next(self._batches)
        except StopIteration:
            raise TrainingError(
                f"the stream of {self._dataset_path} ended before train step {self._next_step}, though it was cut for "
                f"{self._plan.train.num_train_steps}; were episodes removed while it was read?"
            ) from None
        except Exception as error:
            ours = our_error(error)
            raise (error if ours is None else ours) from error


def start_feed(plan: TrainingPlan, dataset_path: str) -> Any:
    """A `WindowFeed` in an actor on this node; it takes no CPU, for it moves encoded windows only."""
    return ray.remote(**on_this_node())(WindowFeed).remote(plan, dataset_path)


def stream_batches(
    plan: TrainingPlan, dataset_path: str, feed: Any, *, train_step: int, rank: int, world_size: int
) -> Iterator[WindowBatch]:
    """The batches of one training worker, from a train step to the end of the run.

    Args:
        plan: Batch size and train steps.
        dataset_path: The dataset, for its specification.
        feed: The actor of `start_feed`.
        train_step: Train steps that are done already.
        rank: Of this worker.
        world_size: Training workers; each takes `train.batch_size / world_size` windows per train step.
    """
    spec = EpisodeDataset(fetched_once(dataset_path)).spec
    asked: deque[Any] = deque()
    for step in range(train_step, plan.train.num_train_steps + _AHEAD):
        if step < plan.train.num_train_steps:
            asked.append(feed.share.remote(step, rank, world_size))
        if step >= train_step + _AHEAD and asked:
            yield decode_window_batch(ray.get(asked.popleft()), spec)


def our_error(error: BaseException | None) -> JepawmError | None:
    """The error of this package that Ray Data wrapped, if any."""
    while error is not None:
        if isinstance(error, JepawmError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None
