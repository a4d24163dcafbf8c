"""Pictures of Push-T: drawn on a 512 x 512 canvas with OpenCV, then resized (bilinear) to the wanted size.

Corners are rounded to whole pixels before drawing, as in the published renderer, so the frames of a recording can
be redrawn from its states. The parts that do not move are drawn once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from envs.pusht_physics import AGENT_RADIUS_PX, WALL_CORNERS, WORLD_PX, Contact
from envs.pusht_shapes import Block, make_block

RGB = tuple[int, int, int]

WALL_GREY = (211, 211, 211)
CONTACT_RED = (231, 76, 60)

# A fixed mark on the table: the goal of Diffusion Policy's task, not the goal of a planning episode.
GOAL_MARKER_POSE = (256.0, 256.0, np.pi / 4)
OUTLINE_PX = 4
RIM_PX = 4
CONTACT_OVERHANG_PX = 2.0

# cv2 takes fixed-point coordinates: 3 fractional bits, eighths of a pixel.
_SHIFT = 3
_FIXED = 1 << _SHIFT

# Points farther off the canvas than this are out of sight; the limit keeps fixed-point numbers in range.
_FAR_PX = 10_000


@dataclass(frozen=True)
class PushTLook:
    """Sizes and colours (RGB, 0 to 255 each) of the parts of a picture; the published ones by default.

    Attributes:
        block: Shape and size of the block and of the goal marker.
        agent_radius_px: Radius of the disc.
        background: Colour of the table.
        block_colour: Colour of the block's outline; its inside is lighter.
        agent_colour: Colour of the disc's rim; its inside is lighter.
        goal_marker: Colour of the mark on the table from Diffusion Policy's task; None: no mark.
    """

    block: Block
    agent_radius_px: int = AGENT_RADIUS_PX
    background: RGB = (255, 255, 255)
    block_colour: RGB = (119, 136, 153)
    agent_colour: RGB = (65, 105, 225)
    goal_marker: RGB | None = (144, 238, 144)


PUBLISHED_LOOK = PushTLook(make_block())


class PushTDrawing:
    """Draws sim_states of Push-T. Holds one canvas, which every picture reuses.

    Args:
        image_size: Height and width of the pictures [px].
        look: Sizes and colours.
    """

    def __init__(self, image_size: int, look: PushTLook = PUBLISHED_LOOK) -> None:
        self.image_size = image_size
        self.look = look
        self._block_inside, self._agent_inside = _lighter(look.block_colour), _lighter(look.agent_colour)
        self._background = np.empty((WORLD_PX, WORLD_PX, 3), dtype=np.uint8)
        self._background[:] = look.background
        if look.goal_marker is not None:
            for corners in _whole_pixels(look.block.polygons_in_world(*GOAL_MARKER_POSE)):
                cv2.fillConvexPoly(self._background, corners, look.goal_marker)
        self._canvas = np.empty_like(self._background)
        self._walls = np.array(WALL_CORNERS, dtype=np.int32)

    def __reduce__(self) -> tuple[type, tuple[int, PushTLook]]:
        # Pickles leave the canvases out.
        return PushTDrawing, (self.image_size, self.look)

    def draw(self, sim_state: np.ndarray, contacts: Iterable[Contact]) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of a sim_state `[7]`, with a red mark at each contact."""
        canvas, look = self._canvas, self.look
        np.copyto(canvas, self._background)

        for corners in _whole_pixels(look.block.polygons_in_world(*sim_state[2:5])):
            cv2.fillConvexPoly(canvas, corners, self._block_inside)
            cv2.polylines(canvas, [corners], True, look.block_colour, OUTLINE_PX)

        centre = (_clip_px(sim_state[0]), _clip_px(sim_state[1]))
        _draw_disc(canvas, centre, look.agent_radius_px, look.agent_colour)
        _draw_disc(canvas, centre, look.agent_radius_px - RIM_PX, self._agent_inside)

        cv2.polylines(canvas, [self._walls], True, WALL_GREY, OUTLINE_PX)
        for contact in contacts:
            _draw_contact(canvas, contact)

        size = (self.image_size, self.image_size)
        return cv2.resize(canvas, size, interpolation=cv2.INTER_LINEAR)


def _lighter(colour: RGB) -> RGB:
    """The colour with each channel a fifth larger, as the published renderer fills its outlines."""
    red, green, blue = (min(round(1.2 * c), 255) for c in colour)
    return red, green, blue


def _draw_disc(canvas: np.ndarray, centre: Sequence[int], radius: int, colour: RGB) -> None:
    """Fills a disc exactly `2 * radius` pixels wide, so its middle lies between pixels, as pygame draws it."""
    middle = [round((c - 0.5) * _FIXED) for c in centre]
    cv2.circle(canvas, middle, round((radius - 0.5) * _FIXED), colour, cv2.FILLED, cv2.LINE_8, _SHIFT)


def _draw_contact(canvas: np.ndarray, contact: Contact) -> None:
    """A red line through both contact points; the deeper two bodies overlap, the shorter it is."""
    (ax, ay), (bx, by), (nx, ny) = contact
    reach_x, reach_y = nx * CONTACT_OVERHANG_PX, ny * CONTACT_OVERHANG_PX
    start = (_fixed_point(ax - reach_x), _fixed_point(ay - reach_y))
    end = (_fixed_point(bx + reach_x), _fixed_point(by + reach_y))
    cv2.line(canvas, start, end, CONTACT_RED, 1, cv2.LINE_AA, _SHIFT)


def _whole_pixels(corners: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(corners), -_FAR_PX, _FAR_PX).astype(np.int32)


def _clip_px(value: float) -> int:
    return round(min(max(float(value), -_FAR_PX), _FAR_PX))


def _fixed_point(value: float) -> int:
    return round(min(max(float(value), -_FAR_PX), _FAR_PX) * _FIXED)
