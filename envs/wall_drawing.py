"""Pictures of Wall at any size: the published 65 x 65 picture, resized bilinearly with antialiasing.

Resizing is linear, so a picture is a fixed background plus the resized dot, and the dot is nearly zero beyond a few
cells. Only the pixels around it are computed, for many pictures at once.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from envs.wall_physics import (
    DOOR_HALF_HEIGHT,
    DOOR_Y,
    DOT_STD_CELLS,
    GRID_CELLS,
    HIGH,
    LOW,
    WALL_HALF_WIDTH,
    WALL_X,
)

# 255 * exp(-d^2 / (2 * 1.7^2)) falls below 1, and is cut off to 0, beyond 5.66 cells.
_REACH_CELLS = 6
_WINDOW_CELLS = 2 * _REACH_CELLS + 1
_OFFSETS = np.arange(_WINDOW_CELLS, dtype=np.float64)


def render_positions(positions_N2: np.ndarray, image_size: int) -> np.ndarray:
    """Pictures of Wall with the dot at each of many positions.

    Args:
        positions_N2: `[N, 2]` x, y [cells].
        image_size: Height and width of the pictures [px].

    Returns:
        pixels `[N, Y, X, C]`, uint8: black walls on white, a red dot with soft edges, hidden where a wall is.
    """
    canvas = _canvas(image_size)
    positions = np.asarray(positions_N2, dtype=np.float64)
    first_cells = np.rint(positions).astype(np.int64) - _REACH_CELLS
    np.clip(first_cells, 0, GRID_CELLS - _WINDOW_CELLS, out=first_cells)

    # The dot on the cells around it, normalised so that the brightest cell is exactly 1. [N, 2, W]
    squares = (first_cells[:, :, None] + _OFFSETS - positions[:, :, None]) ** 2
    squares -= squares.min(axis=2, keepdims=True)
    profiles = np.exp(squares / (-2 * DOT_STD_CELLS**2))
    dots = np.floor(255 * profiles[:, 1, :, None] * profiles[:, 0, None, :]).astype(np.float32)

    pixels = np.empty((len(positions), image_size, image_size, 3), dtype=np.uint8)
    pixels[:] = canvas.background
    weights, first_px, width_px = canvas.weights, canvas.first_px, canvas.width_px
    for n, (cell_x, cell_y) in enumerate(first_cells.tolist()):
        rows = slice(cell_y, cell_y + _WINDOW_CELLS)
        columns = slice(cell_x, cell_x + _WINDOW_CELLS)
        darkening = weights[cell_y] @ (dots[n] * canvas.open_cells[rows, columns]) @ weights[cell_x].T
        rows = slice(first_px[cell_y], first_px[cell_y] + width_px)
        columns = slice(first_px[cell_x], first_px[cell_x] + width_px)
        # Assigning to uint8 cuts off; the added half makes it rounding.
        patch = canvas.background_plus_half[rows, columns] - darkening
        pixels[n, rows, columns, 1:] = patch.astype(np.uint8)[:, :, None]
    return pixels


@dataclass(frozen=True)
class _Canvas:
    """What all pictures of one size share. `W` = cells of a window, `w` = its pixels, one window per first cell."""

    background: np.ndarray
    """`[Y, X, C]` uint8, without a dot."""
    background_plus_half: np.ndarray
    """`[Y, X]` float32, before rounding."""
    open_cells: np.ndarray
    """`[65, 65]` float32: 1 where the dot shows, 0 on walls."""
    weights: np.ndarray
    """`[windows, w, W]` float32: a window's rows and columns of the resize matrix."""
    first_px: list[int]
    width_px: int


@lru_cache(maxsize=8)
def _canvas(image_size: int) -> _Canvas:
    open_cells = _open_cells()
    resize = resize_matrix(GRID_CELLS, image_size)
    grey = 255 * resize @ open_cells @ resize.T

    spans = []
    for cell in range(GRID_CELLS - _WINDOW_CELLS + 1):
        touched = np.flatnonzero(resize[:, cell : cell + _WINDOW_CELLS].any(axis=1))
        spans.append((int(touched[0]), int(touched[-1]) + 1))
    width_px = max(end - start for start, end in spans)
    first_px = [min(start, image_size - width_px) for start, _ in spans]
    weights = [resize[px : px + width_px, cell : cell + _WINDOW_CELLS] for cell, px in enumerate(first_px)]

    # Weights of a row add up to 1 only up to rounding; without the clip 255.5000001 would wrap around to 0.
    background_plus_half = np.clip(grey + 0.5, 0, 255.5)
    return _Canvas(
        background=np.repeat(background_plus_half.astype(np.uint8)[:, :, None], 3, axis=2),
        background_plus_half=background_plus_half.astype(np.float32),
        open_cells=open_cells.astype(np.float32),
        weights=np.stack(weights).astype(np.float32),
        first_px=first_px,
        width_px=width_px,
    )


def _open_cells() -> np.ndarray:
    """`[65, 65]` (y, x): 1 on the floor, 0 on the border lines and on the wall with its door."""
    cell = np.arange(GRID_CELLS)
    on_border = (cell == LOW) | (cell == HIGH)
    in_wall = (np.abs(cell - WALL_X) <= WALL_HALF_WIDTH)[None, :] & (np.abs(cell - DOOR_Y) > DOOR_HALF_HEIGHT)[:, None]
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
