"""stable-worldmodel's datasets (Lance, HDF5, folders of images or videos), read without stable-worldmodel.

| theirs | ours |
|---|---|
| `pixels`, or `pixels_VIEW` (`camera`) | `pixels` |
| `action` | `actions` |
| `proprio`, else `observation`, else `state` | `proprio` |
| `state` | `sim_state` |
| `variation.*` (Lance: `variation_*`) | `info["source_variation"]`, as recorded at the first row |
| columns of text | `info`, as recorded at the first row |

A row holds a frame and the action chosen on seeing it, which leads to the next row. So the last action of an episode
leads nowhere and is dropped; theirs is NaN there. An action that is NaN in the first row instead is one that led to its
row, as their environments tell it before it is moved: such a file is refused.

No rate is recorded: `control_hz` says it. No environment is named: their states are not those of ours.

Reference: galilai-group/stable-worldmodel 0.1.1.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.importers.arrays import finite
from jepawm.data.importers.base import EpisodeSource, ImportOptions, square, square_spec
from jepawm.data.importers.reading import indexed_names, outward, pick
from jepawm.data.importers.stable_worldmodel_stores import open_store
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.errors import DataError
from jepawm.types import ActionSpec, Episode, VectorSpec

PROPRIO = ("proprio", "observation", "state")
_SCAN_ROWS = 65536


class StableWorldModel(EpisodeSource):
    """A `.lance` table, an `.h5` file, a folder with `ep_len.npz`, or a folder with one of them.

    Raises:
        DataError: A store that is damaged, or without frames, actions or readings; ragged columns, NaN, frames that
            cannot be decoded or are of different sizes.
        MissingDependencyError: pylance, h5py or av is not installed.
    """

    name = "stable-worldmodel"
    about = "stable-worldmodel's datasets: Lance, HDF5, folders of images or videos"

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(split=options.split)
        if options.control_hz is None:
            raise DataError(f"{path}: '{self.name}' records no rate; say it, e.g. --control-hz 10")
        self._control_hz = options.control_hz
        self._store = store = open_store(self.path)
        images = sorted(store.images, key=lambda name: (name != "pixels", name))
        self._camera = pick(options.camera, images, "column of frames", str(store.path))
        columns = ", ".join([*store.widths, *store.texts, *store.images])
        if "action" not in store.widths:
            raise DataError(f"{store.path}: column 'action' is missing; there are: {columns}")
        proprio = [name for name in PROPRIO if name in store.widths]
        if not proprio:
            raise DataError(f"{store.path}: no column {', '.join(PROPRIO)} to take proprio from; there are: {columns}")
        self._proprio = proprio[0]
        self._height, self._width = store.frame_size(self._camera) if self.num_episodes else (1, 1)
        self._side = square_spec(self._height, self._width, options)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_file():
            return path.suffix == ".h5" and path.stem not in ("episode", "trajectory")
        if path.suffix == ".lance" or (path / "ep_len.npz").is_file():
            return True
        return any(found.is_dir() for found in path.glob("*.lance"))

    @property
    def num_episodes(self) -> int:
        return len(self._store.lengths)

    def spec(self) -> DatasetSpec:
        store = self._store
        low, high = outward(*self._action_range())
        used = {self._camera, "action", self._proprio, "state", *self._variation, *store.texts}
        state_width = store.widths.get("state")
        return DatasetSpec(
            name=store.path.stem,
            control_hz=self._control_hz,
            pixels=PixelSpec(self._side, self._side, 3, self.options.codec or store.codec),
            action=ActionSpec(store.widths["action"], low, high),
            proprio=VectorSpec(store.widths[self._proprio], indexed_names(self._proprio, store.widths[self._proprio])),
            sim_state=VectorSpec(state_width, indexed_names("state", state_width)) if state_width else None,
            source={
                "camera": self._camera,
                "proprio": self._proprio,
                "left_out": sorted({*store.widths, *store.images} - used),
            },
        )

    def read(self, number: int) -> Episode:
        store = self._store
        start, length = int(store.offsets[number]), int(store.lengths[number])
        frames = store.frames(self._camera, number)
        if frames.shape[1:3] != (self._height, self._width):
            raise DataError(
                f"{store.where(self._camera)}: frames of episode {number} are {frames.shape[1:3]} px, those of "
                f"episode 0 {self._height, self._width}"
            )
        frames = np.repeat(frames, 3, axis=3) if frames.shape[3] == 1 else frames
        state = self._rows("state", start, start + length) if "state" in store.widths else None
        info: dict[str, Any] = {"source_episode": number}
        info |= {name: store.text(name, start) for name in store.texts}
        variation = {name: self._rows(name, start, start + 1)[0].tolist() for name in self._variation}
        return Episode(
            episode_id=number,
            pixels=square(frames, self._side),
            actions=self._rows("action", start, start + length - 1).astype(np.float32),
            proprio=self._rows(self._proprio, start, start + length).astype(np.float32),
            sim_state=None if state is None else state.astype(np.float64),
            info=info | ({"source_variation": variation} if variation else {}),
        )

    @property
    def _variation(self) -> list[str]:
        return [name for name in self._store.widths if name.startswith(("variation.", "variation_"))]

    def _rows(self, column: str, start: int, stop: int) -> np.ndarray:
        return finite(self._store.rows(column, start, stop), self._store.where(column), start)

    def _action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action of each dimension, `[a]` each, without the last ones of episodes."""
        store, total = self._store, int(self._store.lengths.sum())
        width = store.widths["action"]
        low, high = np.full(width, np.inf), np.full(width, -np.inf)
        leads_on = np.ones(total, dtype=bool)
        leads_on[store.offsets + store.lengths - 1] = False
        firsts = set(store.offsets.tolist())
        for start in range(0, total, _SCAN_ROWS):
            block = store.rows("action", start, min(start + _SCAN_ROWS, total)).astype(np.float64)
            used = leads_on[start : start + len(block)]
            bad = np.flatnonzero(used & ~np.isfinite(block).all(axis=1))
            if len(bad):
                row = start + int(bad[0])
                why = ""
                if row in firsts:
                    why = ", the first of its episode: its actions are those that led to each row; move them up by one"
                raise DataError(f"{store.where('action')}: row {row} holds NaN or infinity{why}")
            low = np.minimum(low, block[used].min(axis=0, initial=np.inf))
            high = np.maximum(high, block[used].max(axis=0, initial=-np.inf))
        return low, high
