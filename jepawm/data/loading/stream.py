"""Windows of one shard as Arrow tables with encoded frames: a streaming task sends them, a worker decodes them.

A shard is read once, its windows come in a seeded random order, and frames stay encoded until a batch reaches
the training worker: an encoded 224 px window is a tenth of a decoded one.
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
from jepawm.data.shards import binary_views, list_values
from jepawm.errors import DataError
from jepawm.types import WindowBatch


def windows_of_shard(
    dataset: EpisodeDataset | str | os.PathLike[str],
    shard: int,
    *,
    frameskip: int,
    num_frames_in_window: int,
    batch_size: int,
    seed: int,
    episode_ids: Sequence[int] | np.ndarray | None = None,
    windows_per_episode: int | None = None,
    drop_last: bool = False,
) -> Iterator[pa.Table]:
    """Yields the windows of one shard in a random order that depends on the seed and the shard only.

    Args:
        dataset: The dataset, or its path; a task is best sent the path.
        shard: Number of the shard, in `[0, dataset.num_shards)`.
        frameskip: Environment steps between two frames of a window.
        num_frames_in_window: `T`.
        batch_size: Rows of every table but the last.
        seed: Seed of the order and of the choice of windows; change it every epoch.
        episode_ids: Allowed episodes (the training split); all by default.
        windows_per_episode: Draw at most this many of each episode without repeats; all by default.
        drop_last: Leave out a last table that is shorter than `batch_size`.

    Yields:
        Tables with the columns `episode_id` int64, `start` int64, `frames` list<binary> of `T` encoded
        frames, `actions` list<float32> `(T-1)*A`, `proprio` list<float32> `T*R`, and `sim_state`
        list<float64> `T*S` where there is one. No table where no allowed episode of this shard is long enough;
        `WindowIndex` refuses a dataset without windows.

    Raises:
        DataError: No such shard, or a damaged one.
    """
    if batch_size < 1 or (windows_per_episode is not None and windows_per_episode < 1):
        raise DataError(
            f"batch_size and windows_per_episode must be 1 or more, found {batch_size} and {windows_per_episode}"
        )
    source = dataset if isinstance(dataset, EpisodeDataset) else EpisodeDataset(dataset)
    if not 0 <= shard < source.num_shards:
        raise DataError(f"{source.path}: there is no shard {shard}, the dataset has {source.num_shards}")
    stride = source.spec.frames_per_chunk(frameskip)
    span = window_span(stride, num_frames_in_window)
    allowed = source.episodes_of_shard(shard)
    if episode_ids is not None:
        allowed = allowed[np.isin(allowed, np.asarray(episode_ids, dtype=np.int64))]
    frames_of = np.array([source.num_frames(i) for i in allowed.tolist()], dtype=np.int64)
    allowed, frames_of = allowed[frames_of >= span], frames_of[frames_of >= span]
    if len(allowed) == 0:
        return
    episode_row, starts = _choose(allowed, frames_of - span + 1, windows_per_episode, seed)
    order = np.random.default_rng(np.random.SeedSequence([seed, shard])).permutation(len(starts))
    encoded, vectors, first_frame = _load(source, shard, allowed)
    frame_offsets = np.arange(num_frames_in_window) * stride
    action_offsets = np.arange(span - 1)
    for begin in range(0, len(order), batch_size):
        picked = order[begin : begin + batch_size]
        if drop_last and len(picked) < batch_size:
            return
        first = first_frame[episode_row[picked]] + starts[picked]
        frames = first[:, None] + frame_offsets
        columns = {
            "episode_id": pa.array(allowed[episode_row[picked]]),
            "start": pa.array(starts[picked]),
            "frames": _lists(encoded.take(pa.array(frames.reshape(-1))), num_frames_in_window),
            "actions": _lists(vectors["actions"][first[:, None] + action_offsets], None),
        }
        for name in ("proprio", "sim_state"):
            if name in vectors:
                columns[name] = _lists(vectors[name][frames], None)
        yield pa.table(columns)


def decode_window_batch(batch: pa.Table | Mapping[str, Any], spec: DatasetSpec) -> WindowBatch:
    """Decodes windows of `windows_of_shard`; call it on the training worker, as late as possible.

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


def _choose(
    episode_ids: np.ndarray, windows: np.ndarray, windows_per_episode: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`(episode_row, starts)` of the chosen windows; drawn per episode, so they do not depend on the shards."""
    starts = []
    for episode_id, count in zip(episode_ids.tolist(), windows.tolist(), strict=True):
        if windows_per_episode is None or count <= windows_per_episode:
            starts.append(np.arange(count))
        else:
            generator = np.random.default_rng(np.random.SeedSequence([seed, episode_id]))
            starts.append(generator.choice(count, size=windows_per_episode, replace=False))
    return np.repeat(np.arange(len(starts)), [len(s) for s in starts]), np.concatenate(starts)


def _load(
    source: EpisodeDataset, shard: int, allowed: np.ndarray
) -> tuple[pa.Array, dict[str, np.ndarray], np.ndarray]:
    """Encoded frames and vectors of the allowed episodes, one after the other, and the first frame of each."""
    names = list(source.spec.widths)
    file = source.shard(shard)
    frames: list[pa.Array] = []
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in names}
    first_frame: dict[int, int] = {}
    total = 0
    wanted = set(allowed.tolist())
    for group in range(file.num_groups):
        chunks = file.chunks(group, ["frames", *names])
        if wanted.isdisjoint(chunk.episode_id for chunk in chunks):
            continue
        values, edges = list_values(file.table(group, ["frames"])["frames"])
        for i, chunk in enumerate(chunks):
            if chunk.episode_id not in wanted:
                continue
            first_frame.setdefault(chunk.episode_id, total)
            total += chunk.num_frames
            frames.append(values.slice(int(edges[i]), chunk.num_frames))
            for name in names:
                part = getattr(chunk, name)
                # The last frame of an episode has no action: a row that no window reads keeps all columns
                # aligned.
                pad = chunk.num_frames - len(part)
                vectors[name].append(np.pad(part, ((0, pad), (0, 0))) if pad else part)
    encoded = pa.concat_arrays([array.cast(pa.large_binary()) for array in frames])
    joined = {name: np.concatenate(parts) for name, parts in vectors.items()}
    return encoded, joined, np.array([first_frame[i] for i in allowed.tolist()], dtype=np.int64)


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
