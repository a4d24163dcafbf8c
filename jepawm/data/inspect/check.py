"""`jepawm data check`: lists every violation of the contract in `episodes.py`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.codecs import FrameError, decode_frame
from jepawm.data.episodes import INDEX_FILE, INDEX_SCHEMA, SHARD_FOLDER, read_index
from jepawm.data.meta import FORMAT_VERSION, META_FILE, DatasetSpec, meta_problems
from jepawm.data.shards import KEYS, TEMP_SUFFIX, ShardFile, binary_views, list_values, shard_name
from jepawm.data.statistics import RunningMoments, least_deviations, moments_of
from jepawm.errors import DataError
from jepawm.types import Statistics

# Statistics are float32 of float64 sums; another order of summation changes them by less than this.
STATISTICS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        file: Path inside the dataset.
        row: Row of that file, or None where the rule is about the whole file.
        message: What was expected and what was found.
    """

    file: str
    row: int | None
    message: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file} row {self.row}"
        return f"{where}: {self.message}"


def check_dataset(path: str | os.PathLike[str], *, decode: bool = True) -> list[Violation]:
    """Reads a whole dataset and lists every violation; the list of a sound dataset is empty.

    Args:
        path: The dataset folder.
        decode: Also decode every frame, which takes most of the time.
    """
    checker = _Checker(Path(path), decode)
    checker.run()
    return checker.found


class _Checker:
    def __init__(self, path: Path, decode: bool) -> None:
        self.path = path
        self.decode = decode
        self.found: list[Violation] = []
        self.seen: dict[int, tuple[str, int]] = {}
        self.rebuilt: dict[int, list[int]] = {}
        self.moments: dict[str, RunningMoments] = {}
        self.readable = True

    def add(self, file: str, row: int | None, message: str) -> None:
        self.found.append(Violation(file, row, message))

    def run(self) -> None:
        if not self.path.is_dir():
            self.add(".", None, f"{self.path}: no such dataset folder")
            return
        meta = self._meta()
        self._leftovers()
        if meta is None:
            return
        self.spec = DatasetSpec.from_meta(meta)
        self.chunk_frames: int = meta["chunk_frames"]
        self.moments = moments_of(self.spec)
        shards = sorted((self.path / SHARD_FOLDER).glob("shard-*.parquet"))
        if not shards:
            self.add(SHARD_FOLDER, None, "there are no shards")
        numbers = {shard.name for shard in shards}
        for number in range(len(shards)):
            if shard_name(number) not in numbers:
                self.add(
                    f"{SHARD_FOLDER}/{shard_name(number)}",
                    None,
                    "shard is missing, shards are numbered without gaps",
                )
        for shard in shards:
            self._shard(shard)
        if meta["status"] == "complete":
            self._index()
            self._totals(meta)
            self._statistics(meta)

    def _meta(self) -> dict[str, Any] | None:
        meta_path = self.path / META_FILE
        if not meta_path.is_file():
            self.add(META_FILE, None, "is missing")
            return None
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
        except ValueError as error:
            self.add(META_FILE, None, f"not valid JSON: {error}")
            return None
        problems = meta_problems(meta)
        version = meta.get("format_version") if isinstance(meta, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            problems.append(
                f"format_version {meta['format_version']} is newer than this jepawm reads ({FORMAT_VERSION})"
            )
        for problem in problems:
            self.add(META_FILE, None, problem)
        if not problems and meta["status"] != "complete":
            self.add(META_FILE, None, "status is 'writing': the dataset was not finished")
        return None if problems else dict(meta)

    def _leftovers(self) -> None:
        for leftover in sorted(self.path.rglob("*" + TEMP_SUFFIX)):
            self.add(
                str(leftover.relative_to(self.path)),
                None,
                "a temporary file that a killed writer left; delete it",
            )

    def _shard(self, path: Path) -> None:
        name = str(path.relative_to(self.path))
        number = int(path.stem.split("-")[1]) if path.stem.split("-")[1].isdigit() else -1
        try:
            shard = ShardFile(path, self.spec.widths)
        except DataError as error:
            self.readable = False
            self.add(name, None, str(error).removeprefix(f"{path}: "))
            return
        previous: tuple[int, int, int] | None = None
        for group in range(shard.num_groups):
            columns = [*KEYS, "frames", *self.spec.widths, "info"]
            try:
                table = shard.table(group, columns)
            except DataError as error:
                self.readable = False
                self.add(name, shard.first_row(group), str(error).removeprefix(f"{path}: "))
                previous = None
                continue
            if any(table[column].null_count for column in columns):
                self.readable = False
                self.add(name, shard.first_row(group), "a column holds nulls")
                continue
            keys = {key: table[key].to_numpy() for key in KEYS}
            lists = {column: list_values(table[column]) for column in ("frames", *self.spec.widths)}
            for i in range(table.num_rows):
                row = shard.first_row(group) + i
                key = {column: int(values[i]) for column, values in keys.items()}
                previous = self._order(name, number, row, key, previous)
                self._row(
                    name,
                    row,
                    key,
                    {column: (v, int(o[i]), int(o[i + 1])) for column, (v, o) in lists.items()},
                )
                self._info(name, row, key["chunk"], table["info"][i].as_py())
        self._last_chunk(name, shard.num_rows - 1, previous)

    def _order(
        self, name: str, number: int, row: int, key: dict[str, int], previous: tuple[int, int, int] | None
    ) -> tuple[int, int, int]:
        """Chunk order; returns `(episode, chunk, num_chunks)` of this row for the next one."""
        episode, chunk, chunks = key["episode_id"], key["chunk"], key["num_chunks"]
        if episode < 0:
            self.add(name, row, f"episode_id is {episode}, expected 0 or larger")
        if previous is None or previous[0] != episode:
            self._last_chunk(name, row - 1, previous)
            if episode in self.seen:
                where = "{} row {}".format(*self.seen[episode])
                self.add(name, row, f"episode {episode} is there twice, first in {where}")
            else:
                self.seen[episode] = (name, row)
                self.rebuilt[episode] = [number, row, 0, 0]
            expected = 0
        else:
            expected = previous[1] + 1
            if chunks != previous[2]:
                self.add(name, row, f"num_chunks is {chunks}, the chunk before says {previous[2]}")
        if chunk != expected:
            self.add(name, row, f"episode {episode}: chunk {chunk}, expected chunk {expected}")
        if chunk >= chunks:
            self.add(name, row, f"episode {episode}: chunk {chunk} of {chunks}")
        if key["first_frame"] != chunk * self.chunk_frames:
            self.add(name, row, f"first_frame is {key['first_frame']}, expected {chunk * self.chunk_frames}")
        if self.seen.get(episode, ("", -1))[0] == name:
            self.rebuilt[episode][2] += 1
            self.rebuilt[episode][3] += key["num_frames"]
        return episode, chunk, chunks

    def _last_chunk(self, name: str, row: int, previous: tuple[int, int, int] | None) -> None:
        if previous is not None and previous[1] + 1 != previous[2]:
            self.add(
                name,
                row,
                f"episode {previous[0]} ends with chunk {previous[1]}, expected {previous[2]} chunks",
            )

    def _row(self, name: str, row: int, key: dict[str, int], lists: dict[str, tuple[Any, int, int]]) -> None:
        n, is_last = key["num_frames"], key["chunk"] + 1 == key["num_chunks"]
        full = n == self.chunk_frames
        if not 1 <= n <= self.chunk_frames or (not is_last and not full):
            expected = f"1 to {self.chunk_frames}" if is_last else str(self.chunk_frames)
            self.add(name, row, f"num_frames is {n}, expected {expected}")
        if is_last and key["chunk"] == 0 and n == 1:
            self.add(name, row, f"episode {key['episode_id']} has 1 frame, expected at least 2")
        for column, width in self.spec.widths.items():
            values, start, stop = lists[column]
            rows = n - 1 if column == "actions" and is_last else n
            if stop - start != rows * width:
                self.add(name, row, f"'{column}' holds {stop - start} numbers, expected {rows} x {width}")
                self.readable = False
                continue
            numbers = values.slice(start, stop - start).to_numpy(zero_copy_only=False).reshape(rows, width)
            bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
            if len(bad):
                frame = key["first_frame"] + int(bad[0])
                more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
                self.add(name, row, f"'{column}' holds NaN or infinity at frame {frame}{more}")
                self.readable = False
            elif column in self.moments:
                self.moments[column].update(numbers)
        values, start, stop = lists["frames"]
        if stop - start != n:
            self.add(name, row, f"'frames' holds {stop - start} frames, num_frames is {n}")
        if self.decode:
            self._frames(name, row, key["first_frame"], values, start, stop)

    def _frames(self, name: str, row: int, first_frame: int, values: Any, start: int, stop: int) -> None:
        data, edges = binary_views(values)
        out = np.empty(self.spec.pixels.shape, dtype=np.uint8)
        for k in range(start, stop):
            try:
                decode_frame(data[edges[k] : edges[k + 1]], self.spec.pixels.codec, out)
            except FrameError as error:
                self.add(name, row, f"frame {first_frame + k - start}: {error}")

    def _info(self, name: str, row: int, chunk: int, info: str) -> None:
        if chunk > 0 or not info:
            return
        try:
            facts = json.loads(info)
        except ValueError as error:
            self.add(name, row, f"'info' is not valid JSON: {error}")
            return
        if not isinstance(facts, dict):
            self.add(name, row, f"'info' is {type(facts).__name__}, expected a JSON object")

    def _index(self) -> None:
        try:
            index = read_index(self.path)
        except DataError as error:
            self.add(INDEX_FILE, None, str(error).split(": ", 1)[1])
            return
        names = INDEX_SCHEMA.names[1:5]
        listed: set[int] = set()
        for row, entry in enumerate(index.to_pylist()):
            episode = entry["episode_id"]
            if episode in listed:
                self.add(INDEX_FILE, row, f"episode {episode} is listed twice")
            listed.add(episode)
            if episode not in self.rebuilt:
                if self.readable:
                    self.add(INDEX_FILE, row, f"episode {episode} is listed and in no shard")
                continue
            for column, value in zip(names, self.rebuilt[episode], strict=True):
                if entry[column] != value:
                    self.add(
                        INDEX_FILE,
                        row,
                        f"episode {episode}: {column} is {entry[column]}, the shards say {value}",
                    )
        for episode in sorted(self.rebuilt.keys() - listed):
            file, row = self.seen[episode]
            self.add(file, row, f"episode {episode} is not listed in {INDEX_FILE}")

    def _totals(self, meta: dict[str, Any]) -> None:
        if not self.readable:
            return
        frames = sum(entry[3] for entry in self.rebuilt.values())
        for key, value in (("num_episodes", len(self.rebuilt)), ("num_frames", frames)):
            if meta[key] != value:
                self.add(META_FILE, None, f"{key} is {meta[key]}, the shards hold {value}")

    def _statistics(self, meta: dict[str, Any]) -> None:
        stored = Statistics.from_dict(meta["statistics"])
        least = least_deviations(DatasetSpec.from_meta(meta))
        for column, prefix in (("actions", "action"), ("proprio", "proprio")):
            mean, std = self.moments[column].mean_std()
            std[std <= least[column]] = 1.0
            for kind, value in (("mean", mean), ("std", std)):
                key = f"{prefix}_{kind}"
                given = getattr(stored, key)
                if given.shape != value.shape:
                    self.add(META_FILE, None, f"statistics.{key} has {given.size} numbers, expected {value.size}")
                # Compared only where every row could be read; an unreadable row is already reported.
                elif self.readable and not np.all(
                    np.abs(given - value) <= STATISTICS_TOLERANCE * (std + np.abs(value))
                ):
                    self.add(
                        META_FILE,
                        None,
                        f"statistics.{key} is {given.tolist()}, the data give {value.tolist()}",
                    )
