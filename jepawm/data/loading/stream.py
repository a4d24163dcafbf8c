"""Windows of some row groups as Arrow tables with encoded frames: a streaming task sends them, a worker decodes them.

The windows come in a seeded random order, and frames stay encoded until a batch reaches the training worker: an encoded
224 px window is a tenth of a decoded one. `stream_plan` says which row groups go together.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jepawm.data.codecs import FrameError, decode_frame
from jepawm.data.episodes import EpisodeDataset
from jepawm.data.loading.windows import window_span
from jepawm.data.meta import DatasetSpec
from jepawm.data.shards import Chunk, binary_views, list_values
from jepawm.errors import DataError
from jepawm.types import WindowBatch


def windows_of_groups(
    dataset: EpisodeDataset | str | os.PathLike[str],
    groups: Sequence[tuple[int, int]],
    *,
    frameskip: int,
    num_frames_in_window: int,
    batch_size: int,
    seed: int,
    episode_ids: Sequence[int] | np.ndarray | None = None,
    skip: int = 0,
    spread: bool = False,
) -> Iterator[pa.Table]:
    """Yields the windows that start in some row groups, in a random order that depends on the seed and the groups only.

    Args:
        dataset: The dataset, or its path; a task is best sent the path.
        groups: `(shard, row group)` of each.
        frameskip: Environment steps between two frames of a window.
        num_frames_in_window: `T`.
        batch_size: Rows of every table but the last.
        seed: Seed of the order; change it every epoch.
        episode_ids: Allowed episodes (the training split); all by default.
        skip: Windows at the start of the order to leave out.
        spread: Spread the windows of each row of the shards evenly over the order. Where the row groups are a part of
            the dataset, a batch then mixes about as many episodes as one drawn from the whole dataset.

    Yields:
        Tables with the columns `episode_id` int64, `start` int64, `frames` list<binary> of `T` encoded
        frames, `actions` list<float32> `(T-1)*A`, `proprio` list<float32> `T*R`, and `sim_state`
        list<float64> `T*S` where there is one. No table where no allowed episode is long enough; `WindowIndex` refuses
        a dataset without windows.

    Raises:
        DataError: No such row group, or a damaged one.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be 1 or more, found {batch_size}")
    source = dataset if isinstance(dataset, EpisodeDataset) else EpisodeDataset(dataset)
    span = window_span(frameskip, num_frames_in_window)
    allowed = None if episode_ids is None else {int(i) for i in episode_ids}
    pieces = _Pieces(source, span, allowed)
    for number, group in sorted(groups):
        pieces.read(number, group)
    if not pieces.num_windows:
        return
    encoded, vectors = pieces.join()
    counts = np.array(pieces.num_windows)
    piece = np.repeat(np.arange(len(counts)), counts)
    # The number of each window in its piece: 0 .. n - 1, piece after piece.
    inside = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)
    ids = np.array(pieces.episode_ids)[piece]
    starts = np.array(pieces.first_frames)[piece] + inside
    rows = np.array(pieces.offsets)[piece] + inside
    order = _order(piece, counts, np.random.default_rng(seed), spread=spread)[skip:]
    frame_offsets = np.arange(num_frames_in_window) * frameskip
    action_offsets = np.arange(span - 1)
    for begin in range(0, len(order), batch_size):
        picked = order[begin : begin + batch_size]
        first = rows[picked]
        frames = first[:, None] + frame_offsets
        columns = {
            "episode_id": pa.array(ids[picked]),
            "start": pa.array(starts[picked]),
            "frames": _lists(encoded.take(pa.array(frames.reshape(-1))), num_frames_in_window),
            "actions": _lists(vectors["actions"][first[:, None] + action_offsets], None),
        }
        for name in ("proprio", "sim_state"):
            if name in vectors:
                columns[name] = _lists(vectors[name][frames], None)
        yield pa.table(columns)


def decode_window_batch(batch: pa.Table | Mapping[str, Any], spec: DatasetSpec) -> WindowBatch:
    """Decodes windows of `windows_of_groups`; call it on the training worker, as late as possible.

    Args:
        batch: A table, or a mapping of its columns to lists or arrays (as Ray Data hands batches over).
        spec: The dataset's spec.

    Returns:
        The same windows that `ShardReader` reads. Windows of one frame hold no actions to tell the frameskip
        from: there `actions` is `[B,0,a]`.

    Raises:
        DataError: A column is missing, windows of unequal length, or a frame that cannot be decoded.
    """
    names = batch.column_names if isinstance(batch, pa.Table) else list(batch)
    needed = ["episode_id", "start", "frames", *spec.widths]
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"decode_window_batch: columns {missing} are missing, found {sorted(names)}")
    episode_ids = np.asarray(batch["episode_id"], dtype=np.int64)
    starts = np.asarray(batch["start"], dtype=np.int64)
    count = len(starts)
    frames = _frames_of(batch["frames"])
    if count == 0 or len(frames) % count:
        raise DataError(f"decode_window_batch: {len(frames)} frames in {count} windows; windows must be equally long")
    length = len(frames) // count
    pixels = np.empty((count, length, *spec.pixels.shape), dtype=np.uint8)
    for i, data in enumerate(frames):
        b, t = divmod(i, length)
        try:
            decode_frame(data, spec.pixels.codec, pixels[b, t])
        except FrameError as error:
            raise DataError(
                f"episode {episode_ids[b]}, window from frame {starts[b]}, its frame {t}: {error}"
            ) from error

    def vector(name: str, rows: int) -> np.ndarray:
        dtype = np.float64 if name == "sim_state" else np.float32
        column = batch[name]
        if isinstance(column, pa.ChunkedArray):
            values = list_values(column)[0].to_numpy(zero_copy_only=False)
        else:
            values = np.concatenate([np.asarray(row, dtype=dtype).reshape(-1) for row in column])
        if rows == 0 or not spec.widths[name]:
            return np.empty((count, rows, spec.widths[name]), dtype=dtype)
        if values.size == 0 or values.size % (count * rows):
            raise DataError(f"decode_window_batch: '{name}' holds {values.size} numbers for {count} windows of {rows}")
        return np.array(values, dtype=dtype).reshape(count, rows, -1)

    return WindowBatch(
        pixels=pixels,
        actions=vector("actions", length - 1),
        proprio=vector("proprio", length),
        sim_state=vector("sim_state", length) if spec.sim_state is not None else None,
        episode_ids=episode_ids,
        starts=starts,
    )


class _Pieces:
    """Parts of episodes, one after the other: the frames of the windows that start in one row of a shard.

    Args:
        source: The dataset.
        span: Recorded frames that a window covers.
        allowed: Episodes to read; None: all.

    Attributes:
        episode_ids: Of each piece.
        first_frames: First frame of each piece in its episode.
        num_windows: Windows that start in each piece.
        offsets: First row of each piece in what `join` returns.
    """

    def __init__(self, source: EpisodeDataset, span: int, allowed: set[int] | None) -> None:
        self._source = source
        self._span = span
        self._allowed = allowed
        self._names = list(source.spec.widths)
        self._frames: list[pa.Array] = []
        self._vectors: dict[str, list[np.ndarray]] = {name: [] for name in self._names}
        self._total = 0
        # The last row groups that were read: the windows of a row may end in the next row group.
        self._read: dict[tuple[int, int], tuple[list[Chunk], Any, np.ndarray]] = {}
        self.episode_ids: list[int] = []
        self.first_frames: list[int] = []
        self.num_windows: list[int] = []
        self.offsets: list[int] = []

    def read(self, number: int, group: int) -> None:
        """Adds the pieces of a row group."""
        for index, chunk in enumerate(self._group(number, group)[0]):
            if self._allowed is not None and chunk.episode_id not in self._allowed:
                continue
            left = self._source.num_frames(chunk.episode_id) - self._span + 1 - chunk.first_frame
            windows = min(chunk.num_frames, left)
            if windows <= 0:
                continue
            self.episode_ids.append(chunk.episode_id)
            self.first_frames.append(chunk.first_frame)
            self.num_windows.append(windows)
            self.offsets.append(self._total)
            self._add(number, group, index, windows + self._span - 1)

    def join(self) -> tuple[pa.Array, dict[str, np.ndarray]]:
        """Encoded frames and vectors of all pieces."""
        encoded = pa.concat_arrays([array.cast(pa.large_binary()) for array in self._frames])
        return encoded, {name: np.concatenate(parts) for name, parts in self._vectors.items()}

    def _add(self, number: int, group: int, index: int, num_frames: int) -> None:
        """Adds frames from a row on; they may go on in the rows after it."""
        while num_frames:
            chunks, values, edges = self._group(number, group)
            if index == len(chunks):
                group, index = group + 1, 0
                continue
            chunk = chunks[index]
            taken = min(num_frames, chunk.num_frames)
            self._frames.append(values.slice(int(edges[index]), taken))
            for name in self._names:
                part = getattr(chunk, name)[:taken]
                # The last frame of an episode has no action: a row that no window reads keeps all columns aligned.
                pad = taken - len(part)
                self._vectors[name].append(np.pad(part, ((0, pad), (0, 0))) if pad else part)
            self._total += taken
            num_frames -= taken
            index += 1

    def _group(self, number: int, group: int) -> tuple[list[Chunk], Any, np.ndarray]:
        key = (number, group)
        if key not in self._read:
            if not 0 <= number < self._source.num_shards:
                raise DataError(
                    f"{self._source.path}: there is no shard {number}, the dataset has {self._source.num_shards}"
                )
            file = self._source.shard(number)
            if not 0 <= group < file.num_groups:
                raise DataError(f"{file.path}: there is no row group {group}, the shard has {file.num_groups}")
            values, edges = list_values(file.table(group, ["frames"])["frames"])
            self._read = {kept: self._read[kept] for kept in list(self._read)[-1:]}
            self._read[key] = (file.chunks(group, self._names), values, edges)
        return self._read[key]


def _order(piece: np.ndarray, counts: np.ndarray, rng: np.random.Generator, *, spread: bool) -> np.ndarray:
    """A random order of windows; `spread`: the windows of each piece come at even distances, give or take one."""
    shuffled = rng.permutation(len(piece))
    if not spread:
        return shuffled
    # In their random order, the j-th of a piece's n windows gets a place in [j / n, (j + 1) / n).
    by_piece = shuffled[np.argsort(piece[shuffled], kind="stable")]
    inside = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = (inside + rng.random(len(piece))) / np.repeat(counts, counts)
    return np.asarray(by_piece[np.argsort(places, kind="stable")])


def _lists(values: Any, per_row: int | None) -> pa.Array:
    if isinstance(values, np.ndarray):
        rows = len(values)
        flat = pa.array(values.reshape(-1))
        offsets = np.arange(rows + 1) * (len(flat) // rows)
    else:
        assert per_row is not None
        flat = values.cast(pa.binary())
        offsets = np.arange(len(flat) // per_row + 1) * per_row
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def _frames_of(column: Any) -> list[Any]:
    if not isinstance(column, pa.ChunkedArray):
        return [frame for window in column for frame in window]
    values, edges = list_values(column)
    data, offsets = binary_views(values)
    return [data[offsets[i] : offsets[i + 1]] for i in range(int(edges[0]), int(edges[-1]))]
