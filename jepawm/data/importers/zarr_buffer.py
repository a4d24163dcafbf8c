"""Replay buffers in zarr, as Diffusion Policy and its successors keep them: version 2 or 3, a folder or a zip.

| theirs | ours |
|---|---|
| one of `data/*` with four dimensions (`camera`) | `pixels` |
| `data/action` | `actions` |
| the first of `PROPRIO` that there is in `data` | `proprio` |
| `data/state`, where it is not the proprio | `sim_state` |
| `meta/episode_ends` `[E]`: one past each episode's last row | episode ids 0, 1, ... in that order |

The action of a row was chosen on seeing the row's frame and leads to the next row; the last one of an episode leads
nowhere and is dropped. Numbers stay as recorded, whatever they mean. A buffer does not say its rate: `control_hz` does.

The human demonstrations of Push-T have an importer of their own (`pusht_zarr.py`), which knows what their numbers mean.

Reference: C. Chi et al., "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", RSS 2023.
"""

import os
from pathlib import Path

import numpy as np

from jepawm.data.importers.arrays import as_frames, channels_last, finite
from jepawm.data.importers.base import EpisodeSource, ImportOptions, square, square_spec
from jepawm.data.importers.pusht_zarr import PushTZarr
from jepawm.data.importers.reading import indexed_names, outward
from jepawm.data.importers.zarr_arrays import ENDS, ZarrArrays
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.errors import DataError, did_you_mean
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
        DataError: A missing or damaged array, ragged arrays, NaN, frames whose scale cannot be told, a codec that zarr
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
        shapes = {name: self._checked_shape(name) for name in self._arrays}
        self._camera = self._pick_camera(shapes)
        self._proprio = self._pick_proprio(shapes)
        shape, what = shapes[self._camera], f"{self.path}: array '{self._camera}'"
        height, width = shape[1:3] if channels_last(shape, what) else shape[2:4]
        self._side = square_spec(height, width, options)
        self._vectors = {ACTION: self._read_vectors(ACTION), self._proprio: self._read_vectors(self._proprio)}
        if STATE in shapes and STATE not in self._vectors and len(shapes[STATE]) <= 2:
            self._vectors[STATE] = self._read_vectors(STATE)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if PushTZarr.recognises(path):
            return False
        return path.name.endswith(".zarr.zip") or ((path / ENDS).is_dir() and (path / ACTION).is_dir())

    @property
    def num_episodes(self) -> int:
        return len(self._ends)

    def spec(self) -> DatasetSpec:
        leads_on = np.ones(self._ends[-1], dtype=bool)
        leads_on[self._ends - 1] = False
        actions, proprio = self._vectors[ACTION][leads_on], self._vectors[self._proprio]
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
            source={
                "camera": self._camera,
                "proprio": self._proprio,
                "left_out": sorted(set(self._arrays) - {self._camera, *self._vectors}),
            },
        )

    def read(self, number: int) -> Episode:
        start, stop = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        values = self._buffer.read(self._camera, start, stop)
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

    def _read_ends(self) -> np.ndarray:
        ends = self._buffer.read(ENDS)
        if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
            raise DataError(f"{self.path}: array '{ENDS}' is {ends.dtype} {ends.shape}, expected whole numbers [E]")
        ends = ends.astype(np.int64)
        bad = np.flatnonzero(np.diff(ends, prepend=0) < 2)
        if len(bad):
            raise DataError(
                f"{self.path}: array '{ENDS}' row {bad[0]} is {ends[bad[0]]}: an episode of fewer than 2 rows"
            )
        return ends

    def _checked_shape(self, name: str) -> tuple[int, ...]:
        array = self._buffer.array(name)
        if not array.shape or array.shape[0] != self._ends[-1]:
            raise DataError(
                f"{self.path}: array '{name}' has {array.shape[0] if array.shape else 'no'} rows, '{ENDS}' ends at "
                f"{self._ends[-1]}"
            )
        return tuple(array.shape)

    def _pick_camera(self, shapes: dict[str, tuple[int, ...]]) -> str:
        images = [name for name, shape in shapes.items() if len(shape) == 4 and {shape[1], shape[3]} & {1, 3}]
        short = [name.removeprefix("data/") for name in images]
        chosen = self.options.camera
        if chosen is not None:
            if chosen not in short:
                raise DataError(f"{self.path}: no frames are called '{chosen}'{did_you_mean(chosen, short)}")
            return f"data/{chosen}"
        if len(images) != 1:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            many = "there are several arrays of frames; say which with --camera"
            raise DataError(
                f"{self.path}: {many if images else 'there is no array of frames [N,Y,X,3]'}; its arrays: {found}"
            )
        return images[0]

    def _pick_proprio(self, shapes: dict[str, tuple[int, ...]]) -> str:
        for name in PROPRIO:
            if len(shapes.get(f"data/{name}", ())) == 2:
                return f"data/{name}"
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"{self.path}: none of {', '.join(PROPRIO)} to take proprio from; its arrays: {found}")

    def _read_vectors(self, name: str) -> np.ndarray:
        """All rows of an array as `[N,width]` float64, checked; the last action of an episode may be NaN."""
        values = self._buffer.read(name)
        if values.dtype.kind not in "biuf" or values.ndim > 2:
            raise DataError(f"{self.path}: array '{name}' is {values.dtype} {values.shape}, expected numbers [N,width]")
        values = values.reshape(len(values), -1).astype(np.float64)
        checked = values.copy()
        if name == ACTION:
            checked[self._ends - 1] = 0
        finite(checked, f"{self.path}: array '{name}'")
        return values
