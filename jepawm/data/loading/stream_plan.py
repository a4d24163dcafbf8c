"""Which row groups each task of a stream reads, in which epoch.

An epoch is a random order of all row groups, cut into parts. One task reads a part, so that windows of many shards are
in memory together, and shuffles the windows of the part. A restart finds its place by counting windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from jepawm.data.episodes import EpisodeDataset
from jepawm.data.loading.windows import window_span
from jepawm.errors import DataError

# Encoded frames that one task holds. Larger parts mix more episodes and take more memory.
PART_BYTES = 512 * 2**20


@dataclass(frozen=True)
class StreamPart:
    """Row groups that one task reads together.

    Attributes:
        epoch: Number of the epoch.
        number: Of the part in its epoch.
        groups: `(shard, row group)` of each.
        num_windows: Windows that start in the row groups.
        skip: Windows at the start of the part that were used before a restart.
        is_whole: Whether the part is the whole epoch.
    """

    epoch: int
    number: int
    groups: tuple[tuple[int, int], ...]
    num_windows: int
    skip: int = 0
    is_whole: bool = False


class StreamPlan:
    """The parts of every epoch, a function of dataset and seed alone.

    Args:
        dataset: The dataset.
        episode_ids: The training episodes.
        frameskip: Environment steps between two frames of a window.
        num_frames_in_window: `T`.
        seed: Seed of the order.
        part_bytes: Largest size of a part, bytes of encoded frames.

    Attributes:
        num_windows: Windows in an epoch.

    Raises:
        DataError: No episode is long enough for a window.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        episode_ids: np.ndarray,
        *,
        frameskip: int,
        num_frames_in_window: int,
        seed: int,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._seed = seed
        span = window_span(dataset.spec.frames_per_chunk(frameskip), num_frames_in_window)
        starts = _window_starts(dataset, episode_ids, span)
        groups: list[tuple[int, int]] = []
        windows: list[int] = []
        nbytes: list[int] = []
        for number in range(dataset.num_shards):
            shard = dataset.shard(number)
            in_rows = np.zeros(shard.num_rows, dtype=np.int64)
            for row, count in starts.get(number, ()):
                in_rows[row] = count
            for group in range(shard.num_groups):
                first = shard.first_row(group)
                count = int(in_rows[first : first + shard.num_rows_of(group)].sum())
                if count:
                    groups.append((number, group))
                    windows.append(count)
                    nbytes.append(shard.nbytes_of(group))
        if not groups:
            raise DataError(f"{dataset.path}: no episode is long enough for a window of {span} frames")
        self._groups, self._windows = groups, np.array(windows)
        self._num_parts = min(len(groups), -(-sum(nbytes) // part_bytes))
        self.num_windows = int(self._windows.sum())

    def parts(self, epoch: int) -> list[StreamPart]:
        """The parts of an epoch, in order."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._groups))
        return [
            StreamPart(
                epoch,
                number,
                tuple(self._groups[i] for i in sorted(chosen.tolist())),
                int(self._windows[chosen].sum()),
                is_whole=self._num_parts == 1,
            )
            for number, chosen in enumerate(np.array_split(order, self._num_parts))
        ]

    def between(self, first_window: int, last_window: int) -> Iterator[StreamPart]:
        """The parts that hold some windows of the stream, which counts windows from the first epoch on.

        Args:
            first_window: The first window that is wanted; earlier windows of its part are skipped.
            last_window: The part of this window is the last one.
        """
        epoch, begin = first_window // self.num_windows, first_window // self.num_windows * self.num_windows
        while begin <= last_window:
            for part in self.parts(epoch):
                if begin + part.num_windows > first_window and begin <= last_window:
                    yield replace(part, skip=max(0, first_window - begin))
                begin += part.num_windows
            epoch += 1


def _window_starts(dataset: EpisodeDataset, episode_ids: np.ndarray, span: int) -> dict[int, list[tuple[int, int]]]:
    """Of each shard: its rows in which windows of the episodes start, with the number of the windows."""
    starts: dict[int, list[tuple[int, int]]] = {}
    for episode_id in episode_ids.tolist():
        shard, first_row, num_rows = dataset.location(episode_id)
        left = dataset.num_frames(episode_id) - span + 1
        for row in range(first_row, first_row + num_rows):
            if left <= 0:
                break
            starts.setdefault(shard, []).append((row, min(left, dataset.chunk_frames)))
            left -= dataset.chunk_frames
    return starts
