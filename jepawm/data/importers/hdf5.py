"""HDF5 files: opened with errors that name file and key."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.errors import DataError, require


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An open `h5py.File`.

    Raises:
        DataError: No such file, not HDF5, or cut short; also where reading fails while it is open.
        MissingDependencyError: The package `h5py` is not installed.
    """
    h5py = require("h5py", "hdf5")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    # A link inside the file that leads nowhere is a KeyError, a damaged number format a ValueError or a TypeError.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not an HDF5 file that can be read, or a damaged one: {error}; copy it again"
        ) from error


def entry(group: Any, key: str, path: Path) -> Any:
    """A dataset below a group.

    Args:
        group: Where to look.
        key: Its path below the group.
        path: The opened file.

    Raises:
        DataError: It is missing (the message lists the entries), is a group, or lies in another file.
    """
    if key not in group or not hasattr(group[key], "shape"):
        parent = group
        for part in key.split("/")[:-1]:
            if part not in parent or not hasattr(parent[part], "keys"):
                break
            parent = parent[part]
        there = ", ".join(sorted(map(str, parent))) or "nothing"
        raise DataError(f"{path}: the dataset '{key}' is missing ('{parent.name}' holds: {there})")
    item = group[key]
    if Path(item.file.filename) != path or item.external or item.is_virtual:
        raise DataError(f"{path}: the dataset '{key}' is kept in another file; refusing to follow it")
    return item


def names_in(group: Any) -> list[str]:
    """Names of the entries of a group.

    Raises:
        DataError: A name is no text, which only damage explains.
    """
    names = list(group)
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{group.file.filename}: '{group.name}' holds an entry named {name!r}; copy the file again")
    return names


def leaves(group: Any) -> list[str]:
    """Paths of the datasets below a group; links to other files are not followed."""
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            names.append(str(name))

    group.visititems(note)
    return names


def cameras(group: Any, suffix: str = "") -> list[str]:
    """Names of the datasets in a group that hold RGB frames `[T,Y,X,3]` uint8; coloured depth comes last."""
    items = ((name, group[name]) for name in names_in(group) if name.endswith(suffix))
    names = [
        name
        for name, item in items
        if getattr(item, "dtype", None) == np.uint8 and len(item.shape) == 4 and item.shape[3] == 3
    ]
    return sorted(names, key=lambda name: ("depth" in name.lower(), name))
