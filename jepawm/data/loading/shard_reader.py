"""Reads random windows from the shards, and decodes only the frames that a window uses."""

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jepawm.data.codecs import FrameError, decode_frame
from jepawm.data.episodes import EpisodeDataset
from jepawm.data.loading.windows import window_span
from jepawm.data.shards import Chunk
from jepawm.errors import DataError
from jepawm.types import WindowBatch


def window_arrays(
    episode_ids: np.ndarray, starts: np.ndarray, span: int, frames_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Checks a request for windows.

    Args:
        episode_ids: `[B]`.
        starts: `[B]`.
        span: Frames a window reaches over.
        frames_of: `[B]` frames of each episode.

    Returns:
        Both as int64 arrays.

    Raises:
        DataError: A window does not lie within its episode.
    """
    episode_ids = np.asarray(episode_ids, dtype=np.int64)
    starts = np.asarray(starts, dtype=np.int64)
    outside = np.flatnonzero((starts < 0) | (starts + span > frames_of))
    if len(outside):
        i = outside[0]
        raise DataError(
            f"episode {episode_ids[i]}: a window of {span} frames from frame {starts[i]} does not lie within "
            "its "
            f"{frames_of[i]} frames"
        )
    return episode_ids, starts


class ShardReader:
    """Reads windows from a dataset's shards; see `WindowReader`.

    Args:
        dataset: The dataset.
        frameskip: Environment steps between two frames of a window.
        num_frames_in_window: `T`.
        cache_bytes: Encoded row groups kept in memory, least recently used out first.
        num_threads: Threads that decode; 1 decodes in the caller.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        *,
        frameskip: int,
        num_frames_in_window: int,
        cache_bytes: int = 64 * 1024 * 1024,
        num_threads: int = 1,
    ) -> None:
        self.dataset = dataset
        self.frameskip = frameskip
        self.num_frames_in_window = num_frames_in_window
        self._stride = dataset.spec.frames_per_chunk(frameskip)
        self._span = window_span(self._stride, num_frames_in_window)
        self._columns = ["frames", *dataset.spec.widths]
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._groups: OrderedDict[tuple[int, int], tuple[list[Chunk], int]] = OrderedDict()
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        self._num_threads = num_threads

    def read(self, episode_ids: np.ndarray, starts: np.ndarray) -> WindowBatch:
        """Reads `B` windows.

        Args:
            episode_ids: `[B]` integers.
            starts: `[B]` integers.

        Raises:
            DataError: Unknown episode, a window outside its episode, or damaged data (names file, row and
                frame).
        """
        dataset, spec = self.dataset, self.dataset.spec
        positions = np.array([dataset.position(i) for i in np.asarray(episode_ids).tolist()], dtype=np.int64)
        frames_of = dataset.num_frames_each[positions]
        episode_ids, starts = window_arrays(episode_ids, starts, self._span, frames_of)
        batch, frames, skip = len(starts), self.num_frames_in_window, self._stride
        sim_state = None
        if spec.sim_state is not None:
            sim_state = np.empty((batch, frames, spec.sim_state.dim), dtype=np.float64)
        out = WindowBatch(
            pixels=np.empty((batch, frames, *spec.pixels.shape), dtype=np.uint8),
            actions=np.empty((batch, frames - 1, skip * spec.widths["actions"]), dtype=np.float32),
            proprio=np.empty((batch, frames, spec.proprio.dim), dtype=np.float32),
            sim_state=sim_state,
            episode_ids=episode_ids,
            starts=starts,
        )
        locations = [dataset.location(i) for i in episode_ids.tolist()]
        # Neighbouring windows share row groups, so the batch is read in the order of the files.
        order = sorted(range(batch), key=lambda b: (*locations[b][:2], int(starts[b])))
        jobs: list[tuple[int, int, list[Chunk]]] = []
        for b in order:
            number, first_row, _ = locations[b]
            first = int(starts[b]) // dataset.chunk_frames
            last = int(starts[b] + self._span - 1) // dataset.chunk_frames
            chunks = [self._chunk(number, first_row + k, int(episode_ids[b])) for k in range(first, last + 1)]
            self._fill_vectors(out, b, chunks)
            jobs.append((b, number, chunks))
        if self._pool is None:
            self._decode(out, jobs)
        else:
            shares = [jobs[i :: self._num_threads] for i in range(self._num_threads)]
            for future in [self._pool.submit(self._decode, out, share) for share in shares]:
                future.result()
        return out

    def _fill_vectors(self, out: WindowBatch, b: int, chunks: list[Chunk]) -> None:
        start = int(out.starts[b]) - chunks[0].first_frame

        def column(name: str) -> Any:
            arrays = [getattr(chunk, name) for chunk in chunks]
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

        stop = start + self._span
        out.actions[b] = column("actions")[start : stop - 1].reshape(out.actions.shape[1:])
        out.proprio[b] = column("proprio")[start : stop : self._stride]
        if out.sim_state is not None:
            out.sim_state[b] = column("sim_state")[start : stop : self._stride]

    def _decode(self, out: WindowBatch, jobs: list[tuple[int, int, list[Chunk]]]) -> None:
        codec, chunk_frames = self.dataset.spec.pixels.codec, self.dataset.chunk_frames
        for b, number, chunks in jobs:
            for t in range(self.num_frames_in_window):
                frame = int(out.starts[b]) + t * self._stride
                chunk = chunks[(frame - chunks[0].first_frame) // chunk_frames]
                assert chunk.frames is not None
                try:
                    decode_frame(chunk.frames[frame - chunk.first_frame], codec, out.pixels[b, t])
                except FrameError as error:
                    path = self.dataset.shard_path(number)
                    raise DataError(
                        f"{path}: row {chunk.row} (episode {chunk.episode_id}), frame {frame}: {error}"
                    ) from error

    def _chunk(self, number: int, row: int, episode_id: int) -> Chunk:
        shard = self.dataset.shard(number)
        group = shard.group_of(row)
        key = (number, group)
        if key in self._groups:
            self._groups.move_to_end(key)
        else:
            chunks = shard.chunks(group, self._columns)
            size = sum(chunk.encoded_bytes for chunk in chunks)
            self._groups[key] = (chunks, size)
            self._cached_bytes += size
            while self._cached_bytes > self._cache_bytes and len(self._groups) > 1:
                self._cached_bytes -= self._groups.popitem(last=False)[1][1]
        chunk = self._groups[key][0][row - shard.first_row(group)]
        if chunk.episode_id != episode_id:
            raise DataError(
                f"{shard.path}: row {row} belongs to episode {chunk.episode_id}, the index says "
                f"{episode_id}; "
                "run `jepawm data check`"
            )
        return chunk
