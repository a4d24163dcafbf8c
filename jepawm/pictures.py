"""Pictures from files, and frames of any size as the square frames that models see."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jepawm.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Picture files that are read."""
# Modes of Pillow that hold more than 8 bits a number, e.g. depth.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size.

    Attributes:
        pixels: `[n,Y,X,3]` uint8.
        names: What each is called: its file, or the file and its number in it.
        others: What else a `.npz` holds, by name.
    """

    pixels: np.ndarray
    names: tuple[str, ...]
    others: Mapping[str, np.ndarray] = field(default_factory=dict)


def square(frames: np.ndarray, side: int) -> np.ndarray:
    """Crops frames `[F,Y,X,C]` uint8 to the square in their middle, and resizes it to `side` px."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    frames = frames[:, top : top + short, left : left + short]
    if short == side:
        return np.ascontiguousarray(frames)
    import cv2

    # Area averaging does not alias when shrinking.
    how = cv2.INTER_AREA if side < short else cv2.INTER_LINEAR
    resized = [cv2.resize(np.ascontiguousarray(frame), (side, side), interpolation=how) for frame in frames]
    return np.stack(resized).reshape(len(frames), side, side, frames.shape[-1])


def read_pictures(path: str | os.PathLike[str], side: int) -> Pictures:
    """Reads pictures, cropped and resized as `square` does.

    Args:
        path: A picture file, a folder of them (in the order of their names), or a `.npz` whose `pixels` are
            `[Y,X,3]` or `[n,Y,X,3]` uint8.
        side: Side of the frames that the model sees, px.

    Raises:
        DataError: No such file, no picture in the folder, or a file that is no picture.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(each for each in place.iterdir() if each.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{place}: the folder holds no picture ({', '.join(SUFFIXES)})")
        return Pictures(np.concatenate([square(_read(each), side) for each in files]), tuple(map(str, files)))
    if not place.is_file():
        raise DataError(f"{place}: there is no such picture, folder or .npz")
    if place.suffix.lower() == ".npz":
        return _from_npz(place, side)
    return Pictures(square(_read(place), side), (str(place),))


def _read(path: Path) -> np.ndarray:
    """One picture `[1,Y,X,3]` uint8, upright where its camera noted how it was held."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode in _DEEP_MODES:
                raise DataError(
                    f"{path}: a picture of more than 8 bits a number (mode {image.mode}), which looks like "
                    "depth; give one in colour"
                )
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[None]
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a picture that can be read: {error}; give a PNG or JPEG") from error


def _from_npz(path: Path, side: int) -> Pictures:
    try:
        with zipfile.ZipFile(path):
            # Any other file would be read as what it is, whatever it is called.
            pass
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"{path}: not a .npz that can be read: {error}") from error
    pixels = arrays.pop("pixels", None)
    if pixels is None:
        raise DataError(f"{path}: there is no array 'pixels', found {', '.join(arrays) or 'nothing'}")
    frames = pixels[None] if pixels.ndim == 3 else pixels
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise DataError(
            f"{path}: 'pixels' must be uint8 [Y,X,3] or [n,Y,X,3], found {pixels.dtype} {list(pixels.shape)}"
        )
    return Pictures(square(frames, side), tuple(f"{path}#{number}" for number in range(len(frames))), arrays)
