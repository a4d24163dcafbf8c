"""Turns the spaces of any Gymnasium environment into a bounded vector of actions, a picture and a vector of numbers."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from gymnasium import spaces

from jepawm.errors import EnvironmentFault

PICTURE_KEYS = ("pixels", "image", "rgb")
# A smaller array with the shape of a picture is taken for a board of cells, and not for a picture.
MIN_PICTURE_PX = 16
# If observations hold only a picture, a grey copy of this size stands in for numbers.
THUMBNAIL_PX = 8
# A larger bound counts as no bound: some environments write the largest float32 for "none".
LARGEST_BOUND = 1e6


class Actions:
    """A bounded box for the planner, and the environment's action for each point of the box.

    A Box is flattened. Discrete(n) becomes n numbers from 0 to 1, and the largest one chooses the action; each part of
    MultiDiscrete becomes the same. MultiBinary(n) becomes n numbers from 0 to 1, which are on above 0.5.

    Args:
        env_id: For messages.
        space: The environment's own action space.
        bound: Bounds [-bound, bound] for dimensions that have none.

    Attributes:
        space: Box `[a]` float32.
        names: `a` names.

    Raises:
        EnvironmentFault: The action space cannot be searched.
    """

    def __init__(self, env_id: str, space: spaces.Space[Any], bound: float | None = None) -> None:
        self._own = space
        self._parts: list[int] = []
        if isinstance(space, spaces.Box):
            low, high = (side.reshape(-1).astype(np.float64) for side in (space.low, space.high))
            no_low, no_high = low <= -LARGEST_BOUND, high >= LARGEST_BOUND
            if (no_low | no_high).any() and bound is None:
                where = ", ".join(map(str, np.flatnonzero(no_low | no_high)))
                raise EnvironmentFault(
                    f"env.id '{env_id}': its actions have no bounds in dimension(s) {where} of {len(low)}, and a "
                    "planner needs some; give them with --env.options action_bound=NUMBER"
                )
            if bound is not None:
                low, high = np.where(no_low, -bound, low), np.where(no_high, bound, high)
            if not (low <= high).all():
                raise EnvironmentFault(
                    f"env.id '{env_id}': low must not lie above high in any dimension of its action space, found "
                    f"{low.tolist()} and {high.tolist()}"
                )
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            if isinstance(space, spaces.Discrete):
                self._parts = [int(space.n)]
            elif isinstance(space, spaces.MultiDiscrete):
                self._parts = [int(n) for n in space.nvec.reshape(-1)]
            count = sum(self._parts) or int(np.prod(space.shape or ()))
            low, high = np.zeros(count), np.ones(count)
        else:
            raise EnvironmentFault(
                f"env.id '{env_id}': its action space is {type(space).__name__}; a planner can search Box, Discrete, "
                "MultiDiscrete and MultiBinary. Wrap it, e.g. with gymnasium.wrappers.TransformAction"
            )
        self.space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.names = tuple(f"action_{i}" for i in range(len(low)))

    def native(self, action: np.ndarray) -> Any:
        """The environment's own action for `[a]` numbers; those beyond the bounds are clipped to them."""
        own = self._own
        if isinstance(own, spaces.Box):
            # The second clip uses the type of the space, because float32 cannot hold every float64 bound.
            box = np.clip(action, self.space.low, self.space.high).reshape(own.shape)
            box = np.rint(box) if np.issubdtype(own.dtype, np.integer) else box
            return np.clip(box.astype(own.dtype), own.low, own.high)
        if isinstance(own, spaces.MultiBinary):
            return (np.asarray(action) > 0.5).reshape(own.shape).astype(own.dtype)
        ends = np.cumsum(self._parts)[:-1]
        chosen = [int(np.argmax(part)) for part in np.split(np.asarray(action), ends)]
        if isinstance(own, spaces.Discrete):
            return own.start + own.dtype.type(chosen[0])
        assert isinstance(own, spaces.MultiDiscrete)
        return (np.array(chosen).reshape(own.shape) + own.start).astype(own.dtype)


class Observations:
    """A picture and numbers from an environment's own observations.

    Args:
        space: The environment's own observation space.

    Attributes:
        has_picture: Whether observations hold a picture (a uint8 Box, alone or called `pixels`, `image` or `rgb`).
        names: Names of the numbers; empty if observations hold only pictures.
        proprio: Slice of the numbers under the key `proprio`; all numbers if there is no such key.
        left_out: Parts that are not used: further pictures, texts, parts without a fixed width.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._picture: tuple[Any, ...] | None = None
        self._numbers: list[tuple[tuple[Any, ...], spaces.Space[Any]]] = []
        self.left_out: list[str] = []
        names: list[str] = []
        self.proprio = slice(None)
        leaves = _leaves(space)
        pictures = [path for path, leaf in leaves if _is_picture(leaf)]
        for key in ((), *((key,) for key in PICTURE_KEYS)):
            if key in pictures and self._picture is None:
                self._picture = key
        for path, leaf in leaves:
            label = "_".join(map(str, path)) or "observation"
            if path == self._picture:
                continue
            if not _has_numbers(leaf):
                self.left_out.append(f"{label} ({type(leaf).__name__})")
                continue
            width, start = spaces.flatdim(leaf), len(names)
            names += [f"{label}_{i}" for i in range(width)]
            if path == ("proprio",):
                self.proprio = slice(start, start + width)
            self._numbers.append((path, leaf))
        self.has_picture = self._picture is not None
        self.names = tuple(names)

    def picture(self, observation: Any) -> np.ndarray:
        """The picture in an observation, unchanged."""
        assert self._picture is not None
        return np.asarray(_at(observation, self._picture))

    def numbers(self, observation: Any) -> np.ndarray:
        """The numbers in an observation: `[n]` float64; discrete parts are one-hot."""
        parts = [np.asarray(spaces.flatten(leaf, _at(observation, path))) for path, leaf in self._numbers]
        return np.concatenate([part.reshape(-1).astype(np.float64) for part in parts]) if parts else np.empty(0)


def square_rgb(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture's middle square as `[size,size,3]` uint8, shrunk by averaging.

    Args:
        picture: uint8 `[Y,X]`, `[Y,X,1]`, `[Y,X,3]`, `[Y,X,4]` (the last is transparency, left out) or channels first.
        size: Side of the result, px.
    """
    if picture.ndim == 3 and picture.shape[-1] not in (1, 3, 4) and picture.shape[0] in (1, 3):
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 2:
        picture = picture[..., None]
    picture = np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture[..., :3]
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    square = np.ascontiguousarray(picture[top : top + side, left : left + side])
    if side == size:
        return square.copy()
    how = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=how))


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """`[THUMBNAIL_PX ** 2]` float64 grey levels from 0 to 1 of `[Y,X,3]` uint8."""
    small = cv2.resize(picture, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return small.astype(np.float64).mean(axis=-1).reshape(-1) / 255.0


THUMBNAIL_NAMES = tuple(f"grey_{y}_{x}" for y in range(THUMBNAIL_PX) for x in range(THUMBNAIL_PX))


def _leaves(space: spaces.Space[Any], path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        items: Sequence[tuple[Any, spaces.Space[Any]]] = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        items = list(enumerate(space.spaces))
    else:
        return [(path, space)]
    return [leaf for key, part in items for leaf in _leaves(part, (*path, key))]


def _at(observation: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _is_picture(space: spaces.Space[Any]) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or not _is_map(space):
        return False
    return len(space.shape) == 2 or space.shape[-1] in (1, 3) or space.shape[0] in (1, 3)


def _is_map(space: spaces.Box) -> bool:
    """Whether a box has the shape of a picture, of any type; a depth map has it."""
    return sum(side >= MIN_PICTURE_PX for side in space.shape) >= 2


def _has_numbers(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Box):
        return not _is_map(space)
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
