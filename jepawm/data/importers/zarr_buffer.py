"""Replay buffers in zarr, as Diffusion Policy and its successors keep them: version 2 or 3, a folder or a zip.

| theirs | ours |
|---|---|
| one of `data/*` with four dimensions that holds pictures (`camera`) | `pixels` |
| `data/action` | `actions` |
| the first of `PROPRIO` that there is in `data` | `proprio` |
| `data/state`, where it is not the proprio | `sim_state` |
| `meta/episode_ends` `[E]`: one past each episode's last row | episode ids 0, 1, ... in that order |

The action of a row was chosen on seeing the row's frame and leads to the next row; the last one of an episode leads
nowhere and is dropped. Numbers stay as recorded, whatever they mean. A buffer does not say its rate, so `control_hz` is
needed. Arrays that are not taken are not read.

The human demonstrations of Push-T have an importer of their own (`pusht_zarr.py`), which knows what their numbers mean.

Reference: C. Chi et al., "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", RSS 2023.
"""

import os
from pathlib import Path

import numpy as np

from jepawm.data.importers.arrays import as_frames, channels_last
from jepawm.data.importers.base import Choices, EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.pusht_zarr import PushTZarr
from jepawm.data.importers.reading import casts, indexed_names, outward
from jepawm.data.importers.zarr_arrays import ENDS, ZarrArrays, checked_ends, mark_bad_rows
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.errors import DataError, did_you_mean
from jepawm.pictures import square
from jepawm.types import ActionSpec, Episode, VectorSpec

ACTION = "data/action"
STATE = "data/state"
PROPRIO = (
    "proprio",
    "agent_pos",
    "robot_eef_pose",
    "robot0_eef_pos",
    "robot_eef_pos",
    "robot_joint",
    "qpos",
    "state",
)


class ZarrBuffer(EpisodeSource):
    """A zarr, or a folder or zip around one.

    Raises:
        DataError: A missing or damaged array, ragged arrays, NaN, frames of an unknown scale, a codec that zarr
            does not know, or a zip with paths that lead out of it; names array and row.
        MissingDependencyError: The package `zarr` is not installed.
    """

    name = "zarr-buffer"
    about = "replay buffers in zarr: data/*, meta/episode_ends"

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(split=options.split)
        if options.control_hz is None:
            raise DataError(f"{path}: a replay buffer does not say its rate; say it, e.g. --control-hz 10")
        self._control_hz = options.control_hz
        self._buffer = ZarrArrays(self.path)
        self._buffer.require(ENDS, ACTION)
        self._ends = self._read_ends()
        self._arrays = [name for name in self._buffer.names if name.startswith("data/") and name.count("/") == 1]
        self._unopened: list[str] = []
        shapes = self._shapes()
        self._camera = self._pick_camera(shapes)
        self._proprio = self._pick_proprio(shapes)
        shape, what = shapes[self._camera], f"{self.path}: array '{self._camera}'"
        height, width = shape[1:3] if channels_last(shape, what) else shape[2:4]
        self._side = square_spec(height, width, options)
        has_state = STATE in shapes and self._proprio != STATE and len(shapes[STATE]) <= 2
        self._dtypes: dict[str, str] = {}
        names = dict.fromkeys([ACTION, self._proprio, *([STATE] if has_state else [])])
        for name in [self._camera, *names]:
            self._check_rows(name, shapes[name])
        self._vectors = {name: self._read_vectors(name) for name in names}

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if PushTZarr.recognises(path):
            return False
        return path.name.endswith(".zarr.zip") or ((path / ENDS).is_dir() and (path / ACTION).is_dir())

    @property
    def num_episodes(self) -> int:
        return len(self._ends)

    def spec(self) -> DatasetSpec:
        kept = np.zeros(self._ends[-1], dtype=bool)
        for number in self.sound_numbers:
            start, stop = self._rows_of(number)
            kept[start : stop - 1] = True
        if not kept.any():
            raise DataError(f"{self.path}: no episode holds an action")
        actions, proprio = self._vectors[ACTION][kept], self._vectors[self._proprio]
        low, high = outward(actions.min(axis=0), actions.max(axis=0))
        state = self._vectors.get(STATE) if self._proprio != STATE else None
        reading = self._proprio.removeprefix("data/")
        return DatasetSpec(
            name=self.path.name.split(".")[0] or "zarr",
            control_hz=self._control_hz,
            pixels=PixelSpec(self._side, self._side, 3, *([self.options.codec] if self.options.codec else [])),
            action=ActionSpec(actions.shape[1], low, high),
            proprio=VectorSpec(proprio.shape[1], indexed_names(reading, proprio.shape[1])),
            sim_state=None if state is None else VectorSpec(state.shape[1], indexed_names("state", state.shape[1])),
            source={"camera": self._camera, "proprio": self._proprio},
        )

    def choices(self) -> Choices:
        state = STATE in self._vectors and self._proprio != STATE
        to_float32 = {name: dtype for name, dtype in self._dtypes.items() if name in (ACTION, self._proprio)}
        return Choices(
            took={
                "pixels": [self._camera],
                "actions": [ACTION],
                "proprio": [self._proprio],
                "sim_state": [STATE] if state else [],
            },
            cast=casts(to_float32),
            left_out=sorted(set(self._arrays) - {self._camera, *self._vectors}),
            assumed=[
                "an action leads from the frame of its row to the frame of the next row",
                *self._buffer.assumptions(),
            ],
        )

    def read(self, number: int) -> Episode:
        start, stop = self._rows_of(number)
        values = self._buffer.read(self._camera, start, stop)
        self._check_stored(values, start)
        frames = as_frames(values, f"{self.path}: array '{self._camera}'", start)
        frames = np.repeat(frames, 3, axis=3) if frames.shape[3] == 1 else frames
        state = self._vectors.get(STATE) if self._proprio != STATE else None
        return Episode(
            episode_id=number,
            pixels=square(frames, self._side),
            actions=self._vectors[ACTION][start : stop - 1].astype(np.float32),
            proprio=self._vectors[self._proprio][start:stop].astype(np.float32),
            sim_state=None if state is None else state[start:stop].astype(np.float64),
            info={"source_rows": [start, stop]},
        )

    def _rows_of(self, number: int) -> tuple[int, int]:
        return int(self._ends[number - 1]) if number else 0, int(self._ends[number])

    def _check_stored(self, frames: np.ndarray, first_row: int) -> None:
        """Refuses frames of which nothing is stored: whether they were black or lost in copying is unknown."""
        if self._camera not in self._buffer.unstored or self.options.keep_one_colour:
            return
        empty = np.flatnonzero((frames == self._buffer.fill_value(self._camera)).all(axis=(1, 2, 3)))
        if len(empty):
            raise DataError(
                f"{self.path}: array '{self._camera}' row {first_row + empty[0]} holds nothing but the fill value, and "
                "some chunks are not stored: copy the array again, or keep such frames with --keep-one-colour"
            )

    def _read_ends(self) -> np.ndarray:
        return checked_ends(self, self._buffer.read(ENDS))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays. An array that cannot be opened is an error only where it is needed."""
        shapes = {}
        for name in self._arrays:
            try:
                shapes[name] = tuple(self._buffer.array(name).shape)
            except DataError as error:
                if name == ACTION or name == f"data/{self.options.camera}":
                    raise
                self._unopened.append(str(error))
        return shapes

    def _check_rows(self, name: str, shape: tuple[int, ...]) -> None:
        if not shape or shape[0] != self._ends[-1]:
            raise DataError(
                f"{self.path}: array '{name}' has {shape[0] if shape else 'no'} rows, '{ENDS}' ends at {self._ends[-1]}"
            )

    def _pick_camera(self, shapes: dict[str, tuple[int, ...]]) -> str:
        images = [name for name, shape in shapes.items() if len(shape) == 4 and {shape[1], shape[3]} & {1, 3}]
        short = [name.removeprefix("data/") for name in images]
        chosen = self.options.camera
        if chosen is not None:
            if chosen not in short:
                raise DataError(f"{self.path}: no frames are called '{chosen}'{did_you_mean(chosen, short)}")
            return f"data/{chosen}"
        # Depth has one channel of wide numbers, and is never taken for a picture unless it is asked for.
        pictures = [name for name in images if self._is_picture(name, shapes[name])]
        if len(pictures) == 1:
            return pictures[0]
        found = ", ".join([*(f"{name} {shape}" for name, shape in shapes.items()), *self._unopened])
        if pictures:
            raise DataError(
                f"{self.path}: there are several arrays of frames; say which with --camera; its arrays: {found}"
            )
        depth = f"; {', '.join(images)} look(s) like depth" if images else ""
        raise DataError(f"{self.path}: there is no array of frames [N,Y,X,3]{depth}; its arrays: {found}")

    def _is_picture(self, name: str, shape: tuple[int, ...]) -> bool:
        is_wide = self._buffer.array(name).dtype != np.uint8
        return "depth" not in name.lower() and not (is_wide and 3 not in (shape[1], shape[3]))

    def _pick_proprio(self, shapes: dict[str, tuple[int, ...]]) -> str:
        for name in PROPRIO:
            if len(shapes.get(f"data/{name}", ())) == 2:
                return f"data/{name}"
        found = ", ".join([*(f"{name} {shape}" for name, shape in shapes.items()), *self._unopened])
        raise DataError(f"{self.path}: none of {', '.join(PROPRIO)} to take proprio from; its arrays: {found}")

    def _read_vectors(self, name: str) -> np.ndarray:
        """All rows of an array as `[N,width]` float64, checked; the last action of an episode may be NaN."""
        values = self._buffer.read(name)
        if values.dtype.kind not in "biuf" or values.ndim > 2:
            raise DataError(f"{self.path}: array '{name}' is {values.dtype} {values.shape}, expected numbers [N,width]")
        self._dtypes[name] = str(values.dtype)
        values = values.reshape(len(values), -1).astype(np.float64)
        bad = ~np.isfinite(values).all(axis=1)
        if name == ACTION:
            bad[self._ends[np.diff(self._ends, prepend=0) > 0] - 1] = False
        mark_bad_rows(self, bad, self._ends, f"{self.path}: array '{name}':")
        return values
