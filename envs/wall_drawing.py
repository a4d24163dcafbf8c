"""Pictures of Wall at any size: the published 65 x 65 picture, resized bilinearly with antialiasing.

Resizing is linear, so a picture is a fixed background plus the resized dot, and the dot is nearly zero beyond a few
cells. Only the pixels around it are computed, for many pictures at once.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from envs.wall_physics import GRID_CELLS, HIGH, LOW, PUBLISHED_LAYOUT, WallLayout

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class WallLook:
    """Colours (RGB, 0 to 255 each) and the dot's size; as published by default.

    Attributes:
        background: Colour of the floor.
        wall: Colour of the wall and the border.
        dot: Colour of the dot's middle; the dot fades into the background towards its edge.
        dot_std_cells: Standard deviation of the dot's Gaussian [cells].
    """

    background: RGB = (255, 255, 255)
    wall: RGB = (0, 0, 0)
    dot: RGB = (255, 0, 0)
    dot_std_cells: float = 1.7


PUBLISHED_LOOK = WallLook()


def render_positions(
    positions_N2: np.ndarray,
    image_size: int,
    layout: WallLayout = PUBLISHED_LAYOUT,
    look: WallLook = PUBLISHED_LOOK,
) -> np.ndarray:
    """Pictures of Wall with the dot at each of many positions.

    Args:
        positions_N2: `[N, 2]` x, y [cells].
        image_size: Height and width of the pictures [px].
        layout: Where wall and door are.
        look: Colours and the dot's size.

    Returns:
        pixels `[N, Y, X, C]`, uint8: black walls on white, a red dot with soft edges, hidden where a wall is.
    """
    return canvas(image_size, layout, look).draw(positions_N2)


@dataclass(frozen=True)
class WallCanvas:
    """The common part of all pictures of one size, layout and look. `W` = cells of a window, `w` = its pixels."""

    made_of: tuple[int, WallLayout, WallLook]
    empty: np.ndarray
    """`[Y, X, C]` uint8, without a dot."""
    runs: tuple[tuple[slice, np.ndarray, float], ...]
    """Neighbouring channels of equal colours in which the dot shows, which are computed once; `[Y, X]` float32
    without a dot, before rounding; and how much more the dot adds than in the first run."""
    dot_cells: np.ndarray
    """`[65, 65]` float32: what a dot of strength 1 adds in the first run, 0 on walls."""
    offsets: np.ndarray
    """`[W]` float64: 0, 1, 2, ..."""
    weights: np.ndarray
    """`[windows, w, W]` float32: a window's rows and columns of the resize matrix, one window per first cell."""
    first_px: list[int]

    def __reduce__(self) -> tuple[Callable[..., "WallCanvas"], tuple[int, WallLayout, WallLook]]:
        # Pickles leave cached pictures out.
        return canvas, self.made_of

    def draw(self, positions_N2: np.ndarray) -> np.ndarray:
        """Returns pixels `[N, Y, X, C]` uint8 with the dot at positions `[N, 2]` [cells]."""
        image_size, _, look = self.made_of
        num_cells, width_px = len(self.offsets), self.weights.shape[1]
        positions = np.asarray(positions_N2, dtype=np.float64)
        first_cells = np.rint(positions).astype(np.int64) - num_cells // 2
        np.clip(first_cells, 0, GRID_CELLS - num_cells, out=first_cells)

        # The dot on the cells around it, normalised so that the brightest cell is exactly 1. [N, 2, W]
        squares = (first_cells[:, :, None] + self.offsets - positions[:, :, None]) ** 2
        squares -= squares.min(axis=2, keepdims=True)
        profiles = np.exp(squares / (-2 * look.dot_std_cells**2))
        dots = np.floor(255 * profiles[:, 1, :, None] * profiles[:, 0, None, :]).astype(np.float32)

        pixels = np.empty((len(positions), image_size, image_size, 3), dtype=np.uint8)
        pixels[:] = self.empty
        weights, first_px, dot_cells, runs = self.weights, self.first_px, self.dot_cells, self.runs
        for n, (cell_x, cell_y) in enumerate(first_cells.tolist()):
            rows = slice(cell_y, cell_y + num_cells)
            columns = slice(cell_x, cell_x + num_cells)
            dot = weights[cell_y] @ (dots[n] * dot_cells[rows, columns]) @ weights[cell_x].T
            rows = slice(first_px[cell_y], first_px[cell_y] + width_px)
            columns = slice(first_px[cell_x], first_px[cell_x] + width_px)
            for channels, empty_plus_half, gain in runs:
                patch = empty_plus_half[rows, columns] + (dot if gain == 1 else gain * dot)
                # Converting to uint8 cuts off; the added half makes it rounding.
                pixels[n, rows, columns, channels] = patch.astype(np.uint8)[:, :, None]
        return pixels


# Many episodes with different looks may run at once; a canvas of 224 px takes 0.4 to 1 MB.
@lru_cache(maxsize=64)
def canvas(image_size: int, layout: WallLayout, look: WallLook) -> WallCanvas:
    """The canvas of pictures of one size [px], layout and look."""
    # A dot of strength 255 * exp(-d^2 / (2 std^2)) falls below 1, and is cut off to 0, beyond this many cells.
    reach = math.ceil(look.dot_std_cells * math.sqrt(2 * math.log(255)))
    num_cells = 2 * reach + 1
    open_cells = _open_cells(layout)
    resize = resize_matrix(GRID_CELLS, image_size)

    spans = []
    for cell in range(GRID_CELLS - num_cells + 1):
        touched = np.flatnonzero(resize[:, cell : cell + num_cells].any(axis=1))
        spans.append((int(touched[0]), int(touched[-1]) + 1))
    width_px = max(end - start for start, end in spans)
    first_px = [min(start, image_size - width_px) for start, _ in spans]
    weights = [resize[px : px + width_px, cell : cell + num_cells] for cell, px in enumerate(first_px)]

    empty = np.empty((image_size, image_size, 3), dtype=np.uint8)
    runs: list[tuple[slice, np.ndarray, float]] = []
    first, first_gain = 0, 0.0
    for (background, wall, dot), equal in itertools.groupby(zip(look.background, look.wall, look.dot, strict=True)):
        channels = slice(first, first := first + len(list(equal)))
        level = (background - wall) * resize @ open_cells @ resize.T + wall
        # Weights of a row add up to 1 only up to rounding; without the clip 255.5000001 would wrap around to 0.
        plus_half = np.clip(level + 0.5, 0, 255.5)
        empty[:, :, channels] = plus_half.astype(np.uint8)[:, :, None]
        if dot != background:
            first_gain = first_gain or (dot - background) / 255
            runs.append((channels, plus_half.astype(np.float32), (dot - background) / 255 / first_gain))
    return WallCanvas(
        made_of=(image_size, layout, look),
        empty=empty,
        runs=tuple(runs),
        dot_cells=(first_gain * open_cells).astype(np.float32),
        offsets=np.arange(num_cells, dtype=np.float64),
        weights=np.stack(weights).astype(np.float32),
        first_px=first_px,
    )


def _open_cells(layout: WallLayout) -> np.ndarray:
    """`[65, 65]` (y, x): 1 on the floor, 0 on the border lines and on the wall with its door."""
    cell = np.arange(GRID_CELLS)
    on_border = (cell == LOW) | (cell == HIGH)
    beside_door = np.abs(cell - layout.door_y) > layout.door_half_height
    in_wall = (np.abs(cell - layout.wall_x) <= layout.wall_half_width)[None, :] & beside_door[:, None]
    return (~(on_border[None, :] | on_border[:, None] | in_wall)).astype(np.float64)


def resize_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Bilinear resizing of one axis as a matrix `[size_out, size_in]`, antialiased when it shrinks.

    Pixel centres lie at half-integers; a triangle filter widens with the scale when shrinking, and is cut off and
    normalised at the borders.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    distance = np.abs(np.arange(size_in)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.clip(1.0 - distance, 0.0, None)
    return weights / weights.sum(axis=1, keepdims=True)
