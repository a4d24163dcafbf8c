"""Tools of several importers: files below a folder, checked numbers, frames one by one."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jepawm.errors import DataError
from jepawm.pictures import square

# Recognising a folder must stay quick, however many folders it has.
_FOLDERS_LOOKED_AT = 2000
LONGER_VIDEO = "the video has more frames than its episode has rows: the frames after the last row are left out"
"""Note of an episode whose video was cut."""
# Of the file systems in use; asking for a longer one is an error of its own.
_LONGEST_NAME = 255


def files_below(root: Path, accept: Callable[[str], bool]) -> Iterator[Path]:
    """Files below a folder whose name is accepted, in the order of their paths; hidden folders are left out."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if accept(name))


def has_below(root: Path, accept: Callable[[str], bool]) -> bool:
    """Whether one of the first folders below `root` holds a file whose name is accepted."""
    for looked_at, (_, folders, names) in enumerate(os.walk(root)):
        if any(accept(name) for name in names):
            return True
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if looked_at >= _FOLDERS_LOOKED_AT:
            return False
    return False


def inside(root: Path, name: str, where: str) -> Path:
    """A path that a source names relative to one of its folders.

    Args:
        root: The folder.
        name: The relative path, as the source has it.
        where: File and key that hold it.

    Raises:
        DataError: It is absolute, climbs out of the folder, or can be the name of no file.
    """
    pure = PurePosixPath(name.replace("\\", "/"))
    if not name or pure.is_absolute() or ".." in pure.parts:
        raise DataError(f"{where}: the path '{name}' points outside {root}; refusing to read it")
    if "\0" in name or any(len(os.fsencode(part)) > _LONGEST_NAME for part in pure.parts):
        raise DataError(f"{where}: {name[:40]!r}... ({len(name)} characters) can be the name of no file")
    return root / pure


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: Missing, or not JSON.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def vectors(values: Any, width: int, where: str, *, dtype: Any = np.float32) -> np.ndarray:
    """Numbers as `[T,width]`, copied; a width of 1 may be stored as `[T]`.

    Args:
        values: What the source holds.
        width: Numbers in a row.
        where: File and key, for errors.
        dtype: float32, or float64 for a `sim_state`.

    Raises:
        DataError: Not numbers, another width, NaN or infinity; names the row.
    """
    array = np.asarray(values)
    if array.ndim == 1 and width == 1:
        array = array[:, None]
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise DataError(f"{where}: {array.dtype}, expected numbers")
    if array.ndim != 2 or array.shape[1] != width:
        raise DataError(f"{where}: shape {array.shape}, expected (T, {width})")
    # What a float32 cannot hold becomes infinity, and is found below.
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise DataError(f"{where}: row {bad[0]} holds NaN or infinity")
    return array


def casts(dtypes: Mapping[str, str], to: str = "float32") -> dict[str, str]:
    """`Choices.cast` of columns of numbers: the columns whose type is another one than `to`, with the change."""
    return {name: f"{dtype} to {to}" for name, dtype in dtypes.items() if dtype != to}


def outward(low: np.ndarray, high: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds of actions from what was recorded: rounded outwards to two digits of the larger of the two.

    A dimension that never changes gets bounds on both sides of its value, since a bound needs some room.

    Args:
        low: Smallest recorded value of each dimension, `[a]`.
        high: Largest one.
    """
    lows, highs = [], []
    for smallest, largest in zip(low.tolist(), high.tolist(), strict=True):
        size = max(abs(smallest), abs(largest))
        exponent = math.floor(math.log10(size)) - 1 if size > 0 else 0
        # Through a decimal string: 12 * 0.1 is not 1.2.
        down, up = (float(f"{n}e{exponent}") for n in _steps(smallest, largest, exponent))
        lows.append(down)
        highs.append(up)
    return tuple(lows), tuple(highs)


def _steps(smallest: float, largest: float, exponent: int) -> tuple[int, int]:
    # A value that is a bound already may sit a rounding error beside it.
    down = math.floor(smallest / 10.0**exponent + 1e-6)
    up = math.ceil(largest / 10.0**exponent - 1e-6)
    return (down, up) if down < up else (down - 1, up + 1)


def indexed_names(stem: str, width: int) -> tuple[str, ...]:
    """`stem_0`, `stem_1`, ...: names where a source has none."""
    return tuple(f"{stem}_{i}" for i in range(width))


def squared(frames: Iterable[np.ndarray], side: int) -> np.ndarray:
    """Stacks frames `[Y,X,3]` as `[F,side,side,3]`, each made square before the next one is read."""
    return resampled(frames, side, 1)[0]


def resampled(frames: Iterable[np.ndarray], side: int, every: int) -> tuple[np.ndarray, int]:
    """As `squared`, with frames 0, `every`, 2 `every`, ... alone; also returns how many there were in all."""
    small, total = [], 0
    for frame in frames:
        if total % every == 0:
            small.append(square(frame[None], side)[0])
        total += 1
    return (np.stack(small) if small else np.empty((0, side, side, 3), dtype=np.uint8)), total


def read_path_list(path: Path) -> list[tuple[Path, str, int]]:
    """Reads a list of paths, a path and a label a line, as K400, SSv2, HowTo100M and DROID use them.

    Path and label are separated by spaces, or by a comma or a tab where the first line has one; the label may be
    missing. A path with a space in it is put in quotes. A relative path is one below the folder of the list.

    Returns:
        `(path, label, line number)` of each; the label is empty where there is none.

    Raises:
        DataError: Not text, a line of more than two columns, or a relative path that leaves the folder.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a list of paths: {error}") from error
    filled = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    delimiter = next((mark for mark in ",\t" if filled and mark in filled[0][1]), " ")
    found = []
    for number, line in filled:
        columns = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
        if not 1 <= len(columns) <= 2 or not columns[0]:
            raise DataError(
                f"{path}: line {number} has {len(columns)} columns, expected a path and a label; put a path with a "
                "space in it in quotes"
            )
        name = columns[0]
        target = Path(name) if Path(name).is_absolute() else inside(path.parent, name, f"{path}: line {number}")
        found.append((target, columns[1].strip() if len(columns) == 2 else "", number))
    return found


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Decodes a JPEG or PNG to `[Y,X,3]` uint8 RGB.

    Raises:
        DataError: The image cannot be decoded, or has more than 8 bits a channel, as pictures of depth have.
    """
    import cv2

    image = None
    if data:
        try:
            image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except cv2.error as error:
            raise DataError(f"{where}: the image cannot be decoded: {error}") from error
    if image is None:
        raise DataError(f"{where}: {len(data)} bytes that are no image (JPEG or PNG); copy the file again")
    if image.dtype != np.uint8:
        raise DataError(
            f"{where}: a picture of {8 * image.dtype.itemsize} bits a channel, which looks like depth; choose a camera "
            "of 8 bits with --camera"
        )
    # OpenCV decodes to BGR.
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def pick(choice: str | None, known: Sequence[str], what: str, where: str) -> str:
    """The chosen one of the things a source has, by default the first.

    Raises:
        DataError: There is none, or none of that name.
    """
    if not known:
        raise DataError(f"{where}: there is no {what}")
    if choice is not None and choice not in known:
        raise DataError(f"{where}: there is no {what} '{choice}' (there are: {', '.join(known)})")
    return known[0] if choice is None else choice
