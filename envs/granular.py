"""Granular: push a pile of small grains on a table into another place or shape.

Not comparable with the published Granular, which runs in PyFleX; see `envs.deformable`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from envs import checks
from envs.deformable import DeformableEnv, particle_names, rotated
from envs.deformable_physics import TABLE_HEIGHT, World

NUM_GRAINS = 97
PATCH = math.sqrt(5.0)
"""Side of the square that a start covers with one layer of grains [units]."""
PITCH = PATCH / 9.85
"""From one grain of a laid layer to the next [units]; 9.85^2 is the number of grains."""

_SMALLEST_HALF, _LARGEST_HALF = 0.05, 0.08
_FRICTION, _PUSHER_FRICTION = 1.0, 0.2
_MASS, _DRAG = 0.05, 0.002
_HALF_WIDTH, _HALF_THICKNESS, _PUSHER_LENGTH, _TAPER = 0.48, 0.13, 1.3, 0.4

_START_SHIFT = 0.5
_GOAL_SHIFT = 1.0
_SMALLEST_SCALE, _LARGEST_SCALE = 0.6, 0.9
# Height between two stacked layers: that of the largest grain and a little more.
_LAYER = 2 * _LARGEST_HALF + 0.01
_MOST_LAYERS = 6

# How far inside the shape each place of `[P, 2]` lies; negative outside.
Inside = Callable[[np.ndarray], np.ndarray]

SHAPES: dict[str, Inside] = {
    "block": lambda p: _in_box(p, 1.3, 0.5),
    "L": lambda p: np.maximum(_in_box(p - [-0.7, 0.0], 0.4, 1.1), _in_box(p - [0.0, -0.7], 1.1, 0.4)),
    "ring": lambda p: 0.3 - np.abs(np.hypot(p[:, 0], p[:, 1]) - 0.8),
    "two_piles": lambda p: 0.6 - np.minimum(np.hypot(p[:, 0] - 0.95, p[:, 1]), np.hypot(p[:, 0] + 0.95, p[:, 1])),
}


class GranularEnv(DeformableEnv):
    """97 box-shaped grains, no two alike, and a flat finger 0.96 wide and 0.26 thick; see `DeformableEnv` for all else.

    The finger's flat side faces the way it is pushed. Grains measure 0.1 to 0.16 along each side; a fixed seed draws
    them, so they are the same in every episode. sim_state `[679]`: x, z, y of each grain's middle, then a quaternion
    (w, x, z, y)
    of each grain.

    Start: one layer of grains, each turned anyhow, over a square of area 5 whose middle is within 0.5 of the table's
    in x and z, and which is turned by 0 to 90 degrees.
    Goals `random` (as published): the square shrunk to 0.6 to 0.9 of its side and shifted by up to 1 in x and z, not
    turned. Published goals shrink the grains' places alone, so that they lie inside each other; here the grains
    are stacked on the smaller square, in two or three layers, and come to rest. Goals `shape`: a block, an L, a ring
    or two piles, stacked in the same way, turned anyhow, within 0.5 of the middle.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 224.
        render_mode: None or `"rgb_array"`.
        goal: `random` or `shape`.
        success_distance: Chamfer distance to the goal below which it counts as reached [units]. Ours: two goals
            of one shape and place, whose grains lie differently, are 0.14 to 0.21 apart; shifted by 0.3, 0.27.
        quality: Of pictures; see `envs.mujoco_rendering`.

    Raises:
        ImportError: MuJoCo is not installed.
        ValueError: A wrong argument.
    """

    num_particles: ClassVar[int] = NUM_GRAINS
    sim_state_names = (
        *particle_names(NUM_GRAINS),
        *(f"quaternion_{i}_{part}" for i in range(NUM_GRAINS) for part in "wxzy"),
    )

    def __init__(
        self,
        image_size: int = 224,
        render_mode: str | None = None,
        goal: str = "random",
        success_distance: float = 0.25,
        quality: str = "auto",
    ) -> None:
        super().__init__(_world(), image_size, render_mode, goal, success_distance, quality)

    def _qpos(self, sim_state: np.ndarray) -> np.ndarray:
        places = sim_state[: 3 * NUM_GRAINS].reshape(NUM_GRAINS, 3)
        turns = sim_state[3 * NUM_GRAINS :].reshape(NUM_GRAINS, 4)
        return np.concatenate([places, turns], axis=1).ravel()

    def _sim_state(self, qpos: np.ndarray) -> np.ndarray:
        grains = qpos.reshape(NUM_GRAINS, 7)
        return np.concatenate([grains[:, :3].ravel(), grains[:, 3:].ravel()])

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode; see `SimStateEnv`.

        Raises:
            ValueError: See `SimStateEnv.reset`; or the length of a quaternion is not 1.
        """
        for key in ("sim_state", "goal"):
            value = None if options is None else options.get(key)
            if value is not None:
                argument = f'options["{key}"]'
                _check_turns(argument, checks.vector(argument, value, self.sim_state_names))
        return super().reset(seed=seed, options=options)

    def _check_sim_state(self, sim_state: np.ndarray) -> np.ndarray:
        sim_state = super()._check_sim_state(sim_state)
        _check_turns("sim_state", sim_state)
        return sim_state

    def _random_start(self, random: np.random.RandomState) -> np.ndarray:
        cells = np.stack(np.divmod(np.arange(100), 10), axis=1)[:NUM_GRAINS]
        places = (cells - 4.5) * PITCH
        places = rotated(places, random.uniform(0, math.pi / 2)) + random.uniform(-_START_SHIFT, _START_SHIFT, 2)
        return _laid(random, places, np.zeros(NUM_GRAINS))

    def _random_goal(self, random: np.random.RandomState, start: np.ndarray) -> np.ndarray:
        half = PATCH / 2 * random.uniform(_SMALLEST_SCALE, _LARGEST_SCALE)
        middle = random.uniform(-_GOAL_SHIFT, _GOAL_SHIFT, 2)
        return self._stacked(random, lambda p: _in_box(p, half, half), 0.0, middle)

    def _shape_goal(self, random: np.random.RandomState) -> np.ndarray:
        inside = SHAPES[sorted(SHAPES)[random.randint(len(SHAPES))]]
        angle = random.uniform(0, math.tau)
        return self._stacked(random, inside, angle, random.uniform(-_START_SHIFT, _START_SHIFT, 2))

    def _stacked(
        self, random: np.random.RandomState, inside: Inside, angle_rad: float, middle: np.ndarray
    ) -> np.ndarray:
        """Stacks all grains within a shape in layers, lets them come to rest, and returns the sim_state `[S]`.

        Each grain stands on the middle of the grain below it, because heaps of tilted grains creep for seconds.
        """
        cells = np.stack(np.divmod(np.arange(30 * 30), 30), axis=1)
        places = rotated((cells - 14.5) * PITCH, random.uniform(0, math.pi / 2)) + random.uniform(0, PITCH, 2)
        depth = inside(places)
        # Places deep inside the shape come first, because the last layer is not full. Each layer is a little smaller
        # than the layer below.
        order = np.argsort(-depth, kind="stable")
        layers = [order[depth[order] > 0.03 * level] for level in range(_MOST_LAYERS)]
        chosen = np.concatenate(layers)[:NUM_GRAINS]
        if len(chosen) < NUM_GRAINS:
            raise ValueError(f"shape: {_MOST_LAYERS} layers hold {len(chosen)} of {NUM_GRAINS} grains; make it larger")
        level = np.repeat(np.arange(_MOST_LAYERS), [len(layer) for layer in layers])[:NUM_GRAINS]
        return self._settled(_laid(random, rotated(places[chosen], angle_rad) + middle, level))


def _check_turns(argument: str, sim_state: np.ndarray) -> None:
    length = np.linalg.norm(sim_state[3 * NUM_GRAINS :].reshape(NUM_GRAINS, 4), axis=1)
    wrong = np.flatnonzero(np.abs(length - 1) > 1e-3)
    if len(wrong):
        raise ValueError(
            f"{argument}: expected a quaternion of length 1 for every grain, found length {length[wrong[0]]:g} for "
            f"grain {wrong[0]}, and {len(wrong) - 1} more that are wrong"
        )


def _in_box(places: np.ndarray, half_x: float, half_z: float) -> np.ndarray:
    depth: np.ndarray = np.minimum(half_x - np.abs(places[:, 0]), half_z - np.abs(places[:, 1]))
    return depth


def _half_sizes() -> np.ndarray:
    """Half sides of every grain, `[97, 3]`; the last is upright in a laid grain."""
    return np.random.RandomState(0).uniform(_SMALLEST_HALF, _LARGEST_HALF, (NUM_GRAINS, 3))


def _laid(random: np.random.RandomState, places: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The sim_state of grains in places `[97, 2]` and layers `[97]`, which grain where and how turned being random.

    A laid grain's corners are within 0.1132 of its middle, and places are at least 0.227 apart: no two overlap.
    """
    order = random.permutation(NUM_GRAINS)
    height = TABLE_HEIGHT + _half_sizes()[:, 2] + _LAYER * level[order]
    half_yaw = random.uniform(0, math.tau, NUM_GRAINS) / 2
    turns = np.stack([np.cos(half_yaw), 0 * half_yaw, 0 * half_yaw, np.sin(half_yaw)], axis=1)
    grains = np.concatenate([places[order], height[:, None]], axis=1)
    return np.concatenate([grains.ravel(), turns.ravel()])


def _world() -> World:
    random = np.random.RandomState(1)
    contact = f'condim="3" friction="{_FRICTION} 0 0" contype="1" conaffinity="3" solref="0.015 1"'
    bodies = []
    for i, half in enumerate(_half_sizes()):
        colour = np.array([0.80, 0.62, 0.30]) * random.uniform(0.75, 1.2)
        bodies.append(
            f'<body name="grain_{i}"><joint type="free" damping="{_DRAG}"/>'
            f'<geom type="box" size="{" ".join(f"{h:.6g}" for h in half)}" mass="{_MASS}" {contact} '
            f'rgba="{" ".join(f"{c:.3f}" for c in colour)} 1"/></body>'
        )
    # The taper is softer than the finger, so that it moves a grain right below it aside and does not shoot it away.
    return World(
        timestep_s=0.0075,
        solver='solver="CG" iterations="35" jacobian="sparse"',
        assets=_wedge_mesh(),
        bodies="".join(bodies),
        pusher=f'<geom type="box" size="{_HALF_WIDTH} {_HALF_THICKNESS} {_PUSHER_LENGTH / 2}" '
        f'pos="0 0 {_PUSHER_LENGTH / 2}"/><geom type="mesh" mesh="wedge" solref="0.05 1"/>',
        taper=_TAPER,
        reach=math.hypot(_HALF_WIDTH, _HALF_THICKNESS),
        pusher_friction=_PUSHER_FRICTION,
        still_linear=0.01,
        still_angular=0.1,
        longest_settle_s=3.0,
    )


def _wedge_mesh() -> str:
    """The finger's taper: a wedge with its edge down."""
    x, y = _HALF_WIDTH, _HALF_THICKNESS
    corners = [(-x, -y, 0), (x, -y, 0), (-x, y, 0), (x, y, 0), (-x, 0, -_TAPER), (x, 0, -_TAPER)]
    return f'<mesh name="wedge" vertex="{" ".join(str(c) for corner in corners for c in corner)}"/>'
