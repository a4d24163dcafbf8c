"""Arrays of a zarr, version 2 or 3, in a folder or a zip; errors name the array."""

import math
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jepawm.data.importers.base import EpisodeSource
from jepawm.errors import DataError, require

ENDS = "meta/episode_ends"
_METADATA = (".zarray", "zarr.json")
# Where the header of a Blosc chunk says how many bytes the chunk has.
_BLOSC_SIZE = slice(12, 16)
# Errors of zarr and its codecs over damaged sizes: no chunks, more than there is memory, endless nesting, below zero.
_IMPOSSIBLE = (ArithmeticError, MemoryError, RecursionError, SystemError)


class ZarrArrays:
    """The arrays of a replay buffer: a zarr with `data/*` and `meta/episode_ends`, or a folder or zip around one.

    The store is opened where it is first read; a copy in another process opens it anew.

    Args:
        path: Of the folder or zip.

    Attributes:
        names: Of its arrays, such as `data/action`.
        unstored: Chunks (or shards) that are not stored, and how many there should be, by name of the arrays that were
            read. Version 3 does not store a chunk that holds nothing but the fill value.

    Raises:
        DataError: No such buffer, a damaged zip, or one with paths that lead out of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix, self.names = _find(path)
        self._store: Any = None
        self._arrays: dict[str, Any] = {}
        self._checked: set[str] = set()
        self.unstored: dict[str, tuple[int, int]] = {}

    def require(self, *names: str) -> None:
        """Checks that there are arrays of these names.

        Raises:
            DataError: One is missing.
        """
        for name in names:
            if name not in self.names:
                raise DataError(f"{self.path}: array '{name}' is missing; there are: {', '.join(self.names)}")

    def array(self, name: str) -> Any:
        """An array, opened and not yet read.

        Raises:
            DataError: It cannot be opened.
            MissingDependencyError: The package `zarr` is not installed.
        """
        if name in self._arrays:
            return self._arrays[name]
        zarr = require("zarr", "zarr")
        try:
            if self._store is None:
                kind = zarr.storage.ZipStore if self.path.is_file() else zarr.storage.LocalStore
                self._store = _checked_store(kind(self.path, read_only=True))
            array = zarr.open_array(self._store, path=self._prefix + name, mode="r")
            if any("blosc" in type(compressor).__name__.lower() for compressor in array.compressors):
                self._store.blosc_folders.add(f"{self._prefix}{name}/")
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile, *_IMPOSSIBLE) as error:
            raise self._not_opened(name, error) from error
        self._arrays[name] = array
        return array

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of an array. In version 3, rows of a chunk that is not stored hold the fill value, see `unstored`.

        Raises:
            DataError: The array cannot be opened, a chunk is damaged, or a chunk is missing (in version 2).
        """
        array = self.array(name)
        if name not in self._checked:
            self._check_chunks(name, array)
            self._checked.add(name)
        try:
            return np.asarray(array[start:stop])
        except (zipfile.BadZipFile, RuntimeError, ValueError, OSError, *_IMPOSSIBLE) as error:
            where = "some rows" if stop is None else f"rows {start} to {stop}"
            raise DataError(f"{self.path}: array '{name}', {where}, cannot be read: {error}; copy it again") from error

    def fill_value(self, name: str) -> Any:
        """The value of rows that are not stored."""
        return self.array(name).fill_value

    def assumptions(self) -> list[str]:
        """Sentences about the arrays that are not stored in full."""
        return [
            f"{missing} of the {expected} chunks of '{name}' are not stored, and hold the fill value "
            f"{self.fill_value(name)}"
            for name, (missing, expected) in sorted(self.unstored.items())
        ]

    def _check_chunks(self, name: str, array: Any) -> None:
        """Counts stored chunks: zarr reads a chunk that is not there as the fill value, without a word."""
        try:
            stored, sizes = array.nchunks_initialized, array.shards or array.chunks
            # zarr counts whole shards by their chunks, also those beyond the edge of the array.
            each = math.prod(n // m for n, m in zip(sizes, array.chunks, strict=True))
            expected = math.prod(-(-n // m) for n, m in zip(array.shape, sizes, strict=True))
            stored //= each
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile, *_IMPOSSIBLE) as error:
            raise self._not_opened(name, error) from error
        if stored == expected:
            return
        if array.metadata.zarr_format == 2 or stored > expected or name == ENDS:
            raise DataError(
                f"{self.path}: array '{name}' has {stored} of its {expected} chunks; copy it "
                "again (or write it with write_empty_chunks=True, if the others hold nothing but the fill value)"
            )
        self.unstored[name] = (expected - stored, expected)

    def _not_opened(self, name: str, error: BaseException) -> DataError:
        return DataError(f"{self.path}: array '{name}' cannot be opened: {str(error) or type(error).__name__}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None, "_arrays": {}}


def checked_ends(source: EpisodeSource, ends: np.ndarray) -> np.ndarray:
    """`meta/episode_ends` as int64; an episode of fewer than 2 rows is marked bad.

    Raises:
        DataError: Not whole numbers that never fall, or a short episode without `leave_out_bad`.
    """
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
        raise DataError(f"{source.path}: array '{ENDS}' is {ends.dtype} {ends.shape}, expected whole numbers [E]")
    ends = ends.astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    falls = np.flatnonzero(lengths < 0)
    if len(falls):
        raise DataError(f"{source.path}: array '{ENDS}' does not increase at row {falls[0]}: {ends[falls[0]]}")
    for number in np.flatnonzero(lengths < 2).tolist():
        reason = f"an episode of {lengths[number]} row(s), which needs 2"
        source.mark_bad(number, f"{source.path}: array '{ENDS}' row {number} is {ends[number]}: {reason}")
    if ends[-1] < 2:
        raise DataError(f"{source.path}: array '{ENDS}' ends at {ends[-1]}, which leaves no episode")
    return ends


def mark_bad_rows(source: EpisodeSource, bad: np.ndarray, ends: np.ndarray, what: str) -> None:
    """Marks the episodes bad whose rows hold NaN or infinity.

    Args:
        source: Whose episodes they are.
        bad: `[N]` bool, rows that hold NaN or infinity.
        ends: `[E]`, one past the last row of each episode.
        what: File and array, for the reason.

    Raises:
        DataError: There is such a row, and the source's options do not leave out bad episodes.
    """
    for row in np.flatnonzero(bad).tolist():
        source.mark_bad(int(np.searchsorted(ends, row, side="right")), f"{what} row {row} holds NaN or infinity")


def _checked_store(inner: Any) -> Any:
    """A store that refuses a Blosc chunk that is cut short.

    The decoder of Blosc believes the size in a chunk's header. For a chunk that is shorter it reads the memory behind
    the chunk, and returns whatever lies there as numbers.
    """
    wrapper: Any = require("zarr", "zarr").storage.WrapperStore

    class CheckedStore(wrapper):  # type: ignore[misc]
        def __init__(self, store: Any) -> None:
            super().__init__(store)
            self.blosc_folders: set[str] = set()

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            chunk = await super().get(key, prototype, byte_range)
            is_whole = chunk is not None and byte_range is None and not key.endswith(_METADATA)
            if is_whole and any(key.startswith(folder) for folder in self.blosc_folders):
                size = int.from_bytes(chunk[_BLOSC_SIZE].to_bytes(), "little")
                if size != len(chunk):
                    raise ValueError(f"the chunk '{key}' has {len(chunk)} bytes, its header says {size}")
            return chunk

    return CheckedStore(inner)


def _find(path: Path) -> tuple[str, list[str]]:
    """The folder inside a store that holds `data` and `meta`, and the names of its arrays."""
    if path.is_dir():
        files = [file for kind in _METADATA for file in path.rglob(kind)]
        arrays = [file.parent.relative_to(path).as_posix() for file in files if _is_array(file.name, file.read_bytes())]
    else:
        arrays = _arrays_in_zip(path)
    roots = [name.removesuffix(ENDS) for name in arrays if name.endswith(ENDS)]
    if len(roots) != 1:
        raise DataError(f"{path}: not a replay buffer: expected one array '{ENDS}', found {len(roots)}")
    root = roots[0]
    inside = [name.removeprefix(root) for name in arrays if name.startswith((f"{root}data/", f"{root}meta/"))]
    return root, sorted(inside)


def _arrays_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                # Nothing is extracted, but a path that leaves the archive is a sign of a manipulated archive.
                if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                    raise DataError(f"{path}: the entry '{name}' points outside the archive; refusing to read it")
            files = [PurePosixPath(name) for name in archive.namelist()]
            metadata = [file for file in files if file.name in _METADATA]
            return [str(file.parent) for file in metadata if _is_array(file.name, archive.read(str(file)))]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not a zip file, or a truncated one: {error}; copy it again") from error


def _is_array(name: str, content: bytes) -> bool:
    """Whether metadata describe an array; in version 3 a file of the same name describes a group."""
    return name == ".zarray" or b'"array"' in content
