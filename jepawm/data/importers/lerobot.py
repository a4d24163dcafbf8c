"""LeRobot datasets, v2.0 to v3.0: Parquet tables, and one video a camera.

`meta/info.json` names features, rate and the patterns of file names. Version 2 has a table and a video for each
episode, listed in `meta/episodes.jsonl`. Version 3 packs many episodes into a file; `meta/episodes/*/*.parquet` says
which rows of which table, and which seconds of which video, an episode is. Images may also stand in the table itself.

The importer takes one camera, `action`, `observation.state` as proprio, and the text of the task. Numbers stay as they
are. The action of a row leads to the next row, so the last action of an episode is dropped. In a partial copy, an
episode of which no file is there is not counted and named in `source`; an episode of which only some files are there is
bad.

The rows of the table say how long an episode is. A video may go on after them, and its end is then left out and noted.
A video whose frames come at another rate than the rows is taken frame by frame where there is a frame for each row, and
every n-th frame where it has n frames for each row; any other rate is refused.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jepawm.data.importers.base import NOTES, Choices, EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.lerobot_index import ACTION, STATE, Entry, LeRobotIndex
from jepawm.data.importers.lerobot_table import EpisodeTable
from jepawm.data.importers.reading import LONGER_VIDEO, casts, decode_image, inside, outward, squared, vectors
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.data.video import VideoInfo, iter_video, video_info
from jepawm.errors import DataError
from jepawm.types import ActionSpec, Episode, VectorSpec

_NAMED_ABSENT = 20
_SAME_RATE = 0.01
# A time that lies further from a frame than this part of the frame's duration names no frame.
_LARGEST_OFFSET = 0.4


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
        for number, entry in enumerate(self._index.entries):
            if entry.fault:
                self.mark_bad(number, entry.fault)
        self._side = square_spec(*self._index.frame_size, options)
        self._open: EpisodeTable | None = None
        self._videos: dict[Path, VideoInfo] = {}

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

    def choices(self) -> Choices:
        index = self._index
        return Choices(
            took={"pixels": [index.camera], "actions": [ACTION], "proprio": [STATE][: STATE in index.widths]}
            | {"task": ["tasks"]},
            cast=casts(index.dtypes),
            left_out=index.left_out,
            assumed=["an action leads from the frame of its row to the frame of the next row"],
        )

    def read(self, number: int) -> Episode:
        index, entry = self._index, self._index.entries[number]
        where = f"{entry.table}: episode {entry.index}"
        table = self._table(entry.table).episode(entry.index)
        if table.num_rows != entry.length:
            raise DataError(f"{where}: {table.num_rows} rows, the index of episodes says {entry.length}")
        if entry.length < 2:
            raise DataError(f"{where}: has {entry.length} row(s), an episode needs 2")
        _check_order(table, index.fps, where)
        rows = {name: _rows(table, name, width, where) for name, width in index.widths.items()}
        notes: list[str] = []
        frames = self._images(table, where) if entry.video is None else self._video_frames(entry, notes)
        pixels = squared(self._of_known_size(frames, entry), self._side)
        if len(pixels) != entry.length:
            raise DataError(f"{entry.video}: {len(pixels)} frames, {entry.table.name} has {entry.length} rows")
        tasks = entry.tasks or self._tasks_of(table)
        info: dict[str, Any] = {"episode_index": entry.index, "task": tasks[0] if tasks else ""}
        if len(tasks) > 1:
            info["tasks"] = list(tasks)
        if notes:
            info[NOTES] = notes
        return Episode(
            episode_id=number,
            pixels=pixels,
            actions=rows[ACTION][:-1],
            proprio=rows.get(STATE, np.empty((len(pixels), 0), dtype=np.float32)),
            info=info,
        )

    def _table(self, path: Path) -> EpisodeTable:
        """The table of an episode; it stays open for the next episode, which usually lies in the same file."""
        if self._open is None or self._open.path != path:
            index = self._index
            pictures = [] if index.is_video else [index.camera]
            columns = [*index.widths, "episode_index", "frame_index", "timestamp", "task_index", *pictures]
            self._open = EpisodeTable(path, columns)
        return self._open

    def _tasks_of(self, table: pa.Table) -> tuple[str, ...]:
        """Tasks of the rows of an episode whose entry in the index names none."""
        if "task_index" not in table.column_names:
            return ()
        numbers = dict.fromkeys(number for number in table["task_index"].to_pylist() if isinstance(number, int))
        return tuple(text for text in map(self._index.task, numbers) if text)

    def _images(self, table: pa.Table, where: str) -> Iterator[np.ndarray]:
        for t, item in enumerate(table[self._index.camera]):
            yield self._stored_image(item, f"{where}, row {t}")

    def _video_frames(self, entry: Entry, notes: list[str]) -> Iterator[np.ndarray]:
        """The frame of each row of an episode, as `notes` may say without frames after the last row."""
        assert entry.video is not None
        what = f"{entry.video}: episode {entry.index}"
        if entry.video not in self._videos:
            # Version 3 has many episodes in a video, which need not be asked for its rate each time.
            self._videos = {entry.video: video_info(entry.video, what=what)}
        info = self._videos[entry.video]
        if entry.start_s is None:
            first, available = 0, info.num_frames
            step = self._frames_a_row(info, available, entry.length, what)
            stop = None
        else:
            at = entry.start_s * info.fps
            first = round(at)
            if abs(at - first) > _LARGEST_OFFSET:
                raise DataError(
                    f"{what}: begins at {entry.start_s:g} s, which lies between two frames of a video of {info.fps:g} "
                    "frames a second"
                )
            end_s = entry.end_s if entry.end_s is not None else entry.start_s + entry.length / self._index.fps
            step = self._frames_a_row(info, round(end_s * info.fps) - first, entry.length, what)
            end = info.num_frames if entry.next_s is None else round(entry.next_s * info.fps)
            available, stop = end - first, first + (entry.length - 1) * step + 1
            if stop > end:
                raise DataError(
                    f"{what}: begins at frame {first}, the next episode at frame {end}, the table has {entry.length} "
                    "rows: the video has too few frames"
                )
        if available > entry.length * step:
            notes.append(LONGER_VIDEO)
        for number, frame in enumerate(iter_video(entry.video, what=what, start=first, stop=stop)):
            # A video of one episode is decoded to its end, so that a damaged one is found.
            if number % step == 0 and number // step < entry.length:
                yield frame

    def _frames_a_row(self, info: VideoInfo, frames: int, length: int, what: str) -> int:
        """How many frames of a video there are for each row of the table."""
        ratio = info.fps / self._index.fps
        if abs(ratio - 1) < _SAME_RATE or frames == length:
            return 1
        step = round(ratio)
        if step > 1 and abs(ratio - step) < _SAME_RATE and abs(frames - length * step) <= step:
            return step
        raise DataError(
            f"{what}: {frames} frames at {info.fps:g} a second, the table has {length} rows at {self._index.fps:g} a "
            "second (info.json), so which frame belongs to which row is unknown; encode the video at the rate of the "
            "rows, or mend 'fps' in info.json"
        )

    def _of_known_size(self, frames: Iterable[np.ndarray], entry: Entry) -> Iterator[np.ndarray]:
        height, width = self._index.frame_size
        for t, frame in enumerate(frames):
            if frame.shape[:2] != (height, width):
                raise DataError(
                    f"{entry.video or entry.table}: episode {entry.index}, frame {t} is {frame.shape[0]}x"
                    f"{frame.shape[1]} px, info.json says {height}x{width}"
                )
            yield frame

    def _stored_image(self, item: Any, where: str) -> np.ndarray:
        where = f"{where}, '{self._index.camera}'"
        try:
            value = item.as_py()
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: a text cannot be read: {error}; copy the file again") from error
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
        """Looks over the actions of the episodes that are converted."""
        lows, highs = [], []
        table: EpisodeTable | None = None
        for number in self.sound_numbers:
            entry = self._index.entries[number]
            try:
                if table is None or table.path != entry.table:
                    table = EpisodeTable(entry.table, [ACTION, "episode_index"])
                rows = table.episode(entry.index)
                where = f"{entry.table}: episode {entry.index}"
                if not rows.num_rows and entry.length:
                    raise DataError(f"{entry.table}: holds no rows of episode {entry.index}")
                actions = _rows(rows, ACTION, self._index.widths[ACTION], where)
            except DataError as error:
                self.mark_bad(number, str(error))
                continue
            if len(actions):
                lows.append(actions.min(axis=0))
                highs.append(actions.max(axis=0))
        if not lows:
            raise DataError(f"{self.path}: no episode holds an action")
        return outward(np.min(lows, axis=0), np.max(highs, axis=0))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None, "_videos": {}}


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
