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
leads nowhere and is dropped; stable-worldmodel records it as NaN. In a file whose NaN is in the first row of an episode
instead, each action led to its row, so such a file is refused.

No rate is recorded, so `control_hz` is needed. No environment is named, since stable-worldmodel's states differ from
those of the environments here. A video that goes on after the rows of its episode is cut there, and that is noted.

Reference: galilai-group/stable-worldmodel 0.1.1.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.importers.arrays import finite
from jepawm.data.importers.base import NOTES, Choices, EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.reading import LONGER_VIDEO, casts, indexed_names, outward, pick
from jepawm.data.importers.stable_worldmodel_stores import open_store
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.errors import DataError
from jepawm.pictures import square
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
        for number, reason in store.short.items():
            self.mark_bad(number, reason)
        images = sorted(store.images, key=lambda name: (name != "pixels", "depth" in name.lower(), name))
        self._camera = pick(options.camera, images, "column of frames", str(store.path))
        columns = ", ".join([*store.widths, *store.texts, *store.images])
        if "action" not in store.widths:
            raise DataError(f"{store.path}: column 'action' is missing; there are: {columns}")
        proprio = [name for name in PROPRIO if name in store.widths]
        if not proprio:
            raise DataError(f"{store.path}: no column {', '.join(PROPRIO)} to take proprio from; there are: {columns}")
        self._proprio = proprio[0]
        self._height, self._width = (1, 1)
        if self.num_episodes:
            self._height, self._width = self.first_sound(lambda number: store.frame_size(self._camera, number))
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
        state_width = store.widths.get("state")
        return DatasetSpec(
            name=store.path.stem,
            control_hz=self._control_hz,
            pixels=PixelSpec(self._side, self._side, 3, self.options.codec or store.codec),
            action=ActionSpec(store.widths["action"], low, high),
            proprio=VectorSpec(store.widths[self._proprio], indexed_names(self._proprio, store.widths[self._proprio])),
            sim_state=VectorSpec(state_width, indexed_names("state", state_width)) if state_width else None,
            source={"camera": self._camera, "proprio": self._proprio},
        )

    def choices(self) -> Choices:
        store = self._store
        used = {self._camera, "action", self._proprio, "state", *self._variation, *store.texts}
        return Choices(
            took={
                "pixels": [self._camera],
                "actions": ["action"],
                "proprio": [self._proprio],
                "sim_state": ["state"] if "state" in store.widths else [],
                "info": [*self._variation, *store.texts],
            },
            cast=casts({name: store.dtypes[name] for name in ("action", self._proprio)}),
            left_out=sorted({*store.widths, *store.images, *store.skipped} - used),
            assumed=["an action leads from the frame of its row to the frame of the next row"],
        )

    def read(self, number: int) -> Episode:
        store = self._store
        start, length = int(store.offsets[number]), int(store.lengths[number])
        frames = store.frames(self._camera, number)
        if frames.shape[1:3] != (self._height, self._width):
            raise DataError(
                f"{store.where(self._camera)}: frames of episode {number} are {frames.shape[1:3]} px, those of "
                f"the first episode {self._height, self._width}"
            )
        frames = np.repeat(frames, 3, axis=3) if frames.shape[3] == 1 else frames
        notes = [LONGER_VIDEO] if len(frames) > length else []
        frames = frames[:length]
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
            info=info | ({"source_variation": variation} if variation else {}) | ({NOTES: notes} if notes else {}),
        )

    @property
    def _variation(self) -> list[str]:
        return [name for name in self._store.widths if name.startswith(("variation.", "variation_"))]

    def _rows(self, column: str, start: int, stop: int) -> np.ndarray:
        return finite(self._store.rows(column, start, stop), self._store.where(column), start)

    def _action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action of each dimension, `[a]` each, without the last ones of episodes."""
        store = self._store
        numbers = self.numbers
        total = int(store.lengths[numbers.start : numbers.stop].sum())
        width = store.widths["action"]
        low, high = np.full(width, np.inf), np.full(width, -np.inf)
        leads_on = np.ones(total, dtype=bool)
        leads_on[[int(store.offsets[n] + store.lengths[n]) - 1 for n in numbers if store.lengths[n]]] = False
        for number in self.bad:
            leads_on[store.offsets[number] : store.offsets[number] + store.lengths[number]] = False
        for start in range(0, total, _SCAN_ROWS):
            block = store.rows("action", start, min(start + _SCAN_ROWS, total)).astype(np.float64)
            used = leads_on[start : start + len(block)]
            for row in (start + np.flatnonzero(used & ~np.isfinite(block).all(axis=1))).tolist():
                number = int(np.searchsorted(store.offsets, row, side="right")) - 1
                why = ""
                if row == store.offsets[number]:
                    why = ", the first of its episode: its actions are those that led to each row; move them up by one"
                self.mark_bad(number, f"{store.where('action')}: row {row} holds NaN or infinity{why}")
                leads_on[store.offsets[number] : store.offsets[number] + store.lengths[number]] = False
            low = np.minimum(low, block[used].min(axis=0, initial=np.inf))
            high = np.maximum(high, block[used].max(axis=0, initial=-np.inf))
        if not np.isfinite(low).all():
            raise DataError(f"{store.where('action')}: no episode holds an action")
        return low, high
