"""LeRobot datasets, v2.0 to v3.0: Parquet tables, and one video a camera.

`meta/info.json` names features, rate and the patterns of file names. Version 2 has a table and a video for each
episode, listed in `meta/episodes.jsonl`. Version 3 packs many episodes into a file; `meta/episodes/*/*.parquet` says
which rows of which table, and which seconds of which video, an episode is. Images may also stand in the table itself.

What is taken: one camera, `action`, and `observation.state` as proprio, as they are. The action of a row leads to the
next row, so that of the last row is dropped. A partial copy is imported as what it is: an episode of which nothing is
there is left out and named in `source`; one of which a part is there is an error.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jepawm.data.importers.base import EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.lerobot_index import ACTION, STATE, Entry, LeRobotIndex, read_table
from jepawm.data.importers.reading import decode_image, inside, outward, squared, vectors
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.data.video import iter_video
from jepawm.errors import DataError
from jepawm.types import ActionSpec, Episode, VectorSpec

_NAMED_ABSENT = 20


class LeRobot(EpisodeSource):
    """A LeRobot dataset folder.

    Raises:
        DataError: As `LeRobotIndex`, or a `control_hz`, which actions cannot follow.
        MissingDependencyError: The package `av` is not installed (when a video is read).
    """

    name = "lerobot"
    about = "LeRobot v2 and v3: Parquet tables with videos or images"

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        if options.control_hz is not None:
            raise DataError(
                f"--control-hz {options.control_hz}: an action leads from one recorded frame to the next, so frames "
                "cannot be left out without losing actions; import all of them, and set `frameskip` for training"
            )
        self._index = LeRobotIndex(self.path, options.camera, options.split)
        self._side = square_spec(*self._index.frame_size, options)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / "meta" / "info.json").is_file()

    @property
    def num_episodes(self) -> int:
        return len(self._index.entries)

    def spec(self) -> DatasetSpec:
        index = self._index
        low, high = self._bounds()
        source: dict[str, Any] = {
            "codebase_version": index.version,
            "robot_type": index.robot,
            "camera": index.camera,
            "cameras": index.cameras,
            "action_bounds": "smallest and largest recorded action, rounded outwards to two digits",
        }
        if index.absent:
            source["absent_episodes"] = {"count": len(index.absent), "first": index.absent[:_NAMED_ABSENT]}
        if index.unlisted:
            source["unlisted_episodes"] = index.unlisted
        state = index.widths.get(STATE, 0)
        return DatasetSpec(
            name=self.path.resolve().name,
            control_hz=index.fps,
            pixels=PixelSpec(self._side, self._side, 3, self.options.codec or "jpeg"),
            action=ActionSpec(index.widths[ACTION], low, high, names=index.names(ACTION)),
            proprio=VectorSpec(state, index.names(STATE) if state else ()),
            source=source,
        )

    def read(self, number: int) -> Episode:
        index, entry = self._index, self._index.entries[number]
        where = f"{entry.table}: episode {entry.index}"
        columns = [*index.widths, "frame_index", "timestamp", *([] if index.is_video else [index.camera])]
        table = read_table(entry.table, columns, entry.index)
        if table.num_rows != entry.length:
            raise DataError(f"{where}: {table.num_rows} rows, the index of episodes says {entry.length}")
        _check_order(table, index.fps, where)
        rows = {name: _rows(table, name, width, where) for name, width in index.widths.items()}
        pixels = squared(self._frames(entry, table, where), self._side)
        if len(pixels) != entry.length:
            raise DataError(f"{entry.video}: {len(pixels)} frames, {entry.table.name} has {entry.length} rows")
        info: dict[str, Any] = {"episode_index": entry.index, "task": entry.tasks[0] if entry.tasks else ""}
        if len(entry.tasks) > 1:
            info["tasks"] = list(entry.tasks)
        return Episode(
            episode_id=number,
            pixels=pixels,
            actions=rows[ACTION][:-1],
            proprio=rows.get(STATE, np.empty((len(pixels), 0), dtype=np.float32)),
            info=info,
        )

    def _frames(self, entry: Entry, table: pa.Table, where: str) -> Iterator[np.ndarray]:
        if entry.video is None:
            rows = enumerate(table[self._index.camera])
            frames: Iterable[np.ndarray] = (self._stored_image(item, f"{where}, row {t}") for t, item in rows)
        else:
            start, stop = 0, None
            if entry.first_frame is not None:
                start, stop = entry.first_frame, entry.first_frame + entry.length
            frames = iter_video(entry.video, what=f"{entry.video}: episode {entry.index}", start=start, stop=stop)
        height, width = self._index.frame_size
        for t, frame in enumerate(frames):
            if frame.shape[:2] != (height, width):
                raise DataError(
                    f"{entry.video or entry.table}: episode {entry.index}, frame {t} is {frame.shape[0]}x"
                    f"{frame.shape[1]} px, info.json says {height}x{width}"
                )
            yield frame

    def _stored_image(self, item: Any, where: str) -> np.ndarray:
        where, value = f"{where}, '{self._index.camera}'", item.as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and isinstance(value, dict) and value.get("path"):
            file = inside(self.path, str(value["path"]), where)
            if not file.is_file():
                raise DataError(f"{where}: no such file: {file}")
            data = file.read_bytes()
        if not isinstance(data, bytes):
            raise DataError(f"{where}: {type(data).__name__}, expected the bytes of an image")
        return decode_image(data, where)

    def _bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Looks over the actions of all episodes that are there."""
        wanted: dict[Path, list[int]] = {}
        for entry in self._index.entries:
            wanted.setdefault(entry.table, []).append(entry.index)
        lows, highs = [], []
        for path, indices in wanted.items():
            table = read_table(path, [ACTION, "episode_index"])
            table = table.filter(np.isin(table["episode_index"].to_numpy(), indices))
            if not table.num_rows:
                raise DataError(f"{path}: holds no rows of episode {indices[0]}")
            actions = _rows(table, ACTION, self._index.widths[ACTION], str(path))
            lows.append(actions.min(axis=0))
            highs.append(actions.max(axis=0))
        return outward(np.min(lows, axis=0), np.max(highs, axis=0))


def _check_order(table: pa.Table, fps: float, where: str) -> None:
    """The rows of an episode are its frames, one after the other."""
    frame_index = table["frame_index"].to_numpy()
    wrong = np.flatnonzero(frame_index != np.arange(len(frame_index)))
    if len(wrong):
        raise DataError(f"{where}: row {wrong[0]} has frame_index {frame_index[wrong[0]]}: rows are missing or mixed")
    if "timestamp" in table.column_names:
        kind = table["timestamp"].type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise DataError(f"{where}: 'timestamp' is {kind}, expected seconds")
        timestamp = table["timestamp"].to_numpy().astype(np.float64)
        late = np.flatnonzero(~(np.abs(timestamp - frame_index / fps) < 0.5 / fps))
        if len(late):
            at = late[0]
            raise DataError(
                f"{where}: row {at} has timestamp {timestamp[at]:g} s, expected {at / fps:g} s at {fps:g} fps"
            )


def _rows(table: pa.Table, name: str, width: int, where: str) -> np.ndarray:
    """A column of vectors, `[T,width]` float32."""
    where = f"{where}: '{name}'"
    column = table[name].combine_chunks()
    if column.null_count:
        raise DataError(f"{where}: {column.null_count} rows are empty")
    if not pa.types.is_nested(column.type):
        return vectors(column.to_numpy(zero_copy_only=False), width, where)
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise DataError(f"{where}: {kind}, expected lists of {width} numbers")
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    ragged = np.flatnonzero(lengths != width)
    if len(ragged):
        raise DataError(f"{where}: row {ragged[0]} has {lengths[ragged[0]]} numbers, expected {width}")
    return vectors(column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width), width, where)
