"""Frames for a person to look at: enlarged, captioned, beside each other, and as an animation in a file."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

_BAR = "#1f6feb"

# Height of the strip below an animation that shows how far it is, pixels of the enlarged picture.
_STRIP_PX = 18
# Pictures are enlarged to at least this many pixels, so that the numbers on the strip can be read.
_LEAST_SIDE_PX = 128
_TITLE_PX = 16
_GAP_PX = 6
_MOST_COLUMNS = 4


def enlarged(frame: np.ndarray) -> np.ndarray:
    """A frame `[Y,X,C]` enlarged by a whole number, so that its shorter side has 128 px or more."""
    times = -(-_LEAST_SIDE_PX // min(frame.shape[:2]))
    return frame.repeat(times, axis=0).repeat(times, axis=1)


def with_strip(frame: np.ndarray, share: float, caption: str) -> np.ndarray:
    """A frame `[Y,X,3]` above a strip with a bar that shows how far it is, and a caption.

    Args:
        frame: Of the animation.
        share: How far it is, 0 to 1.
        caption: A few letters.
    """
    from PIL import Image, ImageDraw

    height, width = frame.shape[:2]
    image = Image.new("RGB", (width, height + _STRIP_PX), "white")
    image.paste(Image.fromarray(frame), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height, round(share * (width - 1)), height + 3), fill=_BAR)
    draw.text((1, height + 5), caption, fill="#1c2430")
    return np.asarray(image)


def side_by_side(films: Mapping[str, np.ndarray]) -> np.ndarray:
    """Several animations of one length as one: a title above each, four in a row.

    Args:
        films: Title and frames `[F,Y,X,3]` uint8 of each.

    Returns:
        `[F,Y',X',3]` uint8.
    """
    tiles = [_titled(title, frames) for title, frames in films.items()]
    columns = min(_MOST_COLUMNS, len(tiles))
    empty = np.full_like(tiles[0], 255)
    tiles += [empty] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[at : at + columns], axis=2) for at in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=1)


def _titled(title: str, frames: np.ndarray) -> np.ndarray:
    """`[F,Y+title,X+gap,3]` uint8."""
    from PIL import Image, ImageDraw

    large = np.stack([enlarged(frame) for frame in frames])
    height, width = large.shape[1:3]
    head = Image.new("RGB", (width + _GAP_PX, _TITLE_PX), "white")
    ImageDraw.Draw(head).text((1, 1), _fitting(title, width), fill="#1c2430")
    tile = np.full((len(large), height + _TITLE_PX + _GAP_PX, width + _GAP_PX, 3), 255, np.uint8)
    tile[:, :_TITLE_PX] = np.asarray(head)
    tile[:, _TITLE_PX : _TITLE_PX + height, :width] = large
    return tile


def _fitting(title: str, width: int) -> str:
    """A title, shortened to a width in px."""
    from PIL import ImageFont

    font = ImageFont.load_default()
    if font.getlength(title) <= width:
        return title
    while title and font.getlength(f"{title}...") > width:
        title = title[:-1]
    return f"{title}..."


def write_gif(path: str | os.PathLike[str], frames: np.ndarray, *, frame_ms: Sequence[int]) -> None:
    """Writes frames `[F,Y,X,3]` uint8 as a GIF that repeats.

    Args:
        path: The file.
        frames: Of one size.
        frame_ms: Time of each frame, ms.
    """
    from PIL import Image

    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=list(frame_ms), loop=0)
