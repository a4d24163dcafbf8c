"""Pictures of Push-T: drawn on a 512 x 512 canvas with OpenCV, then resized (bilinear) to the wanted size.

Corners are rounded to whole pixels before drawing, as in the published renderer, so the frames of a recording can
be redrawn from its states. What does not move is drawn once.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from envs.pusht_physics import AGENT_RADIUS_PX, WALL_CORNERS, WORLD_PX, Contact, polygons_in_world

# RGB.
GOAL_GREEN = (144, 238, 144)
WALL_GREY = (211, 211, 211)
AGENT_BLUE, AGENT_BLUE_LIGHT = (65, 105, 225), (78, 126, 255)
BLOCK_GREY, BLOCK_GREY_LIGHT = (119, 136, 153), (143, 163, 184)
CONTACT_RED = (231, 76, 60)

# A fixed mark on the table, where Diffusion Policy's task wants the T; not the goal of a planning episode.
GOAL_MARKER_POSE = (256.0, 256.0, np.pi / 4)
OUTLINE_PX = 4
RIM_PX = 4
CONTACT_OVERHANG_PX = 2.0

# cv2 takes fixed-point coordinates: 3 fractional bits, eighths of a pixel.
_SHIFT = 3
_FIXED = 1 << _SHIFT

# Whatever is farther off the canvas than this is out of sight; the limit keeps fixed-point numbers in range.
_FAR_PX = 10_000


class PushTDrawing:
    """Draws sim_states of Push-T. Holds one canvas, which every picture reuses.

    Args:
        image_size: Height and width of the pictures [px].
        goal_marker: Whether the table carries the green T of Diffusion Policy's task.
    """

    def __init__(self, image_size: int, goal_marker: bool) -> None:
        self.image_size = image_size
        self.goal_marker = goal_marker
        self._background = np.full((WORLD_PX, WORLD_PX, 3), 255, dtype=np.uint8)
        if goal_marker:
            for corners in _whole_pixels(polygons_in_world(*GOAL_MARKER_POSE)):
                cv2.fillConvexPoly(self._background, corners, GOAL_GREEN)
        self._canvas = np.empty_like(self._background)
        self._walls = np.array(WALL_CORNERS, dtype=np.int32)

    def __reduce__(self) -> tuple[type, tuple[int, bool]]:
        # A pickled environment need not carry the canvases.
        return PushTDrawing, (self.image_size, self.goal_marker)

    def draw(self, sim_state: np.ndarray, contacts: Iterable[Contact]) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of a sim_state `[7]`, with a red mark at each contact."""
        canvas = self._canvas
        np.copyto(canvas, self._background)

        for corners in _whole_pixels(polygons_in_world(*sim_state[2:5])):
            cv2.fillConvexPoly(canvas, corners, BLOCK_GREY_LIGHT)
            cv2.polylines(canvas, [corners], True, BLOCK_GREY, OUTLINE_PX)

        centre = (_clip_px(sim_state[0]), _clip_px(sim_state[1]))
        _draw_disc(canvas, centre, AGENT_RADIUS_PX, AGENT_BLUE)
        _draw_disc(canvas, centre, AGENT_RADIUS_PX - RIM_PX, AGENT_BLUE_LIGHT)

        cv2.polylines(canvas, [self._walls], True, WALL_GREY, OUTLINE_PX)
        for contact in contacts:
            _draw_contact(canvas, contact)

        size = (self.image_size, self.image_size)
        return cv2.resize(canvas, size, interpolation=cv2.INTER_LINEAR)


def _draw_disc(canvas: np.ndarray, centre: Sequence[int], radius: int, colour: tuple[int, int, int]) -> None:
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
