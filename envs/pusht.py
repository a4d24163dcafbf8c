"""Push-T: push a T-shaped block over a table with a disc. PushObj: the same with blocks of other shapes.

Reference: Chi et al., Diffusion Policy, arXiv 2303.04137; as an offline planning task, and PushObj: Zhou et al.,
DINO-WM, arXiv 2411.04983.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from envs import checks
from envs.base import SimStateEnv
from envs.factors import Factor, Variation, colour
from envs.pusht_physics import ACTION_SCALE_PX, AGENT_RADIUS_PX, CONTROL_HZ, WORLD_PX, PushTSimulator
from envs.pusht_shapes import SHAPES, Block

if TYPE_CHECKING:
    from envs.pusht_drawing import PushTDrawing

SUCCESS_DISTANCE_PX = 20.0
SUCCESS_ANGLE_RAD = math.pi / 9

POSE_NAMES = ("agent_x", "agent_y", "block_x", "block_y", "block_angle")


class PushTEnv(SimStateEnv):
    """A position-controlled disc (the agent), and a T or another block that moves only while the disc pushes it.

    sim_state `[7]`: agent x, y, block x, y [px of a 512 x 512 table, y down], block angle [rad, 0 to 2 pi], agent
    velocity x, y [px/s]. proprio `[4]`: agent x, y, velocity x, y. An action `[2]` is the agent's next target
    relative to where it is now, in units of 100 px; it is not clipped.

    The bounds of `action_space` (+-5.12) allow a target anywhere on the table. Human actions stay below
    1.8 (99 % below 0.75).

    As published, a reset to a sim_state makes one physics step (10 ms). In the first `info["sim_state"]` the agent has
    therefore moved by a hundredth of its velocity, and overlapping bodies have begun to part. `render_state` shows
    a sim_state as it is.

    `envs/PushObj-v1` is this environment with `vary=("block.shape",)`: one of seven shapes in every episode. Block x, y
    is the position of the block's origin, which depends on the shape: the middle of the T's upper edge, and for other
    shapes the corner or middle in which their boxes meet. Two blocks of different shapes cannot be compared by their
    poses.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 224.
        render_mode: None or `"rgb_array"`.
        goal_marker: Whether the table carries the green T of Diffusion Policy's task. It is in the published
            planning frames and in human recordings, and has nothing to do with the goal of an episode. It has the
            shape and size of the episode's block.
        variation: Values of `factors` that every episode has.
        vary: Factors that each reset draws anew.

    Raises:
        ImportError: pymunk or OpenCV is not installed.
    """

    control_hz: ClassVar[int] = CONTROL_HZ
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("target_x", "target_y")
    proprio_names = ("agent_x", "agent_y", "agent_velocity_x", "agent_velocity_y")
    sim_state_names = (*POSE_NAMES, "agent_velocity_x", "agent_velocity_y")
    action_max_norm = None
    distance_name = "px, agent and block together"
    contrasts = (("agent.colour", "background.colour"), ("block.colour", "background.colour"))

    factors: ClassVar[Mapping[str, Factor]] = {
        "block.shape": Factor("T", choices=SHAPES, about="outline of block and goal marker", physical=True),
        "block.scale": Factor(1.0, 0.7, 1.2, about="size of the block, relative to the published one", physical=True),
        "block.colour": colour((119, 136, 153), "RGB of the block's outline; inside it is lighter"),
        # The picture shows the real radius, so a larger disc also pushes from farther away.
        "agent.radius": Factor(AGENT_RADIUS_PX, 8, 22, about="radius of the disc, px of 512", physical=True),
        "agent.colour": colour((65, 105, 225), "RGB of the disc's rim; inside it is lighter"),
        "background.colour": colour((255, 255, 255), "RGB of the table"),
        "goal_marker.colour": colour((144, 238, 144), "RGB of the mark on the table"),
    }

    def __init__(
        self,
        image_size: int = 224,
        render_mode: str | None = None,
        goal_marker: bool = True,
        variation: Mapping[str, Any] | None = None,
        vary: Iterable[str] = (),
    ) -> None:
        checks.require("pymunk", "jepawm[pusht]")
        checks.require("cv2", "jepawm[pusht]")
        super().__init__(image_size, render_mode, WORLD_PX / ACTION_SCALE_PX, variation, vary)
        self.goal_marker = goal_marker
        self._apply_variation()

    @property
    def block(self) -> Block:
        """The block of the running episode."""
        return self._simulator.shape

    @classmethod
    def sim_state_from_pose(cls, pose: Sequence[float], agent_velocity: Sequence[float] = (0.0, 0.0)) -> np.ndarray:
        """Makes a sim_state from the numbers that recordings keep.

        The velocity of a recorded frame inside an episode is not zero. The recorded targets determine it exactly: see
        `jepawm.data.importers.pusht_zarr.agent_velocities`. With zero velocity the block and the picture are right,
        and the agent lags behind the recording for about half a second.

        Args:
            pose: `[5]` agent x, y, block x, y [px], block angle [rad].
            agent_velocity: `[2]` [px/s].

        Returns:
            sim_state `[7]`, float64.

        Raises:
            ValueError: Wrong shape or values that are not finite.
        """
        velocity = checks.vector("agent_velocity", agent_velocity, cls.sim_state_names[5:])
        return np.concatenate([checks.vector("pose", pose, POSE_NAMES), velocity])

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws the published start and goal of a seed, both at rest: `[7]` and `[7]`.

        As published, the drawn angles are not wrapped to `[0, 2 pi)`. The draws are the same for all blocks.
        """
        self._resolved(variation)
        random = np.random.RandomState(seed)
        return self._random_state(random), self._random_state(random)

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether agent and block are where the goal has them.

        Distance of (agent x, y, block x, y) below 20 px, and angles less than pi/9 apart. The published test reads
        `min(|d|, 2 pi - |d|) < pi/9` without wrapping d; for goals drawn at random, whose angles are not wrapped
        either, it passes every angle with |d| > 2 pi - pi/9. Here the difference is wrapped first. For goals taken
        from data (angles in `[0, 2 pi)`) both tests agree.

        Args:
            sim_state: `[7]`.
            goal: `[7]`; its velocity does not count.
        """
        distance = self.distance(sim_state, goal)
        angle = math.remainder(float(goal[4]) - float(sim_state[4]), math.tau)
        return distance < SUCCESS_DISTANCE_PX and abs(angle) < SUCCESS_ANGLE_RAD

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """Distance of agent and block together, without angles [px]; a success needs less than 20."""
        return math.dist([float(v) for v in sim_state[:4]], [float(v) for v in goal[:4]])

    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of a sim_state `[7]`; velocities do not show."""
        sim_state = self._check_sim_state(sim_state)
        shown = self.variation if variation is None else self._resolved(variation)
        # A second world, so that the running episode does not change.
        world = _simulator(shown)
        world.set_state(sim_state)
        drawing = self._drawing if shown == self.variation else self._drawing_of(shown, world.shape)
        return drawing.draw(sim_state, world.contacts())

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns agent position and velocity: float32 `[4]`."""
        return np.asarray(sim_state, dtype=np.float32)[[0, 1, 5, 6]]

    def _apply_variation(self) -> None:
        self._simulator = _simulator(self.variation)
        self._drawing = self._drawing_of(self.variation, self.block)

    def _drawing_of(self, variation: Variation, block: Block) -> "PushTDrawing":
        from envs.pusht_drawing import PushTDrawing, PushTLook

        look = PushTLook(
            block=block,
            agent_radius_px=variation["agent.radius"],
            background=tuple(variation["background.colour"]),
            block_colour=tuple(variation["block.colour"]),
            agent_colour=tuple(variation["agent.colour"]),
            goal_marker=tuple(variation["goal_marker.colour"]) if self.goal_marker else None,
        )
        return PushTDrawing(self.image_size, look)

    def _sample_start(self) -> np.ndarray:
        # A RandomState seeded from np_random, so that starts follow the published distribution.
        return self._random_state(np.random.RandomState(self.np_random.integers(2**31)))

    @staticmethod
    def _random_state(random: np.random.RandomState) -> np.ndarray:
        agent_x, agent_y = random.randint(50, 450), random.randint(50, 450)
        block_x, block_y = random.randint(100, 400), random.randint(100, 400)
        angle = random.randn() * 2 * np.pi - np.pi
        return np.array([agent_x, agent_y, block_x, block_y, angle, 0.0, 0.0])

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._simulator.set_state(sim_state)
        self._simulator.settle()

    def _get_state(self) -> np.ndarray:
        return self._simulator.get_state()

    def _advance(self, action: np.ndarray) -> None:
        self._simulator.advance(action)

    def _draw(self) -> np.ndarray:
        return self._drawing.draw(self._simulator.get_state(), self._simulator.contacts())


def _simulator(variation: Variation) -> PushTSimulator:
    return PushTSimulator(variation["block.shape"], variation["block.scale"], variation["agent.radius"])
