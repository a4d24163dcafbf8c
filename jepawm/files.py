"""Files and folders that appear under their names only when they are whole."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which takes the given name when the block ends without an error.

    An older folder of that name is replaced. It is moved aside to `PATH.tmp-old-PID` and removed after the new folder
    has its name, so a kill between the two leaves both folders whole, though none under `path`. After an error the
    older folder is under its name again, and nothing else is left behind.

    Args:
        path: Of the folder.
    """
    temporary = Path(f"{os.fspath(path)}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if os.path.isdir(path):
            older = Path(f"{os.fspath(path)}.tmp-old-{os.getpid()}")
            shutil.rmtree(older, ignore_errors=True)
            os.replace(path, older)
            try:
                os.replace(temporary, path)
            except BaseException:
                os.replace(older, path)
                raise
            shutil.rmtree(older, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file to, which takes the given name when the block ends without an error.

    Args:
        path: Of the file; an older one of that name is replaced.
    """
    temporary = Path(f"{os.fspath(path)}.tmp-{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Appends a line to a file; a line that a kill cut short there is ended first, or it would swallow this one.

    Args:
        path: Of the file, which need not exist.
        line: With its end.
    """
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())


def write_json(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Writes JSON; NaN and infinity, which JSON does not know, become null."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(finite(data), indent=1, allow_nan=False), encoding="utf-8")


def finite(value: Any) -> Any:
    """Plain data in which NaN and infinity, which JSON does not know, are None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
