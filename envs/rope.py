"""Rope: push a rope on a table into another place or shape.

Not comparable with the published Rope, which runs in PyFleX; see `envs.deformable`.
"""

import math
from typing import ClassVar

import numpy as np

from envs.deformable import DeformableEnv, particle_names, rotated
from envs.deformable_physics import TABLE_HEIGHT, World

LENGTH = 2.5
NUM_PARTICLES = 51
SPACING = LENGTH / (NUM_PARTICLES - 1)
RADIUS = 0.05

_PUSHER_RADIUS, _PUSHER_LENGTH, _TAPER = 0.1, 1.0, 0.6
_FRICTION, _PUSHER_FRICTION = 0.7, 0.2
_MASS, _DRAG, _BENDING = 0.02, 0.1, 1.0
# Particles up to this many places apart in the chain do not collide. In a straight rope those two places apart touch;
# in a bent rope those three places apart may.
_SAME_STRETCH = 3

_START_BEND_RAD = 0.6
_START_SHIFT = 0.5
_GOAL_SHIFT = 1.0
_SHAPES = ("arc", "circle", "L", "S", "U")


class RopeEnv(DeformableEnv):
    """A rope of length 2.5, thickness 0.1, and a round pusher of radius 0.1; see `DeformableEnv` for all else.

    The rope is a chain of 51 particles that keep their distances, resist bending a little, and do not twist.
    sim_state `[153]`: x, z, y of each particle, from one end to the other.

    Start: a gently curved rope, turned anyhow, its middle within 0.5 of the table's in x and z.
    Goals `random` (as published): the start turned about its middle by 0 to 90 degrees and shifted by up to 1 in x
    and z. Goals `shape`: an arc, a circle with a gap, an L, an S or a U, turned anyhow, within 0.5 of the middle.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 224.
        render_mode: None or `"rgb_array"`.
        goal: `random` or `shape`.
        success_distance: Chamfer distance to the goal below which it counts as reached [units]. Ours: 0.2 is a rope
            that lies beside its goal by its own thickness.
        quality: Of pictures; see `envs.mujoco_rendering`.

    Raises:
        ImportError: MuJoCo is not installed.
        ValueError: A wrong argument.
    """

    num_particles: ClassVar[int] = NUM_PARTICLES
    sim_state_names = particle_names(NUM_PARTICLES)

    def __init__(
        self,
        image_size: int = 224,
        render_mode: str | None = None,
        goal: str = "random",
        success_distance: float = 0.2,
        quality: str = "auto",
    ) -> None:
        super().__init__(_world(), image_size, render_mode, goal, success_distance, quality)

    def _qpos(self, sim_state: np.ndarray) -> np.ndarray:
        # Each particle has three slide joints; their coordinates are its place.
        return sim_state

    def _sim_state(self, qpos: np.ndarray) -> np.ndarray:
        return qpos

    def _random_start(self, random: np.random.RandomState) -> np.ndarray:
        along = np.linspace(0, 1, NUM_PARTICLES - 1)
        bend = random.uniform(-_START_BEND_RAD, _START_BEND_RAD)
        waves, phase = random.uniform(0.3, 1.0), random.uniform(0, math.tau)
        heading = bend * np.sin(math.tau * waves * along + phase)
        return _laid(heading, random.uniform(0, math.tau), random.uniform(-_START_SHIFT, _START_SHIFT, 2))

    def _random_goal(self, random: np.random.RandomState, start: np.ndarray) -> np.ndarray:
        places, middle = self.particles(start)[:, :2], self.particles(start)[:, :2].mean(axis=0)
        shift = random.uniform(-_GOAL_SHIFT, _GOAL_SHIFT, 2)
        return _on_table(rotated(places - middle, random.uniform(0, math.pi / 2)) + middle + shift)

    def _shape_goal(self, random: np.random.RandomState) -> np.ndarray:
        heading = shape_heading(_SHAPES[random.randint(len(_SHAPES))])
        return _laid(heading, random.uniform(0, math.tau), random.uniform(-_START_SHIFT, _START_SHIFT, 2))


def shape_heading(shape: str) -> np.ndarray:
    """Directions `[50]` [rad] of the rope's pieces, from end to end, for a goal of this shape."""
    along = np.linspace(0, 1, NUM_PARTICLES - 1)
    if shape == "arc":
        return math.pi * along
    if shape == "circle":
        return 0.9 * math.tau * along
    if shape == "L":
        return math.pi / 2 * _ramp(along, 0.45, 0.55)
    if shape == "S":
        return math.pi * (_ramp(along, 0.0, 0.5) - _ramp(along, 0.5, 1.0))
    if shape == "U":
        return math.pi * _ramp(along, 0.3, 0.7)
    raise ValueError(f"shape: expected one of {', '.join(_SHAPES)}; found {shape!r}")


def _ramp(along: np.ndarray, first: float, last: float) -> np.ndarray:
    """0 before `first`, 1 after `last`."""
    return np.clip((along - first) / (last - first), 0, 1)


def _laid(heading: np.ndarray, turned_by_rad: float, middle: np.ndarray) -> np.ndarray:
    """The sim_state of a rope whose pieces have these directions and their exact length."""
    steps = SPACING * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    places = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return _on_table(rotated(places - places.mean(axis=0), turned_by_rad) + middle)


def _on_table(places: np.ndarray) -> np.ndarray:
    height = np.full((NUM_PARTICLES, 1), TABLE_HEIGHT + RADIUS)
    return np.concatenate([places, height], axis=1).ravel()


def _world() -> World:
    bodies, tendons, equalities, excluded = [], [], [], []
    contact = f'condim="3" friction="{_FRICTION} 0 0" contype="1" conaffinity="3" solref="0.01 1"'
    for i in range(NUM_PARTICLES):
        # The model's first pose is a straight rope, which gives tendons their lengths; with `ref`, coordinates are
        # places.
        place = (SPACING * i, 0.0, TABLE_HEIGHT + RADIUS)
        slides = "".join(
            f'<joint type="slide" axis="{axis}" ref="{ref:.9g}" damping="{_DRAG}"/>'
            for axis, ref in zip(("1 0 0", "0 1 0", "0 0 1"), place, strict=True)
        )
        where = " ".join(f"{p:.9g}" for p in place)
        geom = f'<geom size="{RADIUS}" mass="{_MASS}" material="rope" {contact}/>'
        site = f'<site name="site_{i}" group="4"/>'
        bodies.append(f'<body name="particle_{i}" pos="{where}">{slides}{geom}{site}</body>')
        for j in range(i + 1, min(i + 1 + _SAME_STRETCH, NUM_PARTICLES)):
            excluded.append(f'<exclude body1="particle_{i}" body2="particle_{j}"/>')
        # Tendons are straight lines between two particles: those of neighbours keep their length, those of next
        # neighbours are springs. A bent rope has them shorter than twice the spacing, so it straightens.
        if i + 1 < NUM_PARTICLES:
            tendons.append(f'<spatial name="piece_{i}" group="4">{_between(i, i + 1)}</spatial>')
            equalities.append(f'<tendon tendon1="piece_{i}" solref="0.01 1" solimp="0.95 0.999 0.002"/>')
        if i + 2 < NUM_PARTICLES:
            spring = f'stiffness="{_BENDING}" springlength="{2 * SPACING}"'
            tendons.append(f'<spatial name="bend_{i}" group="4" {spring}>{_between(i, i + 2)}</spatial>')
    return World(
        timestep_s=0.005,
        solver='solver="CG" iterations="50" impratio="10"',
        assets='<material name="rope" rgba="0.85 0.35 0.1 1" specular="0.1" shininess="0.1"/>' + _cone_mesh(),
        bodies="".join(bodies),
        rest=f"<contact>{''.join(excluded)}</contact><tendon>{''.join(tendons)}</tendon>"
        f"<equality>{''.join(equalities)}</equality>",
        pusher=f'<geom type="cylinder" size="{_PUSHER_RADIUS}" fromto="0 0 0 0 0 {_PUSHER_LENGTH}"/>'
        '<geom type="mesh" mesh="cone"/>',
        taper=_TAPER,
        reach=_PUSHER_RADIUS,
        pusher_friction=_PUSHER_FRICTION,
        still_linear=0.01,
        still_angular=0.0,
        longest_settle_s=3.0,
    )


def _between(i: int, j: int) -> str:
    return f'<site site="site_{i}"/><site site="site_{j}"/>'


def _cone_mesh() -> str:
    """The pusher's taper: a cone with its tip down."""
    angles = np.arange(16) * math.tau / 16
    rim = np.stack([_PUSHER_RADIUS * np.cos(angles), _PUSHER_RADIUS * np.sin(angles), 0 * angles], axis=1)
    corners = np.concatenate([rim, [[0, 0, -_TAPER]]])
    return f'<mesh name="cone" vertex="{" ".join(f"{c:.6g}" for c in corners.ravel())}"/>'
