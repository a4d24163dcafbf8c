"""jepa-wms' Metaworld demonstrations: Parquet shards (Hugging Face), one row an episode, with its video inside.

| theirs | ours |
|---|---|
| `video`: an mp4 of `T` frames, as bytes or as `{bytes, path}` | `pixels` |
| `states` `[T,39]` | `sim_state` = all of it, `proprio` = hand x, y, z and gripper opening |
| `actions` `[T-1,4]` | `actions` |
| `task` | `info["task"]` |

Frame `t` shows state `t`, and action `t` leads from it to state `t + 1`. jepa-wms drops the last state to have as many
states as actions; this importer keeps it, since the last action leads to it.

The states are Metaworld's observations. The environment's own `sim_state` begins with an observation and holds more, so
an episode cannot be reset to a recorded state. Frames were stored as mp4 and become JPEG by default; `zstd` keeps them
as they decode.

Reference: B. Terver et al., "What Drives Success in Physical Planning with Joint-Embedding Predictive World Models?",
arXiv 2512.24497.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jepawm.data.importers.arrays import action_bounds
from jepawm.data.importers.base import NOTES, Choices, EpisodeSource, ImportOptions, file_stamp, square_spec
from jepawm.data.importers.reading import LONGER_VIDEO, indexed_names, vectors
from jepawm.data.meta import META_FILE, DatasetSpec, PixelSpec
from jepawm.data.video import read_video, video_info
from jepawm.errors import DataError
from jepawm.pictures import square
from jepawm.published_statistics import PUBLISHED_STATISTICS
from jepawm.types import ActionSpec, Episode, VectorSpec

COLUMNS = ("task", "video", "states", "actions")
STATE_WIDTH, ACTION_WIDTH, PROPRIO_WIDTH = 39, 4, 4
# Metaworld: five physics steps of 2.5 ms an action.
CONTROL_HZ = 80.0


class MetaworldParquet(EpisodeSource):
    """A folder of shards, its `data`, or one shard. `split` chooses the shards named `SPLIT-...`.

    Raises:
        DataError: A shard that is missing, damaged or without a column; an episode that is ragged, of another width,
            with NaN, or with a video that is missing, cannot be decoded, or has another number of frames.
    """

    name = "metaworld-parquet"
    about = "jepa-wms' Metaworld demonstrations, Parquet shards with videos inside"
    published_statistics = PUBLISHED_STATISTICS["metaworld"]

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(camera=options.camera, control_hz=options.control_hz)
        self._files = self._find(options.split)
        self._groups: list[tuple[Path, int]] = []
        """File and number of each row group."""
        self._first_group: dict[Path, int] = {}
        ends: list[int] = []
        self._columns: set[str] = set()
        for file in self._files:
            opened = _open(file)
            self._columns |= set(opened.schema_arrow.names)
            self._first_group[file] = len(self._groups)
            for group in range(opened.num_row_groups):
                self._groups.append((file, group))
                ends.append((ends[-1] if ends else 0) + opened.metadata.row_group(group).num_rows)
        self._ends = np.asarray(ends, dtype=np.int64)
        self._open: tuple[Path, pq.ParquetFile] | None = None
        self._loaded: tuple[int, pa.Table] | None = None
        self._height = self._width = 0
        if self.num_episodes:
            self._height, self._width = self.first_sound(self._frame_size)
            self._side = square_spec(self._height, self._width, options)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_file():
            return path.suffix == ".parquet"
        if any((path / other).exists() for other in (META_FILE, "meta")):
            return False  # An episode dataset, or LeRobot's.
        return any(any(folder.glob("*.parquet")) for folder in (path, path / "data"))

    @property
    def num_episodes(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def spec(self) -> DatasetSpec:
        largest = np.zeros(ACTION_WIDTH)
        number = 0
        for file in self._files:
            for row, value in enumerate(self._actions_in(file)):
                if number in self.numbers and number not in self.bad:
                    try:
                        actions = _matrix(value.as_py(), ACTION_WIDTH, f"{file}: row {row}: column 'actions'")
                        largest = np.maximum(largest, np.abs(actions).max(axis=0, initial=0))
                    except DataError as error:
                        self.mark_bad(number, str(error))
                number += 1
        bounds = action_bounds(largest, (1.0,) * ACTION_WIDTH)
        return DatasetSpec(
            name="metaworld",
            control_hz=CONTROL_HZ,
            pixels=PixelSpec(self._side, self._side, 3, self.options.codec or "jpeg"),
            action=ActionSpec(
                ACTION_WIDTH,
                tuple(-bound for bound in bounds),
                bounds,
                names=("hand_dx", "hand_dy", "hand_dz", "gripper"),
            ),
            proprio=VectorSpec(PROPRIO_WIDTH, ("hand_x", "hand_y", "hand_z", "gripper")),
            sim_state=VectorSpec(STATE_WIDTH, indexed_names("obs", STATE_WIDTH)),
            source={
                "env": {"id": "envs:envs/Metaworld-v1"},
                "sim_state": "Metaworld's observation; the environment cannot be reset to it",
            },
        )

    def choices(self) -> Choices:
        return Choices(
            took={
                "pixels": ["video"],
                "actions": ["actions"],
                "proprio": [f"states (the first {PROPRIO_WIDTH} numbers)"],
                "sim_state": ["states"],
                "task": ["task"],
            },
            left_out=sorted(self._columns - {*COLUMNS}),
            assumed=[f"{CONTROL_HZ:g} steps a second, as Metaworld's environments have"],
        )

    def read(self, number: int) -> Episode:
        row, where = self._row(number)
        state = vectors(row["states"], STATE_WIDTH, f"{where}: column 'states'", dtype=np.float64)
        actions = _matrix(row["actions"], ACTION_WIDTH, f"{where}: column 'actions'")
        if len(actions) != len(state) - 1:
            raise DataError(
                f"{where}: {len(state)} states and {len(actions)} actions; expected one action fewer than states"
            )
        what = f"{where}: column 'video'"
        frames, _ = read_video(_video_bytes(row["video"], where), what=what)
        if len(frames) < len(state):
            raise DataError(f"{what}: holds {len(frames)} frames, the episode has {len(state)} states")
        if frames.shape[1:3] != (self._height, self._width):
            raise DataError(
                f"{what}: frames are {frames.shape[1:3]} px, those of the first episode {self._height, self._width}"
            )
        notes = {NOTES: [LONGER_VIDEO]} if len(frames) > len(state) else {}
        return Episode(
            episode_id=number,
            pixels=square(frames[: len(state)], self._side),
            actions=actions,
            proprio=state[:, :PROPRIO_WIDTH].astype(np.float32),
            sim_state=state,
            info={"task": str(row["task"]), "source_episode": number, **notes},
        )

    def stamp(self) -> list[Any]:
        return [fact for file in self._files for fact in file_stamp(file)]

    def _find(self, split: str | None) -> list[Path]:
        if self.path.is_file():
            self.refuse(split=split)
            return [self.path]
        folder = self.path if any(self.path.glob("*.parquet")) else self.path / "data"
        names = sorted(folder.glob("*.parquet"))
        if not names:
            raise DataError(f"{self.path}: no Parquet files in it or in its 'data'")
        chosen = [name for name in names if split is None or name.name.startswith(f"{split}-")]
        if not chosen:
            raise DataError(f"{folder}: none of its {len(names)} Parquet files is named {split}-*.parquet")
        return chosen

    def _frame_size(self, number: int) -> tuple[int, int]:
        row, where = self._row(number)
        info = video_info(_video_bytes(row["video"], where), what=f"{where}: column 'video'")
        return info.height, info.width

    def _actions_in(self, file: Path) -> pa.ChunkedArray:
        try:
            return _open(file).read(columns=["actions"], use_threads=False)["actions"]
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: column 'actions' cannot be read: {error}; copy it again") from error

    def _row(self, number: int) -> tuple[dict[str, Any], str]:
        """An episode's row, and how errors call it.

        The row group stays loaded and the file stays open, since the next episode usually lies in the same ones.
        """
        group = int(np.searchsorted(self._ends, number, side="right"))
        file, in_file = self._groups[group]
        if self._loaded is None or self._loaded[0] != group:
            if self._open is None or self._open[0] != file:
                self._open = (file, _open(file))
            self._loaded = None
            try:
                table = self._open[1].read_row_group(in_file, columns=list(COLUMNS), use_threads=False)
                self._loaded = (group, table)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{file}: row group {in_file} cannot be read: {error}; copy it again") from error
        table = self._loaded[1]
        row = number - (int(self._ends[group - 1]) if group else 0)
        before = self._first_group[file]
        first = int(self._ends[before - 1]) if before else 0
        where = f"{file}: row {number - first}"
        try:
            found = {name: table[name][row].as_py() for name in COLUMNS}
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: a text cannot be read: {error}; copy the file again") from error
        for name, value in found.items():
            if value is None:
                raise DataError(f"{where}: column '{name}' is empty")
        return found, where

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None, "_open": None}


def _open(file: Path) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(file)
        names = opened.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a Parquet file, or a truncated one: {error}; copy it again") from error
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise DataError(f"{file}: column '{missing[0]}' is missing; expected {', '.join(COLUMNS)}, found {names}")
    return opened


def _matrix(value: Any, width: int, where: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: rows of different lengths, or no numbers") from error
    return vectors(array, width, where)


def _video_bytes(value: Any, where: str) -> bytes:
    if isinstance(value, dict):
        if value.get("bytes") is None:
            raise DataError(
                f"{where}: column 'video' holds no video but the path '{value.get('path')}'; only videos inside the "
                "Parquet files are read"
            )
        value = value["bytes"]
    if not isinstance(value, bytes):
        raise DataError(
            f"{where}: column 'video' is {type(value).__name__}, expected an mp4 as bytes or {{bytes, path}}"
        )
    return value
