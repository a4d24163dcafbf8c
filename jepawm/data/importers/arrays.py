"""Arrays of frames and numbers: frames become uint8 with channels last, and errors name file, key and row."""

import math
from collections.abc import Sequence

import numpy as np

from jepawm.errors import DataError


def channels_last(shape: tuple[int, ...], what: str) -> bool:
    """Whether frames of a shape `[T,Y,X,C]` or `[T,C,Y,X]` have their channels last.

    Args:
        shape: Of the frames; `C` is 1 or 3.
        what: File or key, for errors.

    Raises:
        DataError: Not frames, or both axes could be the channels.
    """
    if len(shape) == 4:
        last, first = shape[3] in (1, 3), shape[1] in (1, 3)
        if last != first:
            return last
    raise DataError(f"{what}: has shape {tuple(shape)}, expected frames [T,Y,X,C] or [T,C,Y,X] with 1 or 3 channels")


def as_frames(values: np.ndarray, what: str, first_row: int = 0) -> np.ndarray:
    """Frames `[T,Y,X,C]` uint8 of what was recorded as uint8, or as numbers from 0 to 255.

    Numbers that all lie between 0 and 1 are refused: the frames may be dark, or scaled to 0-1.

    Args:
        values: `[T,Y,X,C]` or `[T,C,Y,X]`.
        what: File or key, for errors.
        first_row: Number of the first frame in it, for errors.

    Raises:
        DataError: Not frames, one channel of another type than uint8 (depth), NaN, or values outside 0 to 255 or all
            inside 0 to 1.
    """
    if not channels_last(values.shape, what):
        values = values.transpose(0, 2, 3, 1)
    if values.dtype != np.uint8 and values.shape[3] == 1:
        raise DataError(
            f"{what}: one channel of {values.dtype}, which looks like depth; expected RGB, or grey of uint8; choose "
            "another --camera"
        )
    if values.dtype != np.uint8:
        # NaN fails both comparisons, so it is caught here as well.
        bad = np.flatnonzero(~((values >= 0) & (values <= 255)).all(axis=(1, 2, 3)))
        if len(bad):
            raise DataError(f"{what}: frame {first_row + bad[0]} holds NaN or values outside 0 to 255")
        largest = float(values.max(initial=0))
        if values.dtype.kind == "f" and 0 < largest <= 1:
            raise DataError(
                f"{what}: frames {first_row} to {first_row + len(values)} hold no value above {largest:g}, so they "
                "seem to be scaled to 0-1; expected 0-255 (multiply by 255, or save uint8)"
            )
        values = np.rint(values)
    return np.ascontiguousarray(values, dtype=np.uint8)


def finite(values: np.ndarray, what: str, first_row: int = 0) -> np.ndarray:
    """The same rows `[T,...]`, if they hold only finite numbers.

    Args:
        values: Rows.
        what: File or key, for errors.
        first_row: Number of the first row in it, for errors.

    Raises:
        DataError: Names the first row with NaN or infinity.
    """
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise DataError(f"{what}: row {first_row + bad[0]} holds NaN or infinity")
    return values


def action_bounds(largest: np.ndarray, published: Sequence[float]) -> tuple[float, ...]:
    """Symmetric action bounds: as published, or the next tenth above what the data holds where that is more.

    A bound tighter than the data would forbid a planner what was recorded.

    Args:
        largest: `[a]`, largest magnitude of each action dimension in the data.
        published: `a` upper bounds.
    """
    # Rounded first, so that 0.3 in binary does not become 0.4.
    tenths = [math.ceil(round(float(value) * 10, 4)) / 10 for value in largest]
    return tuple(max(bound, tenth) for bound, tenth in zip(published, tenths, strict=True))
