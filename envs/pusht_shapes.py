"""Blocks of Push-T: the T of the task, and the shapes of PushObj.

Every block is made of boxes. Sizes are in cells: 30 px for the T, 40 px for all others.

Reference: Chi et al., Diffusion Policy, arXiv 2303.04137 (T); Zhou et al., DINO-WM, arXiv 2411.04983 (the others).
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

Point = tuple[float, float]
# (left, top, right, bottom) in the block's own frame, y down.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Block:
    """A rigid block of mass 1.

    Attributes:
        shape: A name in `SHAPES`.
        scale: Its size relative to the published one. boxes: Its boxes [px] in its own frame; the origin of the frame
        is the position in sim_states.
        centre_of_gravity: In its own frame [px].
        moment: Moment of inertia [px^2].
    """

    shape: str
    scale: float
    boxes: tuple[Box, ...]
    centre_of_gravity: Point
    moment: float

    @cached_property
    def polygons(self) -> tuple[tuple[Point, ...], ...]:
        """The four corners of each box [px]."""
        return tuple(
            ((left, top), (left, bottom), (right, bottom), (right, top)) for left, top, right, bottom in self.boxes
        )

    @cached_property
    def corners(self) -> np.ndarray:
        """`polygons` as an array `[boxes, 4, 2]`, float64."""
        return np.array(self.polygons, dtype=np.float64)

    @cached_property
    def reach_px(self) -> float:
        """No corner is farther than this from the centre of gravity."""
        return math.ceil(np.linalg.norm(self.corners - self.centre_of_gravity, axis=2).max()) + 1.0

    def polygons_in_world(self, x: float, y: float, angle: float) -> np.ndarray:
        """Corners of its boxes for a pose [px, rad]: `[boxes, 4, 2]` [px]."""
        cos, sin = math.cos(angle), math.sin(angle)
        rotation = np.array([[cos, sin], [-sin, cos]])
        return self.corners @ rotation + (x, y)

    def centre_in_world(self, x: float, y: float, angle: float) -> Point:
        """Where its centre of gravity is, for a pose [px, rad]."""
        cos, sin = math.cos(angle), math.sin(angle)
        centre_x, centre_y = self.centre_of_gravity
        return x + cos * centre_x - sin * centre_y, y + sin * centre_x + cos * centre_y


# Cell size [px], and boxes in cells.
_CELLS: dict[str, tuple[float, tuple[Box, ...]]] = {
    "T": (30, ((-2, 0, 2, 1), (-0.5, 1, 0.5, 4))),
    "L": (40, ((0, 0, 1, 2), (0, -1, 2, 0))),
    "Z": (40, ((0, 0, 2, 1), (-1, -1, 1, 0))),
    "square": (40, ((-1, -1, 1, 1),)),
    "I": (40, ((-0.5, -2, 0.5, 2),)),
    "small_T": (40, ((-1.5, 0, 1.5, 1), (-0.5, 1, 0.5, 2))),
    "plus": (40, ((-1.5, -0.5, 1.5, 0.5), (-0.5, 0.5, 0.5, 1.5), (-0.5, -1.5, 0.5, -0.5))),
}
SHAPES = tuple(_CELLS)


@lru_cache(maxsize=64)
def make_block(shape: str = "T", scale: float = 1.0) -> Block:
    """A block of the published geometry.

    Args:
        shape: A name in `SHAPES`.
        scale: Its size relative to the published one. The mass stays 1; the moment follows the size.
    """
    cell_px, boxes_in_cells = _CELLS[shape]
    left_px, top_px, right_px, bottom_px = (
        tuple(cell_px * scale * edge for edge in edges) for edges in zip(*boxes_in_cells, strict=True)
    )
    boxes = tuple(zip(left_px, top_px, right_px, bottom_px, strict=True))
    # The published centre is the mean of the boxes' centres, whatever their areas: right for all but T and small_T.
    centres = [((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in boxes]
    centre_of_gravity = sum(x for x, _ in centres) / len(centres), sum(y for _, y in centres) / len(centres)
    return Block(shape, scale, boxes, centre_of_gravity, _moment(shape, boxes))


def _moment(shape: str, boxes: tuple[Box, ...]) -> float:
    """The published moment of inertia: of boxes of mass 1 each, about the block's origin.

    The true moment would share a mass of 1 among the boxes, and would be about the centre of gravity. Moreover, the
    published T and plus count their first box once for each of their boxes: 3000 for the T, where its boxes have 1500 +
    6375. Published data and results use these values, so they stay.
    """
    counted = boxes[:1] * len(boxes) if shape in ("T", "plus") else boxes
    return sum(
        (left * left + left * right + right * right + top * top + top * bottom + bottom * bottom) / 3
        for left, top, right, bottom in counted
    )
