"""A scripted arm: reaches a place, picks an object from above, puts it down somewhere else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# These values are ours, found by trial: a firmer pull overshoots, and a longer grip changes nothing.
_PULL = 2.0
_POSITION_STEP_M, _ROTATION_STEP_RAD = 0.05, 0.5
HOVER_M = 0.1
_ARRIVED_M = 0.01
_GRIP_ENV_STEPS = 10
_PATIENCE_ENV_STEPS = 60
OPEN, REST, CLOSE = -1.0, 0.0, 1.0


@dataclass(frozen=True)
class Seen:
    """The part of a state that the script uses.

    Attributes:
        hand: Position `[3]` [m, world].
        rotation: Rotation of the hand, `[3, 3]`, world.
        base: Rotation of the arm's base, `[3, 3]`, world; actions are in the frame of the base.
        thing: Position `[3]` [m, world] of the object; without an object its value has no meaning.
    """

    hand: np.ndarray
    rotation: np.ndarray
    base: np.ndarray
    thing: np.ndarray


@dataclass(frozen=True)
class Phase:
    """One part of a script: bring the hand to a place while the gripper keeps one command.

    Attributes:
        offset: `[3]` [m] to add to `place`, or to the object where `place` is None.
        gripper: `OPEN`, `REST` or `CLOSE`.
        place: `[3]` [m, world]; None: the place of the object when the phase begins.
        env_steps: Length of the phase; None: until the hand has arrived, 60 env_steps at most.
    """

    offset: tuple[float, float, float]
    gripper: float
    place: tuple[float, float, float] | None = None
    env_steps: int | None = None


def reach(place: Iterable[float]) -> list[Phase]:
    """Brings the hand to a place and rests there."""
    x, y, z = (float(number) for number in place)
    return [
        Phase((0.0, 0.0, 0.0), REST, (x, y, z)),
        Phase((0.0, 0.0, 0.0), REST, (x, y, z), env_steps=5),
    ]


def pick() -> list[Phase]:
    """Takes the object from above and lifts it by 10 cm."""
    return [
        Phase((0.0, 0.0, HOVER_M), OPEN),
        Phase((0.0, 0.0, 0.0), OPEN),
        Phase((0.0, 0.0, 0.0), CLOSE, env_steps=_GRIP_ENV_STEPS),
        Phase((0.0, 0.0, HOVER_M), CLOSE),
        Phase((0.0, 0.0, 0.0), CLOSE, env_steps=5),
    ]


def place(target: Iterable[float]) -> list[Phase]:
    """Picks the object, puts it down at a target and withdraws upwards."""
    x, y, z = (float(number) for number in target)
    return [
        *pick(),
        Phase((0.0, 0.0, HOVER_M), CLOSE, (x, y, z)),
        Phase((0.0, 0.0, 0.005), CLOSE, (x, y, z)),
        Phase((0.0, 0.0, 0.005), OPEN, (x, y, z), env_steps=_GRIP_ENV_STEPS),
        Phase((0.0, 0.0, HOVER_M), OPEN, (x, y, z)),
    ]


class ScriptedArm:
    """Follows phases for one episode, and keeps the rotation that the hand has at the start.

    Args:
        phases: The phases, in order.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self._phases = list(phases)
        self._upright: np.ndarray | None = None
        self._target: np.ndarray | None = None
        self._index = self._env_steps = 0

    @property
    def done(self) -> bool:
        """Whether all phases are over; the arm then keeps holding the last place."""
        return self._index >= len(self._phases)

    def act(self, seen: Seen) -> np.ndarray:
        """Returns the next action `[7]`, normalised, in [-1, 1]."""
        from scipy.spatial.transform import Rotation

        if self._upright is None:
            self._upright = seen.rotation.copy()
        while not self.done and self._is_over(seen):
            self._begin(self._index + 1)
        phase = self._phases[min(self._index, len(self._phases) - 1)]
        if self._target is None:
            begins = seen.thing if phase.place is None else np.array(phase.place)
            self._target = begins + np.array(phase.offset)
        self._env_steps += 1
        move = seen.base.T @ (self._target - seen.hand)
        # Rotation of the hand away from its start, in the frame of actions.
        turn = Rotation.from_matrix(seen.base.T @ self._upright @ seen.rotation.T @ seen.base).as_rotvec()
        action = np.concatenate([_PULL * move / _POSITION_STEP_M, turn / _ROTATION_STEP_RAD, [phase.gripper]])
        return np.clip(action, -1.0, 1.0)

    def _begin(self, index: int) -> None:
        # After the last phase its place is kept.
        if index < len(self._phases):
            self._target = None
        self._index, self._env_steps = index, 0

    def _is_over(self, seen: Seen) -> bool:
        if self._target is None:
            return False
        wanted = self._phases[self._index].env_steps
        if wanted is not None:
            return self._env_steps >= wanted
        arrived = np.linalg.norm(self._target - seen.hand) < _ARRIVED_M
        return bool(arrived) or self._env_steps >= _PATIENCE_ENV_STEPS
