"""The index of a LeRobot folder: features, rate, and the place of each episode."""

import itertools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jepawm.data.importers.lerobot_table import read_table
from jepawm.data.importers.reading import files_below, indexed_names, inside, pick, read_json
from jepawm.errors import DataError

ACTION, STATE = "action", "observation.state"
_AXES = {"height": "height", "h": "height", "width": "width", "w": "width"}
# Features that say where a row belongs.
_BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class Entry:
    """Where one episode is.

    Attributes:
        index: Its number in LeRobot's index; numbers may have gaps.
        length: Rows, and frames.
        tasks: What the robot was asked to do, as the index says; empty where the index does not say.
        table: The Parquet file.
        video: The video of the chosen camera; None where images are in the table.
        start_s: Time of its first frame in the video; None where the episode has the video for itself.
        end_s: Time after its last frame in the video, or None.
        next_s: Time of the first frame of the next episode in the same video; None for the last episode.
        fault: What keeps it from being read, or an empty text.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    table: Path
    video: Path | None
    start_s: float | None = None
    end_s: float | None = None
    next_s: float | None = None
    fault: str = ""


class LeRobotIndex:
    """`meta/` of a dataset, for one of its cameras.

    Args:
        root: The dataset folder.
        camera: Name of a feature; None: the first camera in the order of names.
        split: Only the episodes of a split in `info.json`; None: all.

    Attributes:
        version: `codebase_version`.
        robot: `robot_type`, or None.
        fps: Rows, and frames, a second.
        cameras: Features that are RGB pictures.
        camera: The chosen one.
        frame_size: `(Y, X)` of its frames, px.
        widths: Numbers in a row of `action`, and of `observation.state` where there is one.
        dtypes: Type of the numbers of each of `widths`, as `info.json` says.
        left_out: Features that are neither taken nor bookkeeping.
        entries: The episodes that are there, in the order of their numbers. An episode of which only a part is there
            has a `fault`.
        absent: Numbers of listed episodes of which nothing is there.
        unlisted: How many more episodes `info.json` counts than the index lists.

    Raises:
        DataError: A missing or unreadable file, another version, no camera or no action vector, or a path that leaves
            the folder.
    """

    def __init__(self, root: Path, camera: str | None, split: str | None) -> None:
        self._root = root
        self._path = root / "meta" / "info.json"
        info = read_json(self._path)
        self._info: dict[str, Any] = info if isinstance(info, dict) else {}
        self.version = str(self._info.get("codebase_version"))
        if not self.version.startswith(("v2.", "v3.")):
            raise DataError(
                f"{self._path}: codebase_version is '{self.version}'; this importer reads v2.0 to v3.0, convert older "
                "datasets with LeRobot's own scripts"
            )
        self.robot = self._info.get("robot_type")
        self.fps = self._number("fps")
        features = self._info.get("features")
        self._features: dict[str, dict[str, Any]] = features if isinstance(features, dict) else {}
        where = f"{self._path}: features"
        for name, feature in self._features.items():
            if not isinstance(feature, dict):
                raise DataError(f"{where} '{name}': {type(feature).__name__}, expected an object with dtype and shape")
        cameras = [name for name, feature in sorted(self._features.items()) if _is_camera(feature)]
        # A coloured picture of depth may be chosen by name, and is never the default.
        self.cameras = sorted(cameras, key=lambda name: "depth" in name.lower())
        self.camera = pick(camera, self.cameras, "camera (a feature of dtype video or image)", where)
        self.is_video = self._features[self.camera]["dtype"] == "video"
        self.frame_size = _frame_size(self._features[self.camera], f"{where} '{self.camera}'")
        if ACTION not in self._features:
            raise DataError(f"{where}: there is no 'action' (there are: {', '.join(sorted(self._features))})")
        self.widths = {name: self._vector_width(name) for name in (ACTION, STATE) if name in self._features}
        self.dtypes = {name: str(self._features[name].get("dtype")) for name in self.widths}
        self.left_out = sorted(self._features.keys() - {*self.widths, self.camera, *_BOOKKEEPING})
        listed = self._list_version_2() if self.version.startswith("v2.") else self._list_version_3()
        _check_distinct(listed, self._root / "meta")
        total = self._info.get("total_episodes")
        self.unlisted = max(0, total - len(listed)) if isinstance(total, int) else 0
        self.entries, self.absent = _present(self._of_split(listed, split))
        self._tasks: dict[int, str] | None = None

    def names(self, feature: str) -> tuple[str, ...]:
        """Names of the dimensions of a vector: a list, a list in a list, or a list under some key."""
        names, width = self._features[feature].get("names"), self.widths[feature]
        if isinstance(names, dict) and len(names) == 1:
            names = next(iter(names.values()))
        if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
            names = names[0]
        if isinstance(names, list) and len(names) == width:
            return tuple(str(item) for item in names)
        return indexed_names(feature.rsplit(".", 1)[-1], width)

    def task(self, number: int) -> str:
        """Text of a task, by its number in the column `task_index` of the tables; empty where no file has it."""
        if self._tasks is None:
            self._tasks = self._read_tasks()
        return self._tasks.get(number, "")

    def _read_tasks(self) -> dict[int, str]:
        lines, table = self._root / "meta" / "tasks.jsonl", self._root / "meta" / "tasks.parquet"
        try:
            if lines.is_file():
                rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
                return {int(row["task_index"]): str(row["task"]) for row in rows}
            if table.is_file():
                found = pq.read_table(table, use_threads=False)
                # pandas keeps the text as an index, whose column has a name of its own.
                texts = next((name for name in ("task", "__index_level_0__") if name in found.column_names), None)
                if texts is None:
                    raise KeyError("task")
                numbers = found["task_index"].to_pylist()
                return {int(k): str(text) for k, text in zip(numbers, found[texts].to_pylist(), strict=True)}
        except (ValueError, KeyError, TypeError, OverflowError, OSError, pa.ArrowException) as error:
            name = lines if lines.is_file() else table
            raise DataError(f"{name}: not a list of tasks: {error!r}; copy it again") from error
        return {}

    def _number(self, key: str) -> float:
        value = self._info.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise DataError(f"{self._path}: '{key}' is {value!r}, expected a number above 0")
        return float(value)

    def _vector_width(self, name: str) -> int:
        shape, dtype = self._features[name].get("shape"), str(self._features[name].get("dtype"))
        is_shape = isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int) and shape[0] > 0
        if not is_shape or not dtype.startswith(("float", "int", "uint", "bool")):
            raise DataError(f"{self._path}: features '{name}': {dtype} of shape {shape}, expected a vector of numbers")
        return int(self._features[name]["shape"][0])

    def _file(self, key: str, **numbers: Any) -> Path:
        pattern = self._info.get(key)
        try:
            name = str(pattern).format(**numbers) if pattern else ""
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise DataError(f"{self._path}: '{key}' is '{pattern}', which cannot be filled in: {error!r}") from error
        return inside(self._root, name, f"{self._path}: '{key}'")

    def _list_version_2(self) -> list[Entry]:
        index_path = self._root / "meta" / "episodes.jsonl"
        if not index_path.is_file():
            raise DataError(f"{index_path}: no such file")
        chunk_size = math.ceil(self._number("chunks_size"))
        try:
            lines = index_path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{index_path}: not a list of episodes: {error}") from error
        entries = []
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                index, length, tasks = _index_row(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                raise DataError(f"{index_path}: line {line_number} is no entry of an episode: {error!r}") from error
            numbers = {"episode_chunk": index // chunk_size, "episode_index": index, "video_key": self.camera}
            video = self._file("video_path", **numbers) if self.is_video else None
            entries.append(Entry(index, length, tasks, self._file("data_path", **numbers), video))
        return sorted(entries, key=lambda entry: entry.index)

    def _list_version_3(self) -> list[Entry]:
        folder = self._root / "meta" / "episodes"
        files = list(files_below(folder, lambda name: name.endswith(".parquet")))
        if not files:
            raise DataError(f"{folder}: the index of episodes is missing (chunk-000/file-000.parquet and so on)")
        video = f"videos/{self.camera}/"
        columns = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
        if self.is_video:
            columns += [f"{video}{key}" for key in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
        entries: list[Entry] = []
        for file in files:
            try:
                rows = read_table(file, columns).to_pylist()
            except UnicodeDecodeError as error:
                raise DataError(f"{file}: a text cannot be read: {error}; copy it again") from error
            for row_number, row in enumerate(rows):
                try:
                    entries.append(self._entry_3(row, video))
                except (ValueError, KeyError, TypeError, OverflowError) as error:
                    raise DataError(f"{file}: row {row_number} is no entry of an episode: {error!r}") from error
        return sorted(_with_next(entries), key=lambda entry: entry.index)

    def _entry_3(self, row: dict[str, Any], video: str) -> Entry:
        index, length, tasks = _index_row(row)
        chunk, file = int(row["data/chunk_index"]), int(row["data/file_index"])
        table = self._file("data_path", chunk_index=chunk, file_index=file)
        if not self.is_video:
            return Entry(index, length, tasks, table, None)
        chunk, file = int(row[f"{video}chunk_index"]), int(row[f"{video}file_index"])
        video_path = self._file("video_path", video_key=self.camera, chunk_index=chunk, file_index=file)
        start_s, end_s = float(row[f"{video}from_timestamp"]), row.get(f"{video}to_timestamp")
        if not 0 <= start_s < math.inf:
            raise ValueError(f"from_timestamp {start_s}")
        return Entry(index, length, tasks, table, video_path, start_s, None if end_s is None else float(end_s))

    def _of_split(self, entries: list[Entry], split: str | None) -> list[Entry]:
        if split is None:
            return entries
        splits = self._info.get("splits")
        splits = splits if isinstance(splits, dict) else {}
        name = pick(split, sorted(splits), "split", str(self._path))
        try:
            start, stop = (int(part) for part in str(splits[name]).split(":"))
        except ValueError as error:
            raise DataError(f"{self._path}: split '{name}' is '{splits[name]}', expected 'FROM:TO'") from error
        return [entry for entry in entries if start <= entry.index < stop]


def _check_distinct(entries: list[Entry], where: Path) -> None:
    """Refuses entries, in the order of their numbers, that list an episode twice."""
    for before, entry in itertools.pairwise(entries):
        if before.index == entry.index:
            raise DataError(f"{where}: episode {entry.index} is listed twice")


def _present(entries: list[Entry]) -> tuple[list[Entry], list[int]]:
    """The episodes of which something is there, and the numbers of the others."""
    present, absent = [], []
    for entry in entries:
        files = [entry.table, *([entry.video] if entry.video else [])]
        missing = [file for file in files if not file.is_file()]
        if not missing:
            present.append(entry)
        elif len(missing) == len(files):
            absent.append(entry.index)
        else:
            fault = f"{missing[0]}: no such file, though other files of episode {entry.index} are there"
            present.append(replace(entry, fault=fault))
    if entries and not present:
        raise DataError(f"{entries[0].table}: no such file; none of the {len(entries)} listed episodes is there")
    return present, absent


def _with_next(entries: list[Entry]) -> list[Entry]:
    """The same entries, each with the time at which the next episode of its video begins."""
    in_video = sorted((entry for entry in entries if entry.video), key=lambda e: (str(e.video), e.start_s, e.index))
    following = {
        entry.index: after.start_s for entry, after in itertools.pairwise(in_video) if entry.video == after.video
    }
    return [replace(entry, next_s=following.get(entry.index)) for entry in entries]


def _is_camera(feature: Any) -> bool:
    """Whether a feature is a colour picture; a depth picture has one channel, or `info.json` marks it."""
    if not isinstance(feature, dict) or feature.get("dtype") not in ("video", "image"):
        return False
    shape = feature.get("shape")
    if isinstance(shape, list) and len(shape) == 3 and 3 not in (shape[0], shape[2]):
        return False
    facts = feature.get("info") or feature.get("video_info") or {}
    is_depth = isinstance(facts, dict) and (facts.get("video.is_depth_map") or facts.get("is_depth_map"))
    return not is_depth


def _frame_size(feature: dict[str, Any], where: str) -> tuple[int, int]:
    """Height and width: the order of the axes differs between datasets."""
    shape, names = feature.get("shape"), feature.get("names")
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise DataError(f"{where}: shape {shape}, expected three numbers above 0")
    if isinstance(names, list) and len(names) == 3:
        axes = {_AXES.get(str(name)): int(size) for name, size in zip(names, shape, strict=True)}
        if "height" in axes and "width" in axes:
            return axes["height"], axes["width"]
    height, width = shape[1:] if shape[0] in (1, 3) else shape[:2]
    return int(height), int(width)


def _index_row(row: dict[str, Any]) -> tuple[int, int, tuple[str, ...]]:
    tasks = row.get("tasks") or []
    tasks = [tasks] if isinstance(tasks, str) else tasks
    return int(row["episode_index"]), int(row["length"]), tuple(str(task) for task in tasks)
