"""Ray Data: tasks decode and augment clips on the cluster, and stream them to the training workers.

Unlike windows, clips are drawn one by one, so each worker streams the clips of its own share; no process sees all of a
global batch.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from jepawm.config.clips import ClipsConfig
from jepawm.data.clips.mixture import ClipMixture
from jepawm.data.clips.sampler import ClipDraws, ClipRequest, GroupShare, check_split
from jepawm.distributed.stored_home import fetched_once
from jepawm.distributed.window_stream import our_error
from jepawm.errors import TrainingError
from jepawm.training.clip_batches import read_clip
from jepawm.types import ClipBatch, ClipGroup

# Clips that a task makes, and their size: tasks must be longer than it takes to start one, and blocks small.
_TASK_CLIPS = 32
_TASK_BYTES = 64 * 2**20
# Tasks of one Ray dataset; a longer stage is streamed from several.
_MAX_TASKS = 4000
# Part of the object store that the streams of all workers may fill together; Ray Data's own limit for one stream.
_STORE_SHARE = 0.5


def local_sources(config: ClipsConfig) -> ClipsConfig:
    """The same sources on this node: datasets at a URI are fetched, once per node."""
    local = (dataclasses.replace(source, path=fetched_once(source.path)) for source in config.all_sources)
    return dataclasses.replace(config, paths=(), sources=tuple(local))


@lru_cache(maxsize=1)
def opened_once(config: ClipsConfig, request: ClipRequest) -> ClipMixture:
    """The sources of a stage, opened once in this process; their files are decoded when a clip is read."""
    return ClipMixture(dataclasses.replace(local_sources(config), loader="files"), request)


@dataclasses.dataclass(frozen=True)
class ClipTasks:
    """How the clips of one worker are cut into tasks, from a train step on.

    A small share of a batch is read together with those of the next train steps, and a large one in several parts.

    Attributes:
        first_step: The first train step.
        last_step: One past the last train step.
        steps_per_task: Train steps that a task reads.
        tasks_per_step: Tasks that read one train step; above 1, a task reads part of one train step.
    """

    first_step: int
    last_step: int
    steps_per_task: int
    tasks_per_step: int

    @classmethod
    def of(cls, config: ClipsConfig, request: ClipRequest, *, train_step: int, world_size: int) -> "ClipTasks":
        """Tasks whose blocks stay small, as many as one Ray dataset may have.

        Args:
            config: The sources.
            request: What the stage asks for.
            train_step: The first train step.
            world_size: Workers that share a batch.
        """
        frames = max([request.num_frames, *(source.num_frames or 0 for source in config.all_sources)])
        clips = max(1, min(_TASK_CLIPS, _TASK_BYTES // (frames * 3 * request.image_size**2)))
        share = request.batch_size // world_size
        steps_per_task, tasks_per_step = max(1, clips // share), max(1, -(-share // clips))
        most_steps = max(1, _MAX_TASKS * steps_per_task // tasks_per_step)
        return cls(train_step, min(request.last_train_step, train_step + most_steps), steps_per_task, tasks_per_step)

    @property
    def num_tasks(self) -> int:
        """Tasks in all."""
        return -(-(self.last_step - self.first_step) // self.steps_per_task) * self.tasks_per_step

    def clips(self, task: int, slots: Callable[[int], np.ndarray]) -> Iterator[tuple[int, int]]:
        """Train step and slot of each clip that a task reads, in order.

        Args:
            task: Number of the task.
            slots: Gives the worker's slots in a train step, in the order of its groups.
        """
        number, part = divmod(task, self.tasks_per_step)
        first = self.first_step + number * self.steps_per_task
        for step in range(first, min(first + self.steps_per_task, self.last_step)):
            for slot in np.array_split(slots(step), self.tasks_per_step)[part].tolist():
                yield step, slot


def clip_stream(
    config: ClipsConfig, request: ClipRequest, tasks: ClipTasks, *, rank: int, world_size: int
) -> "ray.data.Dataset":
    """A lazy Ray dataset of one worker's clips, in the order of train steps and groups.

    A row is a clip: `train_step` and `slot` int64, and `pixels` binary, `[T,side,side,C]` uint8. They are the clips of
    `ClipBatches` with the same configuration, bit for bit where the processors of all nodes are of one kind.

    Args:
        config: The sources; all nodes can read them.
        request: What the stage asks for.
        tasks: How the clips are cut into tasks.
        rank: The worker.
        world_size: Workers in all.
    """

    def read(numbers: pa.Table) -> Iterator[pa.Table]:
        mixture = opened_once(config, request)
        sampler, drawn = mixture.sampler, dict[int, ClipDraws]()

        def slots(step: int) -> np.ndarray:
            drawn[step] = sampler.draws(step)
            return _slots(sampler.shares(drawn[step], rank=rank, world_size=world_size))

        for task in numbers["id"].to_pylist():
            steps, places, pixels = [], [], []
            for step, slot in tasks.clips(task, slots):
                steps.append(step)
                places.append(slot)
                pixels.append(read_clip(mixture, drawn[step], slot).tobytes())
            columns = {"train_step": pa.array(steps, pa.int64()), "slot": pa.array(places, pa.int64())}
            yield pa.table({**columns, "pixels": pa.array(pixels, pa.large_binary())})

    numbers = ray.data.range(tasks.num_tasks, override_num_blocks=tasks.num_tasks)
    clips = numbers.map_batches(read, batch_size=1, batch_format="pyarrow")
    options = clips.context.execution_options
    options.preserve_order = True
    # The streams of all workers run at the same time, and do not know of each other.
    free, store = (ray.available_resources().get("CPU", 0.0), ray.cluster_resources().get("object_store_memory", 0.0))
    options.resource_limits = options.resource_limits.copy(
        cpu=max(1.0, free // world_size), object_store_memory=store * _STORE_SHARE / world_size
    )
    return clips


def streamed_clips(
    config: ClipsConfig, request: ClipRequest, *, train_step: int, rank: int = 0, world_size: int = 1
) -> Generator[ClipBatch, None, None]:
    """The batches of one training worker, from a train step to the end of the stage; `ClipBatches` over Ray Data.

    They depend on (seed, train step) alone, so a training may begin again at any train step with another number of
    workers. Closing the iterator ends the tasks that read.

    Args:
        config: The sources; all nodes can read them.
        request: What the stage asks for.
        train_step: The first train step.
        rank: This worker.
        world_size: Training workers.

    Raises:
        ConfigError: A batch that cannot be split.
        JepawmError: A source that cannot be opened, or a video that cannot be decoded; names the file.
    """
    check_split(request.batch_size, rank=rank, world_size=world_size)
    sampler, step = opened_once(config, request).sampler, train_step
    while step < request.last_train_step:
        tasks = ClipTasks.of(config, request, train_step=step, world_size=world_size)
        with closing(_pixels(clip_stream(config, request, tasks, rank=rank, world_size=world_size))) as pixels:
            for step in range(tasks.first_step, tasks.last_step):
                shares = sampler.shares(sampler.draws(step), rank=rank, world_size=world_size)
                groups = tuple(
                    _group(share, (sampler.group_frames[share.index], request.image_size), step, pixels)
                    for share in shares
                )
                yield ClipBatch(step, groups)
        step = tasks.last_step


def _slots(shares: tuple[GroupShare, ...]) -> np.ndarray:
    """A worker's slots, group after group."""
    return np.concatenate([share.slots[share.rows] for share in shares])


def _pixels(clips: "ray.data.Dataset") -> Generator[tuple[int, int, memoryview], None, None]:
    """Train step, slot and bytes of each clip of a stream."""
    blocks: Any = clips.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    try:
        for block in blocks:
            for row in range(block.num_rows):
                pixels = block["pixels"][row].as_buffer()
                yield block["train_step"][row].as_py(), block["slot"][row].as_py(), memoryview(pixels)
    except Exception as error:
        ours = our_error(error)
        raise (error if ours is None else ours) from error
    finally:
        # Without this, tasks of an iterator that nobody reads go on until it is collected.
        if isinstance(blocks, Generator):
            blocks.close()


def _group(
    share: GroupShare, size: tuple[int, int], train_step: int, clips: Iterator[tuple[int, int, memoryview]]
) -> ClipGroup:
    """A worker's share of a group, from the next clips of its stream."""
    slots, (frames, side) = share.slots[share.rows], size
    pixels = np.empty((len(slots), frames, side, side, 3), dtype=np.uint8)
    for out, slot in zip(pixels, slots.tolist(), strict=True):
        found = next(clips, None)
        if found is None or found[:2] != (train_step, slot):
            raise TrainingError(
                f"the stream of clips gave {'nothing' if found is None else found[:2]} in place of clip {slot} of "
                f"train step {train_step}; were videos added or removed while it was read?"
            )
        out.reshape(-1)[:] = np.frombuffer(found[2], dtype=np.uint8)
    return ClipGroup(share.index, len(share.slots), share.rows, np.moveaxis(pixels, -1, 2), slots)
