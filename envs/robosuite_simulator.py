"""A robosuite environment as a `ForgettingSimulator`: equal states give equal futures.

It also serves RoboCasa's kitchens, which are robosuite environments.
"""

import logging
import random as python_random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from envs import checks
from envs.mujoco_rendering import import_mujoco
from envs.simulator_env import ForgettingSimulator

# What robosuite draws is the same in every process, but for the resets: the size of a cube, say, is the model's.
_MODEL_SEED = 0
# Groups of geoms that collide and are not drawn.
COLLISION_GEOM_GROUP = 0

# An arm's pose and a gripper.
ARM_ACTION_WIDTH = 7


def import_robosuite() -> Any:
    """Imports robosuite, quietly and ready to draw without a screen.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    import_mujoco("robosuite")
    logger = logging.getLogger("robosuite_logs")
    # robosuite sets its log level while it is imported, and warns about robots and settings that are not used here.
    logger.disabled = True
    try:
        return checks.require("robosuite", "jepawm[robosuite]")
    finally:
        logger.disabled = False
        logger.setLevel(logging.ERROR)


@contextmanager
def borrowed_randomness(seed: int) -> Iterator[None]:
    """Seeds the global generators that robosuite draws from, and puts them back."""
    kept, python_kept = np.random.get_state(), python_random.getstate()
    np.random.seed(seed)
    python_random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(kept)
        python_random.setstate(python_kept)


class RobosuiteSimulator(ForgettingSimulator):
    """One robosuite environment with a single-armed robot.

    A state `[S]` is, in this order: robosuite's flattened state (time [s], qpos `[nq]`, qvel `[nv]`), as recordings
    have it; the last command of the gripper; the posture that the arm's controller prefers (the joints at the reset);
    the contact solver's first guess `[nv]`; and the places of bodies without a joint that a reset moves, such as a door
    `[7 each]`.

    Args:
        make: Makes the environment, e.g. `lambda: robosuite.make("Lift", robots="Panda", **SILENT)`.

    Raises:
        ValueError: Its robot has not exactly one arm with a gripper.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        import mujoco

        self._mujoco = mujoco
        with borrowed_randomness(_MODEL_SEED):
            self.env = make()
        # robosuite's observations are not used; updating them in every physics step would cost time.
        self.env._observables = {}
        self._set_up = False
        self._moved = np.zeros(0, dtype=np.int64)
        self._find_robot()
        self._moved = self._bodies_that_resets_move()
        self._set_up = False

    # A reset may replace these objects, so they are looked up each time.

    @property
    def model(self) -> Any:  # type: ignore[override]
        """The `mjModel`."""
        return self.env.sim.model._model

    @property
    def data(self) -> Any:  # type: ignore[override]
        """The `mjData`."""
        return self.env.sim.data._data

    @property
    def _robot(self) -> Any:
        return self.env.robots[0]

    @property
    def _gripper(self) -> Any:
        return self._robot.gripper[self.arm]

    @property
    def _arm_controller(self) -> Any:
        return self._robot.part_controllers[self.arm]

    @property
    def state_names(self) -> tuple[str, ...]:
        """The numbers of a state, in order."""
        widths = {
            "qpos": self.model.nq,
            "qvel": self.model.nv,
            "gripper_told": self._gripper_width,
            "posture": self._posture_width,
            "qacc_warmstart": self.model.nv,
            "placement": 7 * len(self._moved),
        }
        return ("time", *(f"{name}_{index}" for name, width in widths.items() for index in range(width)))

    @property
    def is_set(self) -> bool:
        """Whether the simulator has been put into a state yet."""
        return self._set_up

    @property
    def flattened_width(self) -> int:
        """Width of robosuite's flattened state."""
        return int(1 + self.model.nq + self.model.nv)

    @property
    def action_width(self) -> int:
        """Width of the robot's action."""
        return int(self.env.action_dim)

    def start(self, random: np.random.Generator) -> np.ndarray:
        """Resets as robosuite does; returns the state `[S]` in which the episode starts."""
        seed = int(random.integers(2**32))
        with borrowed_randomness(seed):
            self._reset(seed)
        self._gripper.current_action = np.zeros(self._gripper_width)
        self._set_up = True
        state = self.get_state()
        self.set_state(state)
        return state

    def complete(self, flattened: np.ndarray) -> np.ndarray:
        """Makes a state `[S]` from a recorded flattened state `[1 + nq + nv]`, with a gripper without a command.

        The other numbers are set as at the start of an episode: the arm's rest posture, and bodies without joints at
        their places since the last reset.
        """
        placement = np.concatenate([self.model.body_pos[self._moved], self.model.body_quat[self._moved]], axis=1)
        return np.concatenate(
            [
                flattened,
                np.zeros(self._gripper_width),
                np.asarray(self._robot.init_qpos, dtype=np.float64),
                np.zeros(self.model.nv),
                placement.ravel(),
            ]
        )

    def _read_state(self) -> np.ndarray:
        data = self.data
        placement = np.concatenate([self.model.body_pos[self._moved], self.model.body_quat[self._moved]], axis=1)
        return np.concatenate(
            [
                [data.time],
                data.qpos,
                data.qvel,
                self._gripper.current_action,
                self._arm_controller.initial_joint,
                data.qacc_warmstart,
                placement.ravel(),
            ]
        )

    def set_state(self, state: np.ndarray) -> None:
        """Puts the simulator into a state `[S]`."""
        model, data = self.model, self.data
        ends = np.cumsum([1, model.nq, model.nv, self._gripper_width, self._posture_width, model.nv])
        time, qpos, qvel, gripper_command, posture, warmstart, placement = np.split(state, ends)
        self._mujoco.mj_resetData(model, data)
        placement = placement.reshape(-1, 7)
        model.body_pos[self._moved], model.body_quat[self._moved] = placement[:, :3], placement[:, 3:]
        data.time = time[0]
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = qpos, qvel, warmstart
        self._look()
        self._gripper.current_action = gripper_command.copy()
        for controller in self._robot.part_controllers.values():
            # Otherwise the first physics step would use the controller's view of the state before.
            controller.new_update = True
        self._arm_controller.initial_joint = posture.copy()
        self._robot.composite_controller.update_state()
        self._robot.composite_controller.reset()
        for controller in self._robot.part_controllers.values():
            controller.new_update = True
        self.env.timestep, self.env.cur_time, self.env.done = 0, 0.0, False
        self._set_up = True

    def advance(self, action: np.ndarray) -> None:
        """One env_step with an action `[7]` of the arm (-1 to 1, clipped by robosuite); all other joints get zero."""
        gripper_command = np.zeros(self.action_width)
        split = self._robot.composite_controller._action_split_indexes
        gripper_command[slice(*split[self.arm])] = action[:-1]
        gripper_command[slice(*split[self._gripper_part])] = action[-1]
        # A robot on wheels would apply its action in the frame of its base one physics step ago, which is not in the
        # state.
        self._robot.composite_controller.update_state()
        self.env.step(gripper_command)
        self._look()

    def hand(self) -> tuple[np.ndarray, np.ndarray]:
        """Position `[3]` [m] and rotation `[3, 3]` of the hand, in the world."""
        site = self.env.sim.model.site_name2id(self._gripper.important_sites["grip_site"])
        return self.data.site_xpos[site].copy(), self.data.site_xmat[site].reshape(3, 3).copy()

    def base_rotation(self) -> np.ndarray:
        """Rotation of the arm's base `[3, 3]`, in the world; actions are in the frame of the base."""
        return np.array(self._robot.composite_controller.get_controller_base_pose(self.arm)[1])

    def gripper_width_m(self) -> float:
        """Distance between the gripper's first two fingers [m]."""
        fingers = self.data.qpos[self._robot._ref_gripper_joint_pos_indexes[self.arm]]
        return float(fingers[0] - fingers[1]) if len(fingers) > 1 else float(fingers[0])

    def body_position(self, name: str) -> np.ndarray:
        """Position of a body `[3]` [m], in the world."""
        return np.array(self.data.body(name).xpos)

    def task_solved(self) -> bool:
        """robosuite's own success in the present state."""
        return bool(self.env._check_success())

    def cameras(self) -> tuple[str, ...]:
        """Names of the model's cameras."""
        return tuple(self.model.camera(index).name for index in range(self.model.ncam))

    def _reset(self, seed: int) -> None:
        """Resets the environment; global generators are seeded already."""
        self.env.reset()

    def _look(self) -> None:
        # Computes positions and contacts of the present state. Unlike a full forward pass, it keeps the solver's
        # first guess.
        self._mujoco.mj_fwdPosition(self.model, self.data)

    def _find_robot(self) -> None:
        robots = self.env.robots
        arms = robots[0].arms
        if len(robots) != 1 or len(arms) != 1 or not robots[0].has_gripper[arms[0]]:
            raise ValueError(
                f"expected one robot with one arm and a gripper, found {len(robots)} robots, "
                f"the first of which has arms {', '.join(arms)}"
            )
        self.arm = arms[0]
        self._gripper_part = f"{self.arm}_gripper"
        split = self._robot.composite_controller._action_split_indexes
        pose, grip = split[self.arm], split[self._gripper_part]
        if (pose[1] - pose[0], grip[1] - grip[0]) != (ARM_ACTION_WIDTH - 1, 1):
            raise ValueError(
                "expected an arm that takes a pose of 6 numbers and a gripper that takes 1, found "
                f"{pose[1] - pose[0]} and {grip[1] - grip[0]}"
            )
        # A gripper's action begins with one number, and later has one per finger.
        self._gripper_width = int(np.size(self._gripper.format_action(np.zeros(1))))
        self._posture_width = len(self._arm_controller.initial_joint)

    def _bodies_that_resets_move(self) -> np.ndarray:
        places = []
        for seed in range(2):
            self.start(np.random.default_rng(seed))
            places.append(np.concatenate([self.model.body_pos, self.model.body_quat], axis=1))
        return np.nonzero((places[0] != places[1]).any(axis=1))[0]
