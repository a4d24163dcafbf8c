"""Draws where the goal is into the frames of a rollout, for any environment: by the edges of the goal's picture."""

import numpy as np
from jaxtyping import Bool, UInt8

# Two neighbouring pixels of an edge differ by more than this in one channel, of 255.
EDGE_STEP = 32
COLOUR = (214, 51, 165)


def with_goal_outline(
    frames_FYXC: UInt8[np.ndarray, "F Y X C"], goal_YXC: UInt8[np.ndarray, "Y X C"]
) -> UInt8[np.ndarray, "F Y X C"]:
    """Frames with the outlines of what lies elsewhere in the goal's picture.

    Args:
        frames_FYXC: A rollout; its first frame is the start.
        goal_YXC: The goal's picture.

    Returns:
        Copies of the frames, coloured where `goal_outline` says.
    """
    outlined = frames_FYXC.copy()
    outlined[:, goal_outline(goal_YXC, frames_FYXC[0])] = COLOUR
    return outlined


def goal_outline(
    goal_YXC: UInt8[np.ndarray, "Y X C"], start_YXC: UInt8[np.ndarray, "Y X C"]
) -> Bool[np.ndarray, "Y X"]:
    """Pixels that lie on an edge in the goal's picture, and neither on nor beside one in the start's.

    What stands still has the same edges in both pictures, so only what has to move is outlined, where it has to be.
    """
    return _edges(goal_YXC) & ~_grown(_edges(start_YXC))


def _edges(image_YXC: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right or lower neighbour."""
    values = image_YXC.astype(np.int16)
    edges = np.zeros(values.shape[:2], dtype=bool)
    edges[:, :-1] |= np.abs(np.diff(values, axis=1)).max(axis=-1) > EDGE_STEP
    edges[:-1] |= np.abs(np.diff(values, axis=0)).max(axis=-1) > EDGE_STEP
    return edges


def _grown(mask_YX: np.ndarray) -> np.ndarray:
    """The pixels and their eight neighbours."""
    padded = np.pad(mask_YX, 1)
    height, width = mask_YX.shape
    shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.logical_or.reduce(shifted)
