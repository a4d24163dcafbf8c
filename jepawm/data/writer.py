"""Writes an episode dataset; a writer that is killed at any moment can go on later.

A shard is written under a temporary name, synced to disk, and renamed: a file called `shard-*.parquet` is
always whole. A kill costs the episodes of the one unfinished shard. `meta.json` says `"writing"`
until `close()`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jepawm.data.encoding import EncodedEpisode, encode_episode
from jepawm.data.episodes import INDEX_FILE, INDEX_SCHEMA, SHARD_FOLDER
from jepawm.data.meta import FORMAT, FORMAT_VERSION, META_FILE, DatasetSpec, PixelSpec, read_meta
from jepawm.data.shards import (
    CONTENT_KEY,
    ROW_GROUP_BYTES,
    TEMP_SUFFIX,
    ShardFile,
    chunk_table,
    compression,
    shard_name,
    shard_schema,
)
from jepawm.data.statistics import moments_of, statistics_of
from jepawm.errors import DataError
from jepawm.types import Episode

LOCK_FILE = ".writer.lock"
_SHARDS = "shard-*.parquet"
MAX_SHARD_BYTES = 128 * 1024 * 1024


def fsync_path(path: Path) -> None:
    """Makes a file, or the names in a folder, survive a power cut."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder, and journals its names by itself.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(temporary: Path, final: Path) -> None:
    """Gives a written file its final name, at once and durably."""
    fsync_path(temporary)
    os.replace(temporary, final)
    fsync_path(final.parent)


def validate_episode(episode: EncodedEpisode, spec: DatasetSpec) -> None:
    """Refuses an episode that breaks the contract.

    Raises:
        DataError: Names the episode, the field, what was expected and what was found.
    """

    def fail(name: str, message: str) -> None:
        raise DataError(f"episode {episode.episode_id}: {name}: {message}")

    if isinstance(episode.episode_id, bool) or not isinstance(episode.episode_id, (int, np.integer)):
        fail("episode_id", f"expected an integer, found {episode.episode_id!r}")
    if not 0 <= episode.episode_id < 2**63:
        fail("episode_id", "expected 0 or larger, below 2**63")
    frames = episode.num_frames
    if frames < 2:
        fail("pixels", f"an episode needs at least 2 frames, found {frames}")
    if episode.pixels_shape != spec.pixels.shape:
        fail("pixels", f"expected shape {(frames, *spec.pixels.shape)}, found {(frames, *episode.pixels_shape)}")
    if episode.codec != spec.pixels.codec:
        fail("pixels", f"are encoded with '{episode.codec}', the dataset's codec is '{spec.pixels.codec}'")
    expected: dict[str, tuple[Any, type, tuple[int, ...]]] = {
        "actions": (episode.actions, np.float32, ((frames - 1) * spec.env_steps_per_frame, spec.action.dim)),
        "proprio": (episode.proprio, np.float32, (frames, spec.proprio.dim)),
    }
    if spec.sim_state is not None:
        if episode.sim_state is None:
            fail("sim_state", f"is None, the dataset's spec has {spec.sim_state.dim} numbers a frame")
        expected["sim_state"] = (episode.sim_state, np.float64, (frames, spec.sim_state.dim))
    elif episode.sim_state is not None:
        fail("sim_state", "is given, the dataset's spec has none")
    for name, (array, dtype, shape) in expected.items():
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            fail(name, f"expected {np.dtype(dtype)}, found {found}")
        if array.shape != shape:
            fail(name, f"expected shape {shape} ({frames} frames), found {array.shape}")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            fail(name, f"holds NaN or infinity, first at row {row}: {array[row].tolist()}")
    try:
        json.dumps(episode.info, allow_nan=False)
    except (TypeError, ValueError) as error:
        fail("info", f"cannot be stored as JSON: {error}")


class WriterBusyError(DataError):
    """Another process is writing the dataset."""


def discard_dataset(path: str | os.PathLike[str], *, only_without_shards: bool = False) -> None:
    """Deletes an unfinished dataset.

    Args:
        path: Its folder; nothing happens where there is none.
        only_without_shards: Leave it alone if it holds a finished shard.

    Raises:
        WriterBusyError: Another process is writing it.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    if not path.is_dir():
        return
    doomed = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        # Renamed under the lock, so that another process finds either the whole dataset or none.
        with FileLock(path / LOCK_FILE, timeout=0):
            if only_without_shards and any((path / SHARD_FOLDER).glob(_SHARDS)):
                return
            os.replace(path, doomed)
    except Timeout:
        raise WriterBusyError(f"{path}: another process is writing this dataset") from None
    shutil.rmtree(doomed, ignore_errors=True)


class _OpenShard:
    """The shard being written, under its temporary name."""

    def __init__(self, folder: Path, number: int, codec: str, schema: pa.Schema) -> None:
        self.number = number
        self.rows = self.frames = self.bytes = 0
        self._final = folder / shard_name(number)
        self._temporary = folder / (shard_name(number) + TEMP_SUFFIX)
        self._digest = hashlib.blake2b(digest_size=16)
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        has_sim_state = "sim_state" in schema.names
        # Readers never select rows by value, so column statistics and dictionaries would only cost time and
        # space.
        self._writer = pq.ParquetWriter(
            self._temporary,
            schema,
            compression=compression(codec, has_sim_state),
            use_dictionary=False,
            write_statistics=False,
        )

    def add(self, episode: EncodedEpisode, chunk_frames: int) -> None:
        encoded = episode.frames
        for frame in encoded:
            self._digest.update(frame)
        for array in (episode.actions, episode.proprio, episode.sim_state):
            if array is not None:
                self._digest.update(np.ascontiguousarray(array).data)
        self._digest.update(str(int(episode.episode_id)).encode())
        table = chunk_table(episode, chunk_frames)
        sizes = np.fromiter((len(frame) for frame in encoded), dtype=np.int64, count=len(encoded))
        for row in range(table.num_rows):
            self._pending.append(table.slice(row, 1))
            self._pending_bytes += int(sizes[row * chunk_frames : (row + 1) * chunk_frames].sum())
            if self._pending_bytes >= ROW_GROUP_BYTES:
                self._flush()
        self.rows += table.num_rows
        self.frames += len(encoded)
        self.bytes += int(sizes.sum())

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
            self._pending, self._pending_bytes = [], 0

    def publish(self) -> None:
        self._flush()
        self._writer.add_key_value_metadata({CONTENT_KEY.decode(): self._digest.hexdigest()})
        self._writer.close()
        publish(self._temporary, self._final)

    def discard(self) -> None:
        self._writer.close()
        self._temporary.unlink(missing_ok=True)


class EpisodeWriter:
    """Appends episodes to a dataset; one writer at a time.

    ```python
    with EpisodeWriter(path, spec) as writer:
        for episode in episodes:
            writer.write(episode)
    ```
    Leaving the block without an exception closes the dataset. After an exception (or Ctrl-C) the episodes
    written so far are kept, the dataset stays unfinished, and `resume=True` goes on.

    Args:
        path: Folder to create.
        spec: What the dataset holds.
        codec: Overrides `spec.pixels.codec`.
        shard_frames: A shard is closed once it holds this many frames (or 128 MiB). A kill costs at most one shard.
        chunk_frames: Frames per row, see `episodes.py`.
        resume: Go on with an existing dataset of the same spec; creates it if there is none.
        wait: Wait for another process that writes to it, instead of refusing.

    Raises:
        DataError: The path exists (without `resume`), cannot be written, or belongs to another spec.
        WriterBusyError: Another process writes to it (without `wait`).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: DatasetSpec,
        *,
        codec: str | None = None,
        shard_frames: int = 4096,
        chunk_frames: int = 64,
        resume: bool = False,
        wait: bool = False,
    ) -> None:
        from filelock import FileLock, Timeout

        if codec is not None:
            shape = spec.pixels
            pixels = PixelSpec(shape.height, shape.width, shape.channels, codec)
            spec = DatasetSpec(**{**spec.__dict__, "pixels": pixels})
        if shard_frames < 1 or chunk_frames < 1:
            raise DataError(f"shard_frames and chunk_frames must be 1 or more, found {shard_frames}, {chunk_frames}")
        self.path = Path(path)
        self.spec = spec
        self.shard_frames = shard_frames
        self.chunk_frames = chunk_frames
        self._schema = shard_schema(spec.sim_state is not None)
        self._shard: _OpenShard | None = None
        self._next_shard = 0
        self._index: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
        self._seen: set[int] = set()
        self._moments = moments_of(spec)
        self._state = "open"
        self._complete = False
        entries = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        if self.path.is_file() or (entries and not resume):
            raise DataError(f"{self.path}: already exists; pass resume=True to go on with it, or choose another path")
        # A writer killed before its first meta.json leaves these files. A folder with other files is not a dataset.
        if META_FILE not in entries and entries - {SHARD_FOLDER, LOCK_FILE, META_FILE + TEMP_SUFFIX}:
            raise DataError(f"{self.path}: is not a dataset (no {META_FILE}) and not empty; choose another path")
        self._lock = FileLock(self.path / LOCK_FILE, timeout=-1 if wait else 0)
        try:
            (self.path / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise WriterBusyError(
                f"{self.path}: another process is writing this dataset; wait for it or stop it"
            ) from None
        except OSError as error:
            raise DataError(f"{self.path}: no dataset can be written here: {error}; choose another path") from error
        try:
            self._start()
        except BaseException:
            self._lock.release()
            raise

    @property
    def finished_episode_ids(self) -> frozenset[int]:
        """Ids that need not be written again: those resumed from finished shards, and those written since."""
        return frozenset(self._seen)

    def finished_infos(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Id and `info` of each episode of `finished_episode_ids`."""
        for episode_id, info in zip(self._index["episode_id"], self._index["info"], strict=True):
            yield episode_id, json.loads(info) if info else {}

    def set_source(self, source: dict[str, Any]) -> None:
        """Replaces what `meta.json` says about the origin of the data; written when the dataset is closed.

        Args:
            source: JSON-able, see `DatasetSpec.source`.
        """
        self.spec = replace(self.spec, source=source)

    def write(self, episode: Episode | EncodedEpisode) -> None:
        """Validates, encodes (unless it is encoded already) and appends one episode.

        Raises:
            DataError: The episode breaks the contract, its id was written before, or the writer is closed.
        """
        if self._state != "open":
            raise DataError(f"{self.path}: this writer is {self._state}; no more episodes can be written")
        if isinstance(episode, Episode):
            episode = encode_episode(episode, self.spec.pixels.codec)
        validate_episode(episode, self.spec)
        if int(episode.episode_id) in self._seen:
            raise DataError(f"episode {episode.episode_id}: episode_id: was written before in {self.path}")
        if self._complete:
            self._write_meta("writing")
            self._complete = False
        try:
            if self._shard is None:
                folder = self.path / SHARD_FOLDER
                self._shard = _OpenShard(folder, self._next_shard, self.spec.pixels.codec, self._schema)
                self._next_shard += 1
            first_row = self._shard.rows
            self._shard.add(episode, self.chunk_frames)
            values = (self._shard.number, first_row, self._shard.rows - first_row, episode.num_frames)
            self._record(int(episode.episode_id), *values, json.dumps(episode.info, sort_keys=True))
            self._moments["actions"].update(episode.actions)
            self._moments["proprio"].update(episode.proprio)
            if self._shard.frames >= self.shard_frames or self._shard.bytes >= MAX_SHARD_BYTES:
                self._publish_shard()
        except BaseException:
            # The open shard may hold half an episode: it must not be published.
            self._state = "broken by an earlier error"
            raise

    def close(self) -> None:
        """Publishes the last shard, the index and the statistics, and marks the dataset complete.

        Raises:
            DataError: No episode was written, or an earlier error broke the writer.
        """
        if self._state == "closed":
            return
        try:
            if self._state != "open":
                raise DataError(f"{self.path}: this writer is {self._state}; write again with resume=True")
            self._publish_shard()
            if not self._seen:
                raise DataError(f"{self.path}: no episode was written")
            if not self._complete:
                index = pa.table(self._index, schema=INDEX_SCHEMA)
                temporary = self.path / (INDEX_FILE + TEMP_SUFFIX)
                pq.write_table(index, temporary)
                publish(temporary, self.path / INDEX_FILE)
                self._write_meta("complete")
        finally:
            self._release()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        try:
            if self._state == "open":
                self._publish_shard()
            elif self._shard is not None:
                self._shard.discard()
        finally:
            self._release()

    def _start(self) -> None:
        for leftover in [
            *self.path.glob("*" + TEMP_SUFFIX),
            *(self.path / SHARD_FOLDER).glob("*" + TEMP_SUFFIX),
        ]:
            leftover.unlink()
        if not (self.path / META_FILE).exists():
            self._write_meta("writing")
            return
        meta = read_meta(self.path)
        wanted = {**self.spec.to_meta(), "chunk_frames": self.chunk_frames}
        # Name and source may change when a writer goes on; the meaning of the bytes may not.
        for key in ("control_hz", "chunk_frames", "pixels", "action", "proprio", "sim_state", "env_steps_per_frame"):
            here = json.loads(json.dumps(wanted.get(key)))
            if here != meta.get(key):
                raise DataError(
                    f"{self.path / META_FILE}: cannot resume, '{key}' is {meta.get(key)} on disk and {here} here"
                )
        self._complete = meta["status"] == "complete" and (self.path / INDEX_FILE).is_file()
        for shard_path in sorted((self.path / SHARD_FOLDER).glob(_SHARDS)):
            if shard_path.name != shard_name(self._next_shard):
                missing = shard_name(self._next_shard)
                raise DataError(f"{shard_path.parent / missing}: shard is missing, but {shard_path.name} is there")
            self._read_shard(shard_path)
            self._next_shard += 1

    def _read_shard(self, shard_path: Path) -> None:
        shard = ShardFile(shard_path, self.spec.widths)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self._moments}
        for group in range(shard.num_groups):
            infos = shard.table(group, ["info"])["info"].to_pylist()
            for chunk, info in zip(shard.chunks(group, list(parts)), infos, strict=True):
                if chunk.first_frame == 0:
                    if chunk.episode_id in self._seen:
                        raise DataError(f"{shard_path}: row {chunk.row}: episode {chunk.episode_id} is there twice")
                    self._update_moments(parts)
                    self._record(chunk.episode_id, self._next_shard, chunk.row, 0, 0, info)
                self._index["num_rows"][-1] += 1
                self._index["num_frames"][-1] += chunk.num_frames
                for name, arrays in parts.items():
                    arrays.append(getattr(chunk, name))
        self._update_moments(parts)

    def _update_moments(self, parts: dict[str, list[np.ndarray]]) -> None:
        # Updated by whole episodes, as in `write`, so that a resumed dataset has the same statistics to the last bit.
        for name, arrays in parts.items():
            if arrays:
                self._moments[name].update(np.concatenate(arrays))
                arrays.clear()

    def _record(self, episode_id: int, shard: int, first_row: int, rows: int, frames: int, info: str) -> None:
        self._seen.add(episode_id)
        for name, value in zip(INDEX_SCHEMA.names, (episode_id, shard, first_row, rows, frames, info), strict=True):
            self._index[name].append(value)

    def _publish_shard(self) -> None:
        if self._shard is not None:
            shard, self._shard = self._shard, None
            shard.publish()

    def _write_meta(self, status: str) -> None:
        statistics = None
        if status == "complete":
            moments = self._moments
            statistics = statistics_of(moments["actions"], moments["proprio"], self.spec, str(self.path)).to_dict()
        meta = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "status": status,
            **self.spec.to_meta(),
            "chunk_frames": self.chunk_frames,
            "statistics": statistics,
            "num_episodes": len(self._seen) if status == "complete" else 0,
            "num_frames": sum(self._index["num_frames"]) if status == "complete" else 0,
        }
        temporary = self.path / (META_FILE + TEMP_SUFFIX)
        temporary.write_text(json.dumps(meta, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        publish(temporary, self.path / META_FILE)

    def _release(self) -> None:
        self._state = "closed"
        self._lock.release()


def finish_dataset(path: str | os.PathLike[str]) -> None:
    """Completes a dataset whose writer was stopped, with the episodes that its finished shards hold.

    Also rebuilds a missing `episodes.parquet`.

    Raises:
        DataError: Not a dataset, a damaged shard, or no episode at all.
    """
    meta = read_meta(Path(path))
    spec = DatasetSpec.from_meta(meta)
    EpisodeWriter(path, spec, chunk_frames=meta["chunk_frames"], resume=True).close()
