"""What a person hands to an agent for one plan: observations as an environment returns them, and pictures as goals."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jepawm.errors import ConfigError, DataError
from jepawm.pictures import read_pictures, square
from jepawm.types import Observations

Observation = Mapping[str, Any]
"""`pixels` `[Y,X,C]` uint8 and, for models that read it, `proprio` `[R]` in raw units; what an environment returns."""

Goal = Observation | str | os.PathLike[str] | np.ndarray
"""What should be observed at the end: an observation, or a picture of any size (its pixels `[Y,X,3]` uint8, a PNG or
JPEG, or a `.npz` with `pixels`), whose middle square is resized to the frames that the model sees. A picture has no
proprio, so plans towards one are judged by visual latents alone."""


def batch_of_one(frames: Sequence[Observation], proprio_dim: int | None) -> Observations:
    """Single observations that follow each other a model step apart, as `[1,T]` observations.

    Args:
        frames: What an environment returned.
        proprio_dim: Numbers of the proprio that the model reads; None: it reads none.

    Raises:
        ConfigError: An observation without what the model reads, or of a wrong shape.
    """
    pixels = np.stack([_pixels(seen) for seen in frames])
    proprio = None if proprio_dim is None else np.stack([_proprio(seen, proprio_dim) for seen in frames])[None]
    return Observations(pixels[None], proprio)


def picture_goal(picture: str | os.PathLike[str] | np.ndarray, side: int) -> Observations:
    """A picture as `[1,1]` observations without proprio.

    Args:
        picture: Pixels `[Y,X,3]` uint8, or a file that holds one picture.
        side: Of the frames that the model sees, pixels.

    Raises:
        ConfigError: Pixels of another kind.
        DataError: A file that cannot be read, or with more than one picture.
    """
    if isinstance(picture, (str, os.PathLike)):
        pixels = read_pictures(picture, side).pixels
        if len(pixels) != 1:
            raise DataError(f"{os.fspath(picture)} holds {len(pixels)} pictures, a goal is one of them")
    else:
        pixels = square(_checked_pixels(np.asarray(picture), "a picture as a goal")[None], side)
    return Observations(pixels[None])


def _pixels(observation: Observation) -> np.ndarray:
    return _checked_pixels(np.asarray(_part(observation, "pixels")), "observation['pixels']")


def _checked_pixels(pixels: np.ndarray, what: str) -> np.ndarray:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ConfigError(f"{what} must be uint8 [Y,X,3], found {pixels.dtype} {list(pixels.shape)}")
    return pixels


def _proprio(observation: Observation, width: int) -> np.ndarray:
    proprio = np.asarray(_part(observation, "proprio"), dtype=np.float32)
    if proprio.shape != (width,):
        raise ConfigError(f"observation['proprio'] must have shape [{width}], found {list(proprio.shape)}")
    return proprio


def _part(observation: Observation, name: str) -> Any:
    if not isinstance(observation, Mapping):
        raise ConfigError(
            f"an observation is a mapping with 'pixels' (and 'proprio' where the model reads it), as an environment "
            f"returns it; found {type(observation).__name__}"
        )
    if name not in observation:
        raise ConfigError(f"the model reads observation['{name}'], found only {', '.join(observation) or 'nothing'}")
    return observation[name]
