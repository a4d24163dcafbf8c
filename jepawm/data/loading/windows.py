"""Enumerates windows, samples batches of them, and defines the interface of their readers.

A window is `T` frames, `frameskip` environment steps apart: frames `start, start + frameskip, ...`. It spans
`(T - 1) * frameskip + 1` recorded frames of one episode. Where only every `k`-th frame was recorded, `frameskip / k`
stands for `frameskip` in both (`DatasetSpec.frames_per_chunk`).
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from jepawm.errors import DataError
from jepawm.types import WindowBatch


@runtime_checkable
class WindowReader(Protocol):
    """Reads windows by episode and first frame; `ShardReader` and `CacheReader` give equal batches."""

    frameskip: int
    num_frames_in_window: int

    def read(self, episode_ids: np.ndarray, starts: np.ndarray) -> WindowBatch:
        """Reads `B` windows.

        Args:
            episode_ids: `[B]` integers.
            starts: `[B]` integers, first frame of each window in its episode.
        """
        ...


def window_span(frameskip: int, num_frames_in_window: int) -> int:
    """Number of recorded frames that a window covers.

    Raises:
        DataError: One of the two is below 1.
    """
    if frameskip < 1 or num_frames_in_window < 1:
        raise DataError(
            f"frameskip and num_frames_in_window must be 1 or more, found {frameskip} and {num_frames_in_window}"
        )
    return (num_frames_in_window - 1) * frameskip + 1


def split_episodes(
    episode_ids: Sequence[int] | np.ndarray, held_out_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits episodes into training and held-out ones.

    Every episode has a rank that depends on the seed and its own id only; the lowest ranks are held out. The
    order of `episode_ids` does not matter, and adding episodes moves few of the old ones.

    Args:
        episode_ids: Distinct ids.
        held_out_fraction: In `[0, 1)`; above 0 at least one episode is held out.
        seed: Seed of the split.

    Returns:
        `(train, held_out)`, both int64 in ascending order.

    Raises:
        DataError: Repeated ids, a fraction out of range, or nothing left to train on.
    """
    ids = np.asarray(episode_ids, dtype=np.int64)
    if len(np.unique(ids)) != len(ids):
        raise DataError("split_episodes: episode ids must be distinct")
    if not 0.0 <= held_out_fraction < 1.0:
        raise DataError(f"split_episodes: held_out_fraction must lie in [0, 1), found {held_out_fraction}")

    def rank(episode_id: int) -> tuple[bytes, int]:
        return hashlib.blake2b(f"{seed}:{episode_id}".encode(), digest_size=8).digest(), episode_id

    ranked = sorted(ids.tolist(), key=rank)
    held = round(held_out_fraction * len(ranked))
    if held_out_fraction > 0:
        held = max(1, held)
    if held >= len(ranked):
        raise DataError(
            f"split_episodes: holding out {held} of {len(ranked)} episodes leaves none to train on; "
            f"lower held_out_fraction ({held_out_fraction}) or record more episodes"
        )
    return np.array(sorted(ranked[held:]), dtype=np.int64), np.array(sorted(ranked[:held]), dtype=np.int64)


class WindowIndex:
    """Numbers every window of some episodes: `0 .. len - 1`, episode by episode, one per possible start.

    Args:
        episode_ids: `[E]` ids.
        num_frames: `[E]` frames of each episode.
        frameskip: Recorded frames from one frame of a window to the next.
        num_frames_in_window: `T`.

    Attributes:
        span: Recorded frames that a window covers.

    Raises:
        DataError: No episode is long enough for a window.
    """

    def __init__(
        self,
        episode_ids: Sequence[int] | np.ndarray,
        num_frames: Sequence[int] | np.ndarray,
        *,
        frameskip: int,
        num_frames_in_window: int,
    ) -> None:
        self.episode_ids = np.asarray(episode_ids, dtype=np.int64)
        frames = np.asarray(num_frames, dtype=np.int64)
        if self.episode_ids.shape != frames.shape or frames.ndim != 1:
            raise DataError(
                f"WindowIndex: {self.episode_ids.shape} episode ids and {frames.shape} lengths; expected one each"
            )
        self.frameskip = frameskip
        self.num_frames_in_window = num_frames_in_window
        self.span = window_span(frameskip, num_frames_in_window)
        self._ends = np.cumsum(np.maximum(frames - self.span + 1, 0))
        if len(self) == 0:
            longest = int(frames.max()) if len(frames) else 0
            raise DataError(
                f"there are no windows: {num_frames_in_window} frames at frameskip {frameskip} span "
                f"{self.span} frames, "
                f"the longest of {len(frames)} episodes has {longest}; lower num_frames_in_window or "
                "frameskip, or "
                "record longer episodes"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, window_ids: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episode and first frame of windows.

        Args:
            window_ids: `[B]` in `[0, len)`.

        Returns:
            `(episode_ids, starts)`, both `[B]` int64.

        Raises:
            DataError: A number out of range.
        """
        ids = np.asarray(window_ids, dtype=np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self)):
            raise DataError(f"window ids must lie in [0, {len(self)}), found {ids.min()} to {ids.max()}")
        row = np.searchsorted(self._ends, ids, side="right")
        before = np.where(row > 0, self._ends[row - 1], 0)
        return self.episode_ids[row], ids - before


class EpochOrder:
    """Permutations of `0 .. num_items - 1`, one an epoch, laid end to end: an endless order, each place a function of
    the seed.

    Args:
        num_items: Items of an epoch.
        seed: Seed of the permutations.
    """

    def __init__(self, num_items: int, seed: int) -> None:
        self._num_items = num_items
        self._seed = seed
        self._permutations: dict[int, np.ndarray] = {}

    def items(self, start: int, count: int) -> np.ndarray:
        """`[count]` int64, the items from a place of the order on."""
        epoch, offset = divmod(start, self._num_items)
        parts: list[np.ndarray] = []
        while count:
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            count, epoch, offset = count - len(part), epoch + 1, 0
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            # Two are enough: a batch goes through the epochs in order, and seldom touches more than two.
            self._permutations = {key: self._permutations[key] for key in self._permutations if key == epoch - 1}
            generator = np.random.default_rng(np.random.SeedSequence([self._seed, epoch]))
            self._permutations[epoch] = generator.permutation(self._num_items)
        return self._permutations[epoch]


class WindowSampler:
    """Which windows make up each batch: a pure function of (seed, train step), so a resumed run goes on
    exactly.

    The windows of one epoch are one permutation of all windows; batch `k` is the numbers `k * batch_size`
    onward of the permutations laid end to end. So each window comes exactly once per epoch, no tail is
    dropped, and a batch that straddles two epochs may hold a window twice.

    Args:
        num_windows: Number of windows to draw from.
        batch_size: GLOBAL batch size, over all ranks.
        seed: Seed of the permutations.
        rank: This worker, in `[0, world_size)`.
        world_size: Number of workers; the concatenation of their batches is the batch of one worker.

    Raises:
        DataError: `batch_size` cannot be split evenly, or exceeds the number of windows (a batch full of
            repeats would defeat the variance and covariance terms of a loss).
    """

    def __init__(self, num_windows: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if world_size < 1 or not 0 <= rank < world_size:
            raise DataError(f"WindowSampler: rank {rank} does not lie in [0, {world_size})")
        if batch_size < 1 or batch_size % world_size:
            lower = max(batch_size // world_size, 1) * world_size
            raise DataError(
                f"WindowSampler: the global batch_size {batch_size} cannot be split over {world_size} "
                "workers; "
                f"use a multiple of {world_size}, such as {lower} or {lower + world_size}"
            )
        if batch_size > num_windows:
            raise DataError(
                f"WindowSampler: batch_size {batch_size} is larger than the number of windows {num_windows}; "
                "lower "
                "batch_size, frameskip or num_frames_in_window, or record more episodes"
            )
        self.num_windows = num_windows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._order = EpochOrder(num_windows, seed)

    @property
    def steps_per_epoch(self) -> float:
        """Train steps in one pass over all windows; not a whole number in general."""
        return self.num_windows / self.batch_size

    def ids(self, train_step: int) -> np.ndarray:
        """Windows of this rank in one train step: `[batch_size / world_size]` int64.

        Raises:
            DataError: A negative step.
        """
        if train_step < 0:
            raise DataError(f"WindowSampler: train_step must be 0 or larger, found {train_step}")
        share = self.batch_size // self.world_size
        return self._order.items(train_step * self.batch_size + self.rank * share, share)
