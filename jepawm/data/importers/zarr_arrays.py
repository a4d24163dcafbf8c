"""Arrays of a zarr, version 2 or 3, in a folder or a zip, with what is wrong with them told by name."""

import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jepawm.errors import DataError, require

ENDS = "meta/episode_ends"
_METADATA = (".zarray", "zarr.json")
# What zarr raises over metadata that ask for the impossible: no chunks, more than there is memory, endless nesting.
_IMPOSSIBLE = (ArithmeticError, MemoryError, RecursionError)


class ZarrArrays:
    """The arrays of a replay buffer: a zarr with `data/*` and `meta/episode_ends`, or a folder or zip around one.

    Opened where it is first read; a copy in another process opens it anew.

    Args:
        path: Of the folder or zip.

    Attributes:
        names: Of its arrays, such as `data/action`.

    Raises:
        DataError: No such buffer, a damaged zip, or one with paths that lead out of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix, self.names = _find(path)
        self._store: Any = None
        self._arrays: dict[str, Any] = {}

    def require(self, *names: str) -> None:
        """Checks that there are arrays of these names.

        Raises:
            DataError: One is missing.
        """
        for name in names:
            if name not in self.names:
                raise DataError(f"{self.path}: array '{name}' is missing; there are: {', '.join(self.names)}")

    def array(self, name: str) -> Any:
        """One of them, not yet read.

        Raises:
            DataError: It cannot be opened, or not all of it is there.
            MissingDependencyError: The package `zarr` is not installed.
        """
        if name in self._arrays:
            return self._arrays[name]
        zarr = require("zarr", "zarr")
        try:
            if self._store is None:
                kind = zarr.storage.ZipStore if self.path.is_file() else zarr.storage.LocalStore
                self._store = kind(self.path, read_only=True)
            array = zarr.open_array(self._store, path=self._prefix + name, mode="r")
            chunks, chunks_there = array.nchunks, array.nchunks_initialized
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile, *_IMPOSSIBLE) as error:
            what = str(error) or type(error).__name__
            raise DataError(f"{self.path}: array '{name}' cannot be opened: {what}") from error
        # zarr reads a chunk that is not there as its fill value, without a word.
        if chunks_there != chunks:
            raise DataError(
                f"{self.path}: array '{name}' has {chunks_there} of its {chunks} chunks; copy it "
                "again (or write it with write_empty_chunks=True, if the others hold nothing but the fill value)"
            )
        self._arrays[name] = array
        return array

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of one of them.

        Raises:
            DataError: As `array`, or a damaged chunk.
        """
        array = self.array(name)
        try:
            return np.asarray(array[start:stop])
        except (zipfile.BadZipFile, RuntimeError, ValueError, OSError, *_IMPOSSIBLE) as error:
            where = "some rows" if stop is None else f"rows {start} to {stop}"
            raise DataError(f"{self.path}: array '{name}', {where}, cannot be read: {error}; copy it again") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None, "_arrays": {}}


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
                # Nothing is extracted, yet a path that climbs out means that the archive is not what it claims to be.
                if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                    raise DataError(f"{path}: the entry '{name}' points outside the archive; refusing to read it")
            files = [PurePosixPath(name) for name in archive.namelist()]
            metadata = [file for file in files if file.name in _METADATA]
            return [str(file.parent) for file in metadata if _is_array(file.name, archive.read(str(file)))]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not a zip file, or a truncated one: {error}; copy it again") from error


def _is_array(name: str, content: bytes) -> bool:
    """Whether metadata is that of an array; version 3 has the same name for groups."""
    return name == ".zarray" or b'"array"' in content
