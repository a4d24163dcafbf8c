"""A shard file: whole episodes, each row a chunk of frames. `episodes.py` documents the columns."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jepawm.data.encoding import EncodedEpisode
from jepawm.errors import DataError, first_line

LOW_DIM = ("actions", "proprio", "sim_state")
KEYS = ("episode_id", "chunk", "num_chunks", "first_frame", "num_frames")
TEMP_SUFFIX = ".tmp"
CONTENT_KEY = b"jepawm.content"

# Small rows share a row group up to this size, so that a footer stays small and a random read stays short.
ROW_GROUP_BYTES = 256 * 1024


def shard_schema(has_sim_state: bool) -> pa.Schema:
    """The Arrow schema of every shard of a dataset."""
    fields = [
        pa.field("episode_id", pa.int64()),
        pa.field("chunk", pa.int32()),
        pa.field("num_chunks", pa.int32()),
        pa.field("first_frame", pa.int64()),
        pa.field("num_frames", pa.int32()),
        pa.field("frames", pa.list_(pa.binary())),
        pa.field("actions", pa.list_(pa.float32())),
        pa.field("proprio", pa.list_(pa.float32())),
    ]
    if has_sim_state:
        fields.append(pa.field("sim_state", pa.list_(pa.float64())))
    fields.append(pa.field("info", pa.string()))
    return pa.schema(fields)


def compression(codec: str, has_sim_state: bool) -> dict[str, str]:
    """Parquet compression per column: frames that are already encoded are stored as they are."""
    columns = dict.fromkeys((*KEYS, "info"), "zstd")
    columns |= {f"{name}.list.element": "zstd" for name in LOW_DIM if has_sim_state or name != "sim_state"}
    columns["frames.list.element"] = "zstd" if codec == "raw" else "none"
    return columns


def shard_name(number: int) -> str:
    """File name of the shard with this number."""
    return f"shard-{number:05d}.parquet"


class EncodedFrames(Sequence[np.ndarray]):
    """The encoded frames of a chunk, as views into one Arrow buffer; decoding makes the first copy."""

    def __init__(self, data: np.ndarray, offsets: np.ndarray) -> None:
        self._data = data
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def nbytes(self) -> int:
        """Encoded size in bytes."""
        return int(self._offsets[-1] - self._offsets[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._data[self._offsets[index] : self._offsets[index + 1]]


@dataclass(frozen=True)
class Chunk:
    """One row of a shard. Columns that were not asked for are None.

    Attributes:
        row: Row in its shard.
        episode_id: Episode it belongs to.
        first_frame: Index of its first frame in the episode.
        num_frames: Its number of frames `n`.
        frames: `n` encoded frames.
        actions: `[n,k*a]` float32, a row holds the actions up to the next frame; `[n-1,k*a]` in the last chunk of an
            episode. `k` is `DatasetSpec.env_steps_per_frame`.
        proprio: `[n,R]` float32.
        sim_state: `[n,S]` float64.
    """

    row: int
    episode_id: int
    first_frame: int
    num_frames: int
    frames: EncodedFrames | None = None
    actions: np.ndarray | None = None
    proprio: np.ndarray | None = None
    sim_state: np.ndarray | None = None

    @property
    def encoded_bytes(self) -> int:
        """Memory that the chunk keeps, in bytes."""
        vectors = (self.actions, self.proprio, self.sim_state)
        total = sum(array.nbytes for array in vectors if array is not None)
        return total + (self.frames.nbytes if self.frames is not None else 0)


def chunk_table(episode: EncodedEpisode, chunk_frames: int) -> pa.Table:
    """The rows of one episode: each chunk holds its frames and the actions that leave them."""
    frames = episode.num_frames
    starts = np.arange(0, frames, chunk_frames, dtype=np.int64)
    edges = np.append(starts, frames)

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
        offsets = np.minimum(edges, len(values)) * values.shape[1]
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values.reshape(-1), kind))

    rows = len(starts)
    columns: dict[str, Any] = {
        "episode_id": pa.array(np.full(rows, episode.episode_id, dtype=np.int64)),
        "chunk": pa.array(np.arange(rows, dtype=np.int32)),
        "num_chunks": pa.array(np.full(rows, rows, dtype=np.int32)),
        "first_frame": pa.array(starts),
        "num_frames": pa.array(np.diff(edges).astype(np.int32)),
        "frames": pa.ListArray.from_arrays(pa.array(edges, pa.int32()), pa.array(episode.frames, pa.binary())),
        "actions": lists(episode.actions.reshape(frames - 1, -1), pa.float32()),
        "proprio": lists(episode.proprio, pa.float32()),
    }
    if episode.sim_state is not None:
        columns["sim_state"] = lists(episode.sim_state, pa.float64())
    # Only the first row of an episode holds its info.
    columns["info"] = pa.array([json.dumps(episode.info, sort_keys=True, allow_nan=False)] + [""] * (rows - 1))
    return pa.table(columns, schema=shard_schema(episode.sim_state is not None))


def list_values(column: Any) -> tuple[Any, np.ndarray]:
    """Flat values and row offsets of a list column without copying the values.

    Returns:
        `(values, offsets)`: an Arrow array, of which `offsets[i]:offsets[i+1]` belong to row `i`.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array.values, array.offsets.to_numpy()


def binary_views(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Data bytes and offsets of a binary array, as NumPy views."""
    _, offsets, data = values.buffers()
    first, count = values.offset, len(values)
    edges = np.frombuffer(offsets, dtype=np.int32)[first : first + count + 1]
    bytes_view = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    return bytes_view, edges


class ShardFile:
    """Reads rows of one shard; errors name file and rows.

    Args:
        path: The Parquet file.
        widths: Width of each vector column: `{"actions": a, "proprio": R, "sim_state": S}`.

    Raises:
        DataError: Missing, truncated, or not a shard.
    """

    def __init__(self, path: Path, widths: dict[str, int]) -> None:
        self.path = path
        self.widths = widths
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except FileNotFoundError as error:
            raise DataError(f"{path}: shard is missing; copy it again, or run `jepawm data check`") from error
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path}: shard is truncated or not Parquet ({os.path.getsize(path)} bytes; no row of it can "
                "be "
                f"read): {first_line(error)}; copy it again, or delete it and rewrite its episodes"
            ) from error
        expected = shard_schema("sim_state" in widths)
        found = self._file.schema_arrow
        for field in expected:
            position = found.get_field_index(field.name)
            if position < 0:
                raise DataError(f"{path}: column '{field.name}' is missing, found {found.names}")
            if not _same_type(found.field(position).type, field.type):
                raise DataError(f"{path}: column '{field.name}' is {found.field(position).type}, expected {field.type}")
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._group_ends = np.cumsum(counts, dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Rows in the file."""
        return int(self._file.metadata.num_rows)

    @property
    def num_groups(self) -> int:
        """Row groups in the file."""
        return len(self._group_ends)

    def group_of(self, row: int) -> int:
        """The row group that holds this row.

        Raises:
            DataError: The file is shorter than the index says.
        """
        if not 0 <= row < self.num_rows:
            raise DataError(f"{self.path}: row {row} is missing, the file has {self.num_rows} rows")
        return int(np.searchsorted(self._group_ends, row, side="right"))

    def num_rows_of(self, group: int) -> int:
        """Rows of a row group."""
        return int(self._group_ends[group]) - self.first_row(group)

    def nbytes_of(self, group: int) -> int:
        """Memory that a row group takes, bytes."""
        return int(self._file.metadata.row_group(group).total_byte_size)

    def first_row(self, group: int) -> int:
        """First row of a row group."""
        return int(self._group_ends[group - 1]) if group else 0

    def table(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Reads some columns of one row group.

        Raises:
            DataError: The bytes are damaged.
        """
        try:
            return self._file.read_row_group(group, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            first, last = self.first_row(group), int(self._group_ends[group]) - 1
            where = f"row {first}" if first == last else f"rows {first} to {last}"
            raise DataError(
                f"{self.path}: {where} cannot be read, the file is damaged or truncated: {first_line(error)}"
            ) from error

    def chunks(self, group: int, columns: Sequence[str]) -> list[Chunk]:
        """The rows of one row group, with the columns asked for out of `frames`, `actions`, `proprio`,
        `sim_state`.

        Raises:
            DataError: Damaged bytes, or a row whose lengths contradict each other.
        """
        table = self.table(group, [*KEYS, *columns])
        keys = {name: table[name].to_numpy() for name in KEYS}
        lists = {name: list_values(table[name]) for name in columns}
        flat = {name: values.to_numpy(zero_copy_only=False) for name, (values, _) in lists.items() if name != "frames"}
        frame_bytes, frame_edges = binary_views(lists["frames"][0]) if "frames" in lists else (None, None)
        first_row = self.first_row(group)
        chunks = []
        for i in range(table.num_rows):
            row, n = first_row + i, int(keys["num_frames"][i])
            fields: dict[str, Any] = {}
            for name in columns:
                start, stop = int(lists[name][1][i]), int(lists[name][1][i + 1])
                if name == "frames":
                    assert frame_bytes is not None
                    assert frame_edges is not None
                    self._expect(row, name, stop - start, n)
                    fields[name] = EncodedFrames(frame_bytes, frame_edges[start : stop + 1])
                    continue
                is_last = keys["chunk"][i] + 1 == keys["num_chunks"][i]
                rows = n - 1 if name == "actions" and is_last else n
                width = self.widths[name]
                self._expect(row, name, stop - start, rows * width)
                fields[name] = flat[name][start:stop].reshape(rows, width)
            chunks.append(Chunk(row, int(keys["episode_id"][i]), int(keys["first_frame"][i]), n, **fields))
        return chunks

    def iter_chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """Every row of the file in order, reading each row group once."""
        for group in range(self.num_groups):
            yield from self.chunks(group, columns)

    def footer(self) -> bytes:
        """The Parquet footer, which names the shard's content (see `CONTENT_KEY`)."""
        with open(self.path, "rb") as file:
            file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, os.SEEK_END)
            return file.read(length)

    @property
    def has_content_key(self) -> bool:
        """Whether the footer carries a hash of the rows (every shard of `EpisodeWriter` does)."""
        return CONTENT_KEY in (self._file.metadata.metadata or {})

    def _expect(self, row: int, name: str, found: int, expected: int) -> None:
        if found != expected:
            unit = "frames" if name == "frames" else "numbers"
            raise DataError(f"{self.path}: row {row}: '{name}' holds {found} {unit}, expected {expected}")


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(found) and pa.types.is_list(expected):
        return bool(found.value_type == expected.value_type)
    return bool(found == expected)
