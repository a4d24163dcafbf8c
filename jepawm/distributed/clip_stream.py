"""Ray Data: tasks decode and augment clips on the cluster, and stream them to the training workers."""

import dataclasses
from collections import deque
from collections.abc import Generator, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from jepawm.config.clips import ClipsConfig
from jepawm.data.clips.mixture import ClipMixture
from jepawm.data.clips.sampler import ClipRequest, ClipSampler
from jepawm.distributed.stopping import on_this_node
from jepawm.distributed.stored_home import fetched_once
from jepawm.distributed.window_stream import our_error
from jepawm.errors import TrainingError
from jepawm.training.clip_batches import read_clip
from jepawm.types import ClipBatch, ClipGroup

# Clips that a task makes, and their size: tasks must be longer than it takes to start one, and blocks small.
_TASK_CLIPS = 32
_TASK_BYTES = 64 * 2**20
# Tasks of one stream; a longer stage is streamed in several.
_MAX_TASKS = 4000
# Batches that a worker asks for before it needs them.
_AHEAD = 2
# Global batches that the feed keeps. Workers wait for each other in every train step, so none is further behind.
_KEPT_BATCHES = 2 * _AHEAD + 2


def local_sources(config: ClipsConfig) -> ClipsConfig:
    """The same sources on this node: datasets at a URI are fetched, once per node."""
    local = (dataclasses.replace(source, path=fetched_once(source.path)) for source in config.all_sources)
    return dataclasses.replace(config, paths=(), sources=tuple(local))


@lru_cache(maxsize=1)
def opened_once(config: ClipsConfig, request: ClipRequest) -> ClipMixture:
    """The sources of a stage, opened once in this process; their files are decoded when a clip is read."""
    # A task has one CPU, and reads its clips one after the other.
    return ClipMixture(dataclasses.replace(local_sources(config), loader="files", num_threads=1), request)


def clip_stream(
    config: ClipsConfig, request: ClipRequest, *, train_step: int, task_clips: int | None = None
) -> "tuple[ray.data.Dataset, int]":
    """A lazy Ray dataset of clips from a train step on, in the order of the global batches.

    Each task reads some clips that follow each other; a row is a clip: `slot` int64, and `pixels` binary,
    `[T,side,side,C]` uint8. They are the clips of `ClipBatches` with the same configuration, bit for bit where the
    processors of all nodes are of one kind.

    Args:
        config: The sources; all nodes can read them.
        request: What the stage asks for.
        train_step: Its first train step.
        task_clips: Clips that a task reads; None: as many as keep its block small.

    Returns:
        The dataset, and one past the last train step that it holds: no later than the end of the stage.
    """
    frames = max([request.num_frames, *(source.num_frames or 0 for source in config.all_sources)])
    clip_bytes = frames * 3 * request.image_size**2
    task_clips = task_clips or max(1, min(_TASK_CLIPS, _TASK_BYTES // clip_bytes))
    last_step = min(request.last_train_step, train_step + max(1, _MAX_TASKS * task_clips // request.batch_size))
    num_clips = (last_step - train_step) * request.batch_size

    def read(places: pa.Table) -> Iterator[pa.Table]:
        mixture = opened_once(config, request)
        # Places are in order, so that the clips of one train step are drawn once.
        draws = None
        slots, pixels = [], []
        for place in places["id"].to_pylist():
            step, slot = divmod(place, request.batch_size)
            if draws is None or draws.train_step != train_step + step:
                draws = mixture.sampler.draws(train_step + step)
            slots.append(slot)
            pixels.append(read_clip(mixture, draws, slot).tobytes())
        yield pa.table({"slot": pa.array(slots, pa.int64()), "pixels": pa.array(pixels, pa.large_binary())})

    places = ray.data.range(num_clips, override_num_blocks=-(-num_clips // task_clips))
    clips = places.map_batches(read, batch_size=None, batch_format="pyarrow")
    clips.context.execution_options.preserve_order = True
    return clips, last_step


class ClipFeed:
    """Cuts the stream into global batches, and each into the shares of the workers.

    A training that begins again from an earlier checkpoint, or with another number of workers, asks for an earlier
    train step, and the stream is opened again there.

    Args:
        config: The sources.
        request: What the stage asks for.
        task_clips: Clips that a task reads; None: as many as keep its block small.
    """

    def __init__(self, config: ClipsConfig, request: ClipRequest, *, task_clips: int | None = None) -> None:
        self._config = config
        self._request = request
        self._task_clips = task_clips
        self._batches: Iterator[pa.Table] = iter(())
        self._next_step = 0
        self._last_step = 0
        self._kept: dict[int, pa.Table] = {}

    def share(self, train_step: int, slots: np.ndarray) -> pa.Table:
        """Some clips of one train step.

        Args:
            train_step: Of the stage.
            slots: `[B]` places of the clips in the global batch.

        Returns:
            `B` rows of `clip_stream`, in the order of `slots`.

        Raises:
            JepawmError: A video that cannot be decoded, or a damaged dataset.
        """
        if train_step not in self._kept:
            if not self._kept or train_step < self._next_step:
                self._open(train_step)
            while self._next_step <= train_step:
                self._kept[self._next_step] = self._read()
                self._next_step += 1
                self._kept.pop(self._next_step - 1 - _KEPT_BATCHES, None)
        return self._kept[train_step].take(pa.array(slots))

    def close(self) -> None:
        """Ends the tasks that read; the next `share` opens the stream again."""
        # Without this, tasks of an iterator that nobody reads go on until it is collected.
        if isinstance(self._batches, Generator):
            self._batches.close()
        self._batches, self._kept, self._last_step = iter(()), {}, 0

    def _open(self, train_step: int) -> None:
        self.close()
        clips, self._last_step = clip_stream(
            self._config, self._request, train_step=train_step, task_clips=self._task_clips
        )
        self._next_step = train_step
        self._batches = iter(
            clips.iter_batches(
                batch_size=self._request.batch_size, batch_format="pyarrow", drop_last=True, prefetch_batches=1
            )
        )

    def _read(self) -> pa.Table:
        if self._next_step == self._last_step:
            kept = self._kept
            self._open(self._next_step)
            self._kept = kept
        try:
            return next(self._batches)
        except StopIteration:
            raise TrainingError(
                f"the stream of clips ended before train step {self._next_step}, though it was cut for those up to "
                f"{self._last_step}; were videos removed while it was read?"
            ) from None
        except Exception as error:
            ours = our_error(error)
            raise (error if ours is None else ours) from error


def start_clip_feed(config: ClipsConfig, request: ClipRequest) -> Any:
    """A `ClipFeed` in an actor on this node; it takes no CPU, for it moves clips only."""
    return ray.remote(**on_this_node())(ClipFeed).remote(config, request)


def streamed_clips(
    sampler: ClipSampler, feed: Any, *, train_step: int, rank: int, world_size: int
) -> Iterator[ClipBatch]:
    """The batches of one training worker, from a train step to the end of the stage.

    Args:
        sampler: Of the stage, `opened_once(...).sampler`.
        feed: The actor of `start_clip_feed`.
        train_step: Train steps that are done already.
        rank: Of this worker.
        world_size: Training workers.
    """
    request, side = sampler.request, sampler.request.image_size
    asked: deque[tuple[int, list[tuple[Any, Any]]]] = deque()

    def batch() -> ClipBatch:
        step, parts = asked.popleft()
        groups = []
        for share, answer in parts:
            rows = ray.get(answer)["pixels"].to_pylist() if answer is not None else []
            pixels = np.empty((len(rows), sampler.group_frames[share.index], side, side, 3), dtype=np.uint8)
            for out, row in zip(pixels, rows, strict=True):
                out.reshape(-1)[:] = np.frombuffer(row, dtype=np.uint8)
            slots = share.slots[share.rows]
            groups.append(ClipGroup(share.index, len(share.slots), share.rows, np.moveaxis(pixels, -1, 2), slots))
        return ClipBatch(step, tuple(groups))

    for step in range(train_step, request.last_train_step):
        parts = []
        for share in sampler.shares(sampler.draws(step), rank=rank, world_size=world_size):
            slots = share.slots[share.rows]
            parts.append((share, feed.share.remote(step, slots) if len(slots) else None))
        asked.append((step, parts))
        if len(asked) > _AHEAD:
            yield batch()
    while asked:
        yield batch()
