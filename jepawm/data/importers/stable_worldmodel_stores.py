"""The stores of stable-worldmodel. Each gives named columns with a row for every env_step.

| store | numbers | frames | episodes |
|---|---|---|---|
| `NAME.lance` | fixed-size lists | JPEG in a binary column | columns `episode_idx`, `step_idx` |
| `NAME.h5` | datasets `[rows,...]` | dataset `[rows,Y,X,C]` or `[rows,C,Y,X]` | `ep_len`, `ep_offset` |
| folder | `COLUMN.npz` | `COLUMN/ep_E_step_S.jpeg` | `ep_len.npz`, `ep_offset.npz` |
| folder | `COLUMN.npz` | `COLUMN/ep_E.mp4` | the same |
"""

import importlib
import os
import zipfile
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.importers.arrays import as_frames, channels_last
from jepawm.data.importers.hdf5 import names_in
from jepawm.data.importers.reading import decode_image
from jepawm.data.video import read_video, video_info
from jepawm.errors import DataError, require

_NUMBERS = "biuf"
EPISODE_COLUMNS = ("episode_idx", "step_idx", "ep_len", "ep_offset")


class Store(ABC):
    """Rows of all episodes, one after the other.

    Attributes:
        path: Where it is.
        widths: Numbers in a row of each numeric column, all dimensions taken together.
        images: Columns of frames.
        texts: Columns of strings.
        dtypes: Type of the numbers of each of `widths`.
        skipped: Columns of a kind that is not read.
        lengths: `[E]`, rows of each episode.
        offsets: `[E]`, first row of each.
        short: Reason by number of each episode of fewer than 2 rows.
        codec: How frames are stored by default: exactly where the store holds them exactly.
    """

    codec = "jpeg"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.widths: dict[str, int] = {}
        self.dtypes: dict[str, str] = {}
        self.skipped: list[str] = []
        self.short: dict[int, str] = {}
        self.images: list[str] = []
        self.texts: list[str] = []
        self.lengths = self.offsets = np.zeros(0, dtype=np.int64)

    def where(self, column: str) -> str:
        """How errors call a column."""
        return f"{self.path}: column '{column}'"

    @abstractmethod
    def rows(self, column: str, start: int, stop: int) -> np.ndarray:
        """Rows of a numeric column, `[n,width]`."""

    @abstractmethod
    def text(self, column: str, row: int) -> str:
        """A row of a column of strings."""

    @abstractmethod
    def frames(self, column: str, number: int) -> np.ndarray:
        """All frames of an episode, `[T,Y,X,C]` uint8; a video may hold more than there are rows."""

    @abstractmethod
    def frame_size(self, column: str, number: int) -> tuple[int, int]:
        """Height and width of the first frame of an episode."""

    def _set_episodes(self, lengths: np.ndarray, offsets: np.ndarray, rows: dict[str, int]) -> None:
        """Keeps the episodes, if every column has their rows.

        Raises:
            DataError: Lengths and offsets that do not fit together, or a column with another number of rows.
            Episodes of fewer than 2 rows are noted in `short`.
        """
        shapes = f"ep_len is {lengths.dtype} {lengths.shape}, ep_offset {offsets.dtype} {offsets.shape}"
        if lengths.ndim != 1 or lengths.shape != offsets.shape or {lengths.dtype.kind, offsets.dtype.kind} - set("iu"):
            raise DataError(f"{self.path}: {shapes}; expected two lists of whole numbers, one for each episode")
        self.lengths, self.offsets = lengths.astype(np.int64), offsets.astype(np.int64)
        expected = np.concatenate([[0], np.cumsum(self.lengths)])
        for number in np.flatnonzero((self.lengths < 2) | (self.offsets != expected[:-1])).tolist():
            reason = (
                f"{self.path}: episode {number} has {self.lengths[number]} rows from row {self.offsets[number]} on; "
                f"expected 2 or more, from row {expected[number]} on"
            )
            if self.lengths[number] < 0 or self.offsets[number] != expected[number]:
                raise DataError(reason)
            self.short[number] = reason
        for column, count in rows.items():
            if count != expected[-1]:
                raise DataError(f"{self.where(column)} has {count} rows, the episodes have {expected[-1]}")


def open_store(path: Path) -> Store:
    """The store at a path: itself, or the only one in a folder.

    Raises:
        DataError: There is no store, more than one, or a damaged one.
        MissingDependencyError: The package that reads it is not installed.
    """
    if path.is_file():
        return Hdf5Store(path)
    if path.suffix == ".lance":
        return LanceStore(path)
    if (path / "ep_len.npz").is_file():
        return FolderStore(path)
    found = sorted(p for p in path.iterdir() if (p.suffix == ".lance" and p.is_dir()) or p.suffix in (".h5", ".hdf5"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise DataError(f"{path}: expected one .lance, .h5 or .hdf5 in it, or ep_len.npz, found: {names}")
    return open_store(found[0])


class LanceStore(Store):
    """A Lance table."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        import pyarrow as pa

        self._dataset = _open_lance(path)
        for field in self._dataset.schema:
            kind = field.type
            if field.name in EPISODE_COLUMNS:
                continue
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                self.images.append(field.name)
            elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
                self.texts.append(field.name)
            elif pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type):
                self.widths[field.name] = kind.list_size
                self.dtypes[field.name] = str(kind.value_type)
            elif _is_number(kind):
                self.widths[field.name] = 1
                self.dtypes[field.name] = str(kind)
            else:
                self.skipped.append(field.name)
        if "episode_idx" not in self._dataset.schema.names:
            raise DataError(f"{path}: column 'episode_idx' is missing, found {self._dataset.schema.names}")
        self._read_episodes()

    def rows(self, column: str, start: int, stop: int) -> np.ndarray:
        import pyarrow as pa

        found = self._column(column, start, stop).combine_chunks()
        # A fixed-size list is one long row of numbers.
        numbers = found.flatten() if pa.types.is_fixed_size_list(found.type) else found
        if found.null_count or numbers.null_count:
            raise DataError(f"{self.where(column)}: rows {start} to {stop} hold an empty cell")
        return np.asarray(numbers.to_numpy(zero_copy_only=False)).reshape(stop - start, -1)

    def text(self, column: str, row: int) -> str:
        try:
            return str(self._column(column, row, row + 1)[0].as_py())
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where(column)}: row {row} is no text: {error}; copy the table again") from error

    def frames(self, column: str, number: int) -> np.ndarray:
        start = int(self.offsets[number])
        blobs = self._column(column, start, start + int(self.lengths[number]))
        images = [
            decode_image(blob.as_py() or b"", f"{self.where(column)}: row {start + t}") for t, blob in enumerate(blobs)
        ]
        return _stacked(images, f"{self.where(column)}: row {{}}", start)

    def frame_size(self, column: str, number: int) -> tuple[int, int]:
        row = int(self.offsets[number])
        blob = self._column(column, row, row + 1)[0].as_py()
        height, width = decode_image(blob or b"", f"{self.where(column)}: row {row}").shape[:2]
        return height, width

    def _read_episodes(self) -> None:
        total = int(self._dataset.count_rows())
        episode = self._indexes("episode_idx", total)
        bad = np.flatnonzero(np.diff(episode) < 0)
        if len(bad):
            raise DataError(
                f"{self.where('episode_idx')}: row {bad[0] + 1} holds episode {episode[bad[0] + 1]} after "
                f"{episode[bad[0]]}; the rows of an episode must follow each other"
            )
        offsets = np.flatnonzero(np.diff(episode, prepend=episode[0] - 1)) if total else np.zeros(0, dtype=np.int64)
        lengths = np.diff(np.append(offsets, total))
        if "step_idx" in self._dataset.schema.names:
            step = self._indexes("step_idx", total)
            expected = np.arange(total) - np.repeat(offsets, lengths)
            bad = np.flatnonzero(step != expected)
            if len(bad):
                raise DataError(
                    f"{self.where('step_idx')}: row {bad[0]} holds step {step[bad[0]]}, expected {expected[bad[0]]}"
                )
        self._set_episodes(lengths, offsets, {})

    def _indexes(self, column: str, total: int) -> np.ndarray:
        found = self._column(column, 0, total).to_numpy()
        if found.dtype.kind not in "iu":
            raise DataError(f"{self.where(column)}: {found.dtype}, expected whole numbers without gaps")
        return np.asarray(found, dtype=np.int64)

    def _column(self, column: str, start: int, stop: int) -> Any:
        import pyarrow as pa

        if self._dataset is None:
            self._dataset = _open_lance(self.path)
        try:
            return self._dataset.to_table(columns=[column], offset=start, limit=stop - start)[column]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{self.where(column)}: rows {start} to {stop} cannot be read: {error}; copy the table again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_dataset": None}


def _is_number(kind: Any) -> bool:
    """Whether an Arrow type is a float, an integer or a Boolean."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _open_lance(path: Path) -> Any:
    lance = require("lance", "lance")
    try:
        return lance.dataset(os.fspath(path.absolute()))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a Lance table, or a damaged one: {error}") from error


class Hdf5Store(Store):
    """One HDF5 file. Links to other files, and data kept in them, are refused."""

    codec = "zstd"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file: Any = None
        file, found, counts = self._open(), {}, {}
        try:
            names = names_in(file)
        except (KeyError, OSError, RuntimeError) as error:
            raise DataError(f"{path}: its columns cannot be listed: {error}; copy the file again") from error
        for name in names:
            dataset = self._dataset(file, name)
            if dataset is None:
                self.skipped.append(name)
                continue
            found[name] = dataset
            if name in EPISODE_COLUMNS:
                continue
            counts[name] = dataset.shape[0] if dataset.ndim else 0
            if dataset.dtype.kind in "SO":
                self.texts.append(name)
            elif dataset.ndim == 4 and (name.startswith("pixels") or dataset.dtype == np.uint8):
                self.images.append(name)
            elif dataset.dtype.kind in _NUMBERS:
                self.widths[name] = int(np.prod(dataset.shape[1:], dtype=np.int64))
                self.dtypes[name] = str(dataset.dtype)
            else:
                self.skipped.append(name)
        for name in ("ep_len", "ep_offset"):
            if name not in found:
                raise DataError(f"{path}: column '{name}' is missing, found {', '.join(found)}")
        self._set_episodes(self._read("ep_len", slice(None)), self._read("ep_offset", slice(None)), counts)

    def rows(self, column: str, start: int, stop: int) -> np.ndarray:
        return self._read(column, slice(start, stop)).reshape(stop - start, -1)

    def text(self, column: str, row: int) -> str:
        value = self._read(column, slice(row, row + 1))[0]
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def frames(self, column: str, number: int) -> np.ndarray:
        start = int(self.offsets[number])
        values = self._read(column, slice(start, start + int(self.lengths[number])))
        return as_frames(values, self.where(column), start)

    def frame_size(self, column: str, number: int) -> tuple[int, int]:
        shape = self._open()[column].shape
        return (shape[1], shape[2]) if channels_last(shape, self.where(column)) else (shape[2], shape[3])

    def _dataset(self, file: Any, name: str) -> Any:
        """The dataset of a name; None for a group, or a dataset that holds nothing."""
        h5py = require("h5py", "hdf5")
        try:
            link = file.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise DataError(f"{self.where(name)} is a link to the file '{link.filename}'; refusing to follow it")
            found = file[name]
            # A number format that damage made up is heard of here.
            getattr(found, "dtype", None)
        except (KeyError, OSError, RuntimeError, ValueError, TypeError) as error:
            raise DataError(f"{self.where(name)} cannot be opened: {error}; copy the file again") from error
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            return None
        if found.external or found.is_virtual:
            raise DataError(f"{self.where(name)} keeps its data in other files; refusing to follow them")
        return found

    def _read(self, column: str, rows: slice) -> np.ndarray:
        try:
            return np.asarray(self._open()[column][rows])
        # A single number has no rows: a ValueError.
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.where(column)}: rows cannot be read: {error}; copy the file again, and install the package "
                "'hdf5plugin' if it was written with one of its compressions"
            ) from error

    def _open(self) -> Any:
        if self._file is None:
            h5py = require("h5py", "hdf5")
            # Compressions that are not HDF5's own.
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise DataError(f"{self.path}: not an HDF5 file, or a truncated one: {error}; copy it again") from error
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


class FolderStore(Store):
    """Numbers in `.npz`, frames as an image a step or a video an episode."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._loaded: dict[str, np.ndarray] = {}
        counts = {}
        for file in sorted(path.glob("*.npz")):
            if file.stem in EPISODE_COLUMNS:
                continue
            values = self._values(file.stem)
            counts[file.stem] = len(values) if values.ndim else 0
            if values.dtype.kind in "SU":
                self.texts.append(file.stem)
            elif values.dtype.kind in _NUMBERS:
                self.widths[file.stem] = int(np.prod(values.shape[1:], dtype=np.int64))
                self.dtypes[file.stem] = str(values.dtype)
            else:
                self.skipped.append(file.stem)
        self.images = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        self._set_episodes(self._values("ep_len"), self._values("ep_offset"), counts)

    def rows(self, column: str, start: int, stop: int) -> np.ndarray:
        return self._values(column)[start:stop].reshape(stop - start, -1)

    def text(self, column: str, row: int) -> str:
        return str(self._values(column)[row])

    def frames(self, column: str, number: int) -> np.ndarray:
        length = int(self.lengths[number])
        video = self._video(column, number)
        if video.is_file():
            frames, _ = read_video(video, what=str(video))
            if len(frames) < length:
                raise DataError(f"{video}: holds {len(frames)} frames, its episode has {length} rows")
            # More of them than rows are for the caller to cut and to note.
            return frames
        images = [self._image(column, number, step) for step in range(length)]
        return _stacked(images, f"{self.path / column}: ep_{number}_step_{{}}")

    def frame_size(self, column: str, number: int) -> tuple[int, int]:
        video = self._video(column, number)
        if video.is_file():
            info = video_info(video, what=str(video))
            return info.height, info.width
        height, width = self._image(column, number, 0).shape[:2]
        return height, width

    def _video(self, column: str, number: int) -> Path:
        return self.path / column / f"ep_{number}.mp4"

    def _image(self, column: str, number: int, step: int) -> np.ndarray:
        stem = self.path / column / f"ep_{number}_step_{step}"
        for file in (stem.with_suffix(".jpeg"), stem.with_suffix(".jpg")):
            if file.is_file():
                return decode_image(file.read_bytes(), str(file))
        raise DataError(f"{stem}.jpeg: no such file, and no video {self._video(column, number).name} either")

    def _values(self, column: str) -> np.ndarray:
        if column not in self._loaded:
            file = self.path / f"{column}.npz"
            if not file.is_file():
                raise DataError(f"{file}: no such file")
            try:
                # Nothing pickled is loaded.
                with np.load(file, allow_pickle=False) as archive:
                    self._loaded[column] = archive["arr_0"]
            except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise DataError(f"{file}: cannot be read: {error}; copy it again") from error
        return self._loaded[column]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": {}}


def _stacked(images: list[np.ndarray], where: str, first: int = 0) -> np.ndarray:
    for number, image in enumerate(images):
        if image.shape != images[0].shape:
            raise DataError(f"{where.format(first + number)} is {image.shape}, the first frame is {images[0].shape}")
    return np.stack(images)
