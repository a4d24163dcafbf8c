"""Random crops and mirror images of clips: one rectangle and one decision for all frames of a clip."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from jepawm.config.clips import AugmentConfig
from jepawm.seeding import stream_seed

# Rectangles that are tried before the largest one of a fitting shape is taken.
_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """What happens to the frames of one clip.

    Attributes:
        top: First row of the rectangle that is kept, px.
        left: First column.
        height: Rows.
        width: Columns.
        flip: Whether frames are mirrored, left to right.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool


def draw_augmentation(
    config: AugmentConfig, *, height: int, width: int, seed: int, train_step: int, slot: int
) -> Augmentation:
    """The augmentation of one clip, a function of (seed, train step, slot) and the frame's size.

    The rectangle has a random area and a log-uniform aspect; ten are drawn, and the first that lies within the frame is
    taken. If none does, the largest middle part of an allowed aspect is.

    Args:
        config: Which augmentations there are.
        height: Of the frames, px.
        width: Of the frames, px.
        seed: Of the run.
        train_step: The clip's train step.
        slot: Its place in the global batch.

    Reference: Szegedy et al. 2015, arXiv 1409.4842 (random resized crops).
    """
    rng = np.random.default_rng(stream_seed(seed, "augment", train_step, slot))
    flips = rng.random() < 0.5
    rectangle = _crop(config, height, width, rng.random((_ATTEMPTS, 4))) if config.crop else _middle(height, width)
    return Augmentation(*rectangle, flip=config.flip and flips)


def augment(frames_TCYX: UInt8[Tensor, "T C Y X"], chosen: Augmentation, size: int) -> UInt8[Tensor, "T C size size"]:
    """Cuts out, resizes bilinearly with antialiasing, and mirrors.

    Args:
        frames_TCYX: The frames of a clip, on the CPU. Frames that lie channels last in memory are fastest.
        chosen: What happens to them.
        size: Side of the frames that are returned, px.

    Returns:
        `[T,C,size,size]` uint8, channels last in memory. A square of this size that is not mirrored is not changed.
    """
    import cv2

    rows, columns = slice(chosen.top, chosen.top + chosen.height), slice(chosen.left, chosen.left + chosen.width)
    # Copies and mirrors are NumPy's and OpenCV's: PyTorch's would start a team of threads in each thread of a loader.
    cut = np.ascontiguousarray(frames_TCYX.permute(0, 2, 3, 1).numpy()[:, rows, columns])
    if cut.shape[1:3] != (size, size):
        # In bytes a CPU resizes over ten times faster than in floats; the result is within a level or two of theirs.
        resized = F.interpolate(
            torch.from_numpy(cut).permute(0, 3, 1, 2), size=(size, size), mode="bilinear", antialias=True
        )
        cut = resized.permute(0, 2, 3, 1).numpy()
    if chosen.flip:
        mirrored = np.empty_like(cut)
        for frame, out in zip(cut, mirrored, strict=True):
            cv2.flip(frame, 1, out)
        cut = mirrored
    return torch.from_numpy(cut).permute(0, 3, 1, 2)


def _middle(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest square in the middle."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _crop(config: AugmentConfig, height: int, width: int, uniform: np.ndarray) -> tuple[int, int, int, int]:
    """A rectangle from uniform numbers `[attempts,4]`: area, aspect, top and left."""
    low, high = config.crop_scale
    areas = height * width * (low + uniform[:, 0] * (high - low))
    narrow, broad = (math.log(aspect) for aspect in config.crop_aspect)
    aspects = np.exp(narrow + uniform[:, 1] * (broad - narrow))
    widths = np.rint(np.sqrt(areas * aspects)).astype(int)
    heights = np.rint(np.sqrt(areas / aspects)).astype(int)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    if fits.any():
        first = int(np.argmax(fits))
        cut_height, cut_width = int(heights[first]), int(widths[first])
        top, left = uniform[first, 2:] * (height - cut_height + 1, width - cut_width + 1)
        return int(top), int(left), cut_height, cut_width
    aspect = min(max(width / height, config.crop_aspect[0]), config.crop_aspect[1])
    cut_width, cut_height = (
        (width, round(width / aspect)) if width / height < aspect else (round(height * aspect), height)
    )
    cut_width, cut_height = max(1, min(cut_width, width)), max(1, min(cut_height, height))
    return (height - cut_height) // 2, (width - cut_width) // 2, cut_height, cut_width
