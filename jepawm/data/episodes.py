"""The on-disk contract of an episode dataset, and the reader of whole episodes.

```
DATASET/
  meta.json                    description of the dataset; `status` says whether it is finished
  episodes.parquet             one row per episode; written last, can be rebuilt from the shards
  shards/shard-00000.parquet   the data; whole episodes only, numbered from 0 without gaps
```

An episode has `F >= 2` frames and `F - 1` actions: `actions[t]` leads from frame `t` to frame `t + 1`. A dataset may
hold a frame every `k` environment steps instead (`env_steps_per_frame`); then `k` actions lead from one frame to the
next, and `a` in the table of columns below is `k` times as wide.
Everything is in raw units; normalisation belongs to training. Nothing in a dataset is pickled.

`meta.json` (JSON, UTF-8):

| key | value |
|---|---|
| `format` | `"jepawm-episodes"` |
| `format_version` | `1`; a reader refuses a larger number |
| `status` | `"writing"` until the writer closed it, then `"complete"` |
| `name` | a short name |
| `control_hz` | environment steps per second, above 0 |
| `chunk_frames` | frames in every chunk but the last of an episode |
| `pixels` | `{"height", "width", "channels", "codec"}`; codecs in `codecs.py` |
| `action` | `ActionSpec.to_dict()`: `dim`, `low`, `high` (null = unbounded), `max_norm`, `names`, `units` |
| `proprio` | `VectorSpec.to_dict()`: `dim`, `names` |
| `sim_state` | the same, or null where there is no simulator |
| `statistics` | `Statistics.to_dict()` over all episodes; null while writing |
| `num_episodes`, `num_frames` | totals; 0 while writing |
| `env_steps_per_frame` | only where it is above 1: environment steps between two recorded frames |
| `source` | origin of the data, any JSON object; see `importers/conversion.py` for converted data |

`shards/*.parquet`: a row is one chunk of one episode. The chunks of an episode are consecutive rows of one
shard.

| column | type | content |
|---|---|---|
| `episode_id` | int64 | unique in the dataset, 0 or larger |
| `chunk`, `num_chunks` | int32 | number of this chunk in its episode, and how many there are |
| `first_frame` | int64 | `chunk * chunk_frames` |
| `num_frames` | int32 | frames in this chunk, `n` |
| `frames` | list<binary> | `n` encoded frames, RGB or grey, each decodable on its own |
| `actions` | list<float32> | `n * a` numbers, row-major; `(n - 1) * a` in the last chunk |
| `proprio` | list<float32> | `n * R` numbers |
| `sim_state` | list<float64> | `n * S` numbers; the column is absent where `meta.json` has null |
| `info` | string | JSON facts about the episode, in its first chunk; empty in the others |

Row groups are one row, or a few while rows are small, so that a random window reads little. `EpisodeWriter`
also puts a hash of the rows into the footer (key `jepawm.content`), which keeps the fingerprint of a copied
dataset.

`episodes.parquet`: `episode_id` int64, `shard` int32, `first_row` int64, `num_rows` int32, `num_frames`
int64, `info` string.

`jepawm data check PATH` names every violation with file and row.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jepawm.data.codecs import FrameError, decode_frames
from jepawm.data.meta import FORMAT_VERSION, DatasetSpec, PixelSpec, read_meta
from jepawm.data.shards import LOW_DIM, Chunk, ShardFile, shard_name
from jepawm.errors import DataError, did_you_mean
from jepawm.types import Episode, Statistics

__all__ = ["DatasetSpec", "EpisodeDataset", "PixelSpec", "count_finished", "read_index"]

INDEX_FILE = "episodes.parquet"
SHARD_FOLDER = "shards"
INDEX_SCHEMA = pa.schema(
    [
        ("episode_id", pa.int64()),
        ("shard", pa.int32()),
        ("first_row", pa.int64()),
        ("num_rows", pa.int32()),
        ("num_frames", pa.int64()),
        ("info", pa.string()),
    ]
)


def read_index(path: Path) -> pa.Table:
    """Reads `episodes.parquet`.

    Raises:
        DataError: Missing or unreadable; says how to rebuild it.
    """
    index_path = path / INDEX_FILE
    how = "rebuild it with jepawm.data.finish_dataset(path)"
    if not index_path.is_file():
        raise DataError(f"{index_path}: the episode index is missing; {how}")
    try:
        table = pq.read_table(index_path, use_threads=False)
        return table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"{index_path}: the episode index cannot be read: {error}; {how}") from error


def count_finished(path: Path) -> tuple[int, int]:
    """Episodes and frames in the finished shards of a dataset that is still being written."""
    episodes = frames = 0
    for shard in sorted((path / SHARD_FOLDER).glob("shard-*.parquet")):
        try:
            table = pq.read_table(shard, columns=["chunk", "num_frames"], use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{shard}: shard is damaged; delete it to have its episodes written again") from error
        episodes += int(np.count_nonzero(table["chunk"].to_numpy() == 0))
        frames += int(table["num_frames"].to_numpy().sum())
    return episodes, frames


class EpisodeDataset:
    """A finished dataset: its spec, and its episodes by id. A pickled copy reopens the dataset from its path.

    Args:
        path: The dataset folder.

    Attributes:
        path: The dataset folder.
        spec: Description of the dataset.
        statistics: Mean and std over all episodes, from `meta.json`. For a train split see
            `compute_statistics`.
        chunk_frames: Frames per chunk.
        episode_ids: `[E]` int64, in the order they were written.
        num_frames_each: `[E]` int64, frames of each of them.

    Raises:
        DataError: Missing folder, not a dataset, unfinished, newer format, or a missing shard.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        meta = read_meta(self.path)
        if meta["status"] != "complete":
            episodes, frames = count_finished(self.path)
            raise DataError(
                f"{self.path}: this dataset was not finished; its shards hold {episodes} complete episodes "
                f"({frames} frames). Go on writing with EpisodeWriter(path, spec, resume=True), or keep what "
                "is there "
                "with jepawm.data.finish_dataset(path)"
            )
        self.spec = DatasetSpec.from_meta(meta)
        self.statistics = Statistics.from_dict(meta["statistics"])
        self.chunk_frames: int = meta["chunk_frames"]
        index = read_index(self.path)
        self.episode_ids = index["episode_id"].to_numpy().copy()
        self.num_frames_each = index["num_frames"].to_numpy().copy()
        self._shard = index["shard"].to_numpy()
        self._first_row = index["first_row"].to_numpy()
        self._num_rows = index["num_rows"].to_numpy()
        self._info = index["info"]
        self._position = {int(episode_id): i for i, episode_id in enumerate(self.episode_ids)}
        self._open: dict[int, ShardFile] = {}
        self._fingerprint: str | None = None
        missing = [n for n in np.unique(self._shard) if not self.shard_path(int(n)).is_file()]
        if missing:
            lost = int(np.isin(self._shard, missing).sum())
            raise DataError(
                f"{self.shard_path(int(missing[0]))}: shard is missing ({len(missing)} missing in all, with "
                f"{lost} of "
                f"{len(self.episode_ids)} episodes); copy it again"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return (EpisodeDataset, (str(self.path),))

    def __len__(self) -> int:
        return len(self.episode_ids)

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return int(self._shard.max()) + 1 if len(self._shard) else 0

    @property
    def fingerprint(self) -> str:
        """A hash of the content: equal for a copy, different after any change to the spec or the shards.

        Hashes the spec and each shard's size and footer. The footer holds a hash of the rows. A shard
        of another program may lack it; the hash then includes the file's modification time.
        """
        if self._fingerprint is None:
            meta = {key: value for key, value in self.spec.to_meta().items() if key not in ("name", "source")}
            digest = hashlib.blake2b(json.dumps([FORMAT_VERSION, meta], sort_keys=True).encode(), digest_size=16)
            for number in range(self.num_shards):
                shard = self.shard(number)
                stat = os.stat(shard.path)
                stamp = 0 if shard.has_content_key else stat.st_mtime_ns
                digest.update(f"{shard.path.name} {stat.st_size} {stamp} ".encode() + shard.footer())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def shard_path(self, number: int) -> Path:
        """Path of a shard file."""
        return self.path / SHARD_FOLDER / shard_name(number)

    def shard(self, number: int) -> ShardFile:
        """An open shard; opened once."""
        if number not in self._open:
            self._open[number] = ShardFile(self.shard_path(number), self.spec.widths)
        return self._open[number]

    def position(self, episode_id: int) -> int:
        """Row of an episode in the index.

        Raises:
            DataError: No such episode.
        """
        try:
            return self._position[int(episode_id)]
        except KeyError:
            raise DataError(
                f"{self.path}: there is no episode {episode_id}; the dataset holds {len(self)} episodes with "
                "ids "
                f"{self.episode_ids.min()} to {self.episode_ids.max()}"
            ) from None

    @property
    def env_steps_per_frame(self) -> int:
        """Environment steps between two recorded frames."""
        return self.spec.env_steps_per_frame

    def num_frames(self, episode_id: int) -> int:
        """Frames of one episode."""
        return int(self.num_frames_each[self.position(episode_id)])

    def info(self, episode_id: int) -> dict[str, Any]:
        """The facts stored with an episode."""
        return dict(json.loads(self._info[self.position(episode_id)].as_py() or "{}"))

    def location(self, episode_id: int) -> tuple[int, int, int]:
        """`(shard, first_row, num_rows)` of an episode."""
        i = self.position(episode_id)
        return int(self._shard[i]), int(self._first_row[i]), int(self._num_rows[i])

    def episodes_of_shard(self, number: int) -> np.ndarray:
        """Ids of the episodes in one shard, in row order."""
        return np.asarray(self.episode_ids[self._shard == number])

    def chunks(self, episode_id: int, columns: Sequence[str]) -> list[Chunk]:
        """The chunks of one episode in order.

        Raises:
            DataError: The shard is damaged, or its rows belong to another episode.
        """
        number, first_row, num_rows = self.location(episode_id)
        shard = self.shard(number)
        found: list[Chunk] = []
        row = first_row
        while row < first_row + num_rows:
            group = shard.group_of(row)
            rows = shard.chunks(group, columns)
            start = row - shard.first_row(group)
            found += rows[start : start + first_row + num_rows - row]
            row = shard.first_row(group) + len(rows)
        for chunk in found:
            if chunk.episode_id != int(episode_id):
                raise DataError(
                    f"{shard.path}: row {chunk.row} belongs to episode {chunk.episode_id}, the index says "
                    f"{episode_id}; "
                    "run `jepawm data check`"
                )
        return found

    def iter_chunks(
        self, columns: Sequence[str], episode_ids: Sequence[int] | np.ndarray | None = None
    ) -> Iterator[tuple[ShardFile, Chunk]]:
        """Chunks of many episodes in the order of the shards, reading each row group once."""
        wanted = None if episode_ids is None else {int(i) for i in episode_ids}
        for unknown in (wanted or set()) - self._position.keys():
            self.position(unknown)
        for number in range(self.num_shards):
            if wanted is not None and wanted.isdisjoint(self.episodes_of_shard(number).tolist()):
                continue
            shard = self.shard(number)
            for chunk in shard.iter_chunks(columns):
                if wanted is None or chunk.episode_id in wanted:
                    yield shard, chunk

    def read_column(self, name: str, episode_id: int) -> np.ndarray:
        """One vector column of one episode, without touching its images.

        Args:
            name: `"actions"` `[(F-1)*k,a]` float32, one row an environment step (`k` is `env_steps_per_frame`),
                `"proprio"` `[F,R]` float32, or `"sim_state"` `[F,S]` float64.
            episode_id: The episode.

        Raises:
            DataError: Unknown column or episode, or a dataset without `sim_state`.
        """
        if name not in LOW_DIM:
            raise DataError(f"unknown column '{name}'{did_you_mean(name, LOW_DIM)}")
        if name not in self.spec.widths:
            raise DataError(f"{self.path}: this dataset has no column '{name}'")
        values = np.concatenate([getattr(chunk, name) for chunk in self.chunks(episode_id, [name])])
        return self._actions_each(values) if name == "actions" else values

    def read_episode(self, episode_id: int) -> Episode:
        """One whole episode, decoded.

        Raises:
            DataError: Unknown episode, or a frame that cannot be decoded (names file, row and frame).
        """
        columns = ["frames", *self.spec.widths]
        chunks = self.chunks(episode_id, columns)
        pixels = []
        for chunk in chunks:
            assert chunk.frames is not None
            try:
                pixels.append(decode_frames(chunk.frames, self.spec.pixels.codec, self.spec.pixels.shape))
            except FrameError as error:
                path = self.shard_path(self.location(episode_id)[0])
                raise DataError(f"{path}: row {chunk.row} (episode {episode_id}): {error}") from error
        vectors = {name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in self.spec.widths}
        vectors["actions"] = self._actions_each(vectors["actions"])
        return Episode(int(episode_id), np.concatenate(pixels), info=self.info(episode_id), **vectors)

    def _actions_each(self, rows: np.ndarray) -> np.ndarray:
        """`[(F-1)*k,a]`, one row an environment step, from `[F-1,k*a]`."""
        return rows.reshape(len(rows) * self.env_steps_per_frame, self.spec.action.dim)
