"""Physics of Push-T: a position-controlled disc pushes a block over a table seen from above.

The world is 512 x 512 px with y pointing down. The block is quasi-static: it keeps no speed of its own from one
physics step to the next (`space.damping = 0`). The disc is kinematic, so the block never slows it down; a PD controller
moves it to the target that an action gives.

Reference: Chi et al., Diffusion Policy, arXiv 2303.04137; numbers as in Zhou et al., DINO-WM, arXiv 2411.04983.
"""

import math
from array import array
from typing import Any

import numpy as np

from envs.pusht_shapes import Block, make_block

WORLD_PX = 512
CONTROL_HZ = 10
PHYSICS_HZ = 100
SUBSTEPS = PHYSICS_HZ // CONTROL_HZ
DT_S = 1.0 / PHYSICS_HZ

ACTION_SCALE_PX = 100.0
PROPORTIONAL_GAIN = 100.0
DERIVATIVE_GAIN = 20.0

AGENT_RADIUS_PX = 15
WALL_RADIUS_PX = 2
WALL_CORNERS = ((5, 506), (5, 5), (506, 5), (506, 506))
# Depth of the walls that are not published.
WALL_DEPTH_PX = 300

# A point on either body, then the unit normal [px].
Contact = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


class PushTSimulator:
    """One Push-T world in pymunk: the disc (agent), the block and four walls.

    The published walls are thin lines, and the disc, which nothing stops, can press a block through them. The published
    T with the published disc has these walls. Every other block or disc has walls with the same faces that are solid
    behind them, so that no block gets lost.

    A pickled simulator holds its start and its actions, and replays them: pymunk 7.3 pickles neither a block whose
    centre of gravity was moved nor the contacts it caches, and without those the block would leave its course.

    Args:
        shape: Shape of the block, a name in `envs.pusht_shapes.SHAPES`.
        scale: Size of the block relative to the published one.
        agent_radius_px: Radius of the disc.
    """

    def __init__(self, shape: str = "T", scale: float = 1.0, agent_radius_px: float = AGENT_RADIUS_PX) -> None:
        self.shape: Block = make_block(shape, scale)
        self.agent_radius_px = agent_radius_px
        self._is_published = (shape, scale, agent_radius_px) == ("T", 1.0, AGENT_RADIUS_PX)
        self.set_state(np.array([256, 400, 256, 300, 0, 0, 0]))

    def set_state(self, sim_state: np.ndarray) -> None:
        """Makes a new world as `sim_state` says, with no memory of earlier contacts, without advancing time.

        Args:
            sim_state: `[7]` agent x, y [px], block x, y [px], block angle [rad], agent velocity x, y [px/s].
        """
        self._start = np.array(sim_state, dtype=np.float64)
        self._settled = False
        self._actions = array("d")
        self._build_world()

        agent_x, agent_y, block_x, block_y, angle, velocity_x, velocity_y = self._start.tolist()
        self.agent.velocity = (velocity_x, velocity_y)
        self.agent.position = (agent_x, agent_y)
        # The angle goes first: turning a body moves its origin around its centre of gravity.
        self.block.angle = angle
        self.block.position = (block_x, block_y)
        for body in (self.agent, self.block):
            self.space.reindex_shapes_for_body(body)

    def _build_world(self) -> None:
        import pymunk

        self.space = pymunk.Space()
        self.space.gravity = (0, 0)
        self.space.damping = 0

        self.space.add(*self._walls())

        self.agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self.space.add(self.agent, pymunk.Circle(self.agent, self.agent_radius_px))

        self.block = pymunk.Body(mass=1, moment=self.shape.moment)
        self.block.center_of_gravity = self.shape.centre_of_gravity
        self.space.add(self.block, *(pymunk.Poly(self.block, polygon) for polygon in self.shape.polygons))

    def _walls(self) -> list[Any]:
        import pymunk

        body = self.space.static_body
        if self._is_published:
            return [
                pymunk.Segment(body, start, end, WALL_RADIUS_PX)
                for start, end in zip(WALL_CORNERS, WALL_CORNERS[1:] + WALL_CORNERS[:1], strict=True)
            ]
        near, far = WALL_CORNERS[1][0] + WALL_RADIUS_PX, WALL_CORNERS[3][0] - WALL_RADIUS_PX
        low, high = near - WALL_DEPTH_PX, far + WALL_DEPTH_PX
        boxes = ((low, low, near, high), (far, low, high, high), (low, low, high, near), (low, far, high, high))
        return [
            pymunk.Poly(body, ((left, top), (left, bottom), (right, bottom), (right, top)))
            for left, top, right, bottom in boxes
        ]

    def get_state(self) -> np.ndarray:
        """Returns the sim_state `[7]`, float64, with the angle in `[0, 2 pi)`."""
        agent_x, agent_y = self.agent.position
        block_x, block_y = self.block.position
        velocity_x, velocity_y = self.agent.velocity
        return np.array([agent_x, agent_y, block_x, block_y, self.block.angle % math.tau, velocity_x, velocity_y])

    def settle(self) -> None:
        """One physics step of 10 ms without control, right after `set_state`: overlapping bodies begin to part."""
        self._settled = True
        self.space.step(DT_S)

    def advance(self, action: np.ndarray) -> None:
        """One env_step of 100 ms.

        Args:
            action: `[2]` target of the disc relative to where it is now, in units of 100 px.
        """
        self._actions.extend((float(action[0]), float(action[1])))
        agent, space = self.agent, self.space
        x, y = agent.position
        velocity_x, velocity_y = agent.velocity
        target_x = x + ACTION_SCALE_PX * float(action[0])
        target_y = y + ACTION_SCALE_PX * float(action[1])
        for _ in range(SUBSTEPS):
            velocity_x += (PROPORTIONAL_GAIN * (target_x - x) - DERIVATIVE_GAIN * velocity_x) * DT_S
            velocity_y += (PROPORTIONAL_GAIN * (target_y - y) - DERIVATIVE_GAIN * velocity_y) * DT_S
            agent.velocity = (velocity_x, velocity_y)
            space.step(DT_S)
            # A kinematic body feels no contact, so its path is known here without asking the simulator again.
            x += velocity_x * DT_S
            y += velocity_y * DT_S

    def __reduce__(self) -> tuple[Any, ...]:
        made_of = (self.shape.shape, self.shape.scale, self.agent_radius_px)
        return _replayed, (made_of, self._start, self._settled, self._actions)

    def contacts(self) -> list[Contact]:
        """Where the block touches disc or walls now, each with the direction in which the two press.

        This depends on the pose alone, so a picture of a sim_state does not depend on the episode before it.
        """
        if not self._near_contact():
            return []
        return [
            (tuple(point.point_a), tuple(point.point_b), tuple(hit.contact_point_set.normal))
            for part in self.block.shapes
            for hit in self.space.shape_query(part)
            if hit.shape is not None and hit.shape.body is not self.block
            for point in hit.contact_point_set.points
        ]

    def _near_contact(self) -> bool:
        """False when the block is too far away to touch disc or walls; most frames then need no query."""
        x, y = self.block.local_to_world(self.shape.centre_of_gravity)
        agent_x, agent_y = self.agent.position
        to_wall = min(x - WALL_CORNERS[1][0], y - WALL_CORNERS[1][1], WALL_CORNERS[3][0] - x, WALL_CORNERS[3][1] - y)
        return (
            math.hypot(agent_x - x, agent_y - y) < self.shape.reach_px + self.agent_radius_px
            or to_wall < self.shape.reach_px + WALL_RADIUS_PX
        )


def _replayed(
    made_of: tuple[str, float, float], start: np.ndarray, settled: bool, actions: "array[float]"
) -> PushTSimulator:
    """The simulator that was pickled."""
    simulator = PushTSimulator(*made_of)
    simulator.set_state(start)
    if settled:
        simulator.settle()
    for action in np.asarray(actions).reshape(-1, 2):
        simulator.advance(action)
    return simulator
