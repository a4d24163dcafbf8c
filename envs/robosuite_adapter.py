"""The common part of robosuite and RoboCasa: actions and proprio of the arm, states, pictures."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from envs import checks
from envs.mujoco_rendering import QUALITIES, MujocoPictures
from envs.robosuite_simulator import COLLISION_GEOM_GROUP, RobosuiteSimulator
from envs.simulator_env import SimulatorEnv

# The change that an action of +-1 means in one env_step: m, rad, and the gripper's effort.
ACTION_SCALE = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0)
UNITS = ("normalised", "published")
# Subtasks; each environment defines when one is solved.
SUBTASKS = ("reach", "pick", "place", "task")

# Arguments of every robosuite environment here: no window, no cameras or observations, and no end of the episode.
SILENT: dict[str, Any] = {
    "has_renderer": False,
    "has_offscreen_renderer": False,
    "use_camera_obs": False,
    "use_object_obs": False,
    "renderer": "mujoco",
    "control_freq": 20,
    "ignore_done": True,
    # The model is made once, so its objects stay the same and a reset takes milliseconds.
    "hard_reset": False,
}


class RobosuiteAdapter(SimulatorEnv):
    """A robosuite environment with a single-armed robot, driven as the published DROID models drive one.

    An action `[7]` moves the hand relative to where it is: dx, dy, dz, then a rotation about x, y, z (as an axis times
    an angle), all in the frame of the arm's base, then the gripper (below 0 opens, above 0 closes). With
    `units="normalised"` they are -1 to 1 as robosuite has them. With `units="published"` they are metres and radians
    per env_step and are divided by (0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1), as published. For robots with more joints (a
    mobile base, a torso) those joints get zero, so an action has only the arm's numbers.

    proprio `[7]`: hand x, y, z [m, world], its rotation as Euler angles about the fixed x, y, z axes [rad], and the
    gripper's opening [m]. The published reader takes robosuite's quaternion (x, y, z, w) for one of (w, x, y, z);
    here the angles are those of the hand. A hand that points down has a first angle near pi or -pi.

    sim_state `[S]` begins with robosuite's flattened state (time, qpos, qvel), as recordings have it; the other numbers
    make a reset exact; see `envs.robosuite_simulator`.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512.
        render_mode: None or `"rgb_array"`.
        camera: Name of a camera of the model. Pictures have their first row at the top, unlike robosuite's own.
        quality: `"faithful"`, `"fast"` or `"auto"`; see `envs.mujoco_rendering`.
        units: `"normalised"` or `"published"`.
        variation: There are no factors of variation; what varies is where objects start, with the seed.
        vary: As `variation`.

    Raises:
        ImportError: A package is not installed.
        ValueError: A wrong argument, or a robot that has not exactly one arm.
    """

    control_hz: ClassVar[int] = 20
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("dx", "dy", "dz", "rotation_x", "rotation_y", "rotation_z", "gripper")
    proprio_names = ("hand_x", "hand_y", "hand_z", "hand_roll", "hand_pitch", "hand_yaw", "gripper_width")
    action_max_norm = None
    _simulator: RobosuiteSimulator

    def __init__(
        self,
        image_size: int,
        render_mode: str | None,
        camera: str,
        quality: str,
        units: str,
        variation: Mapping[str, Any] | None,
        vary: Iterable[str],
    ) -> None:
        self.units = checks.known_name("units", units, UNITS)
        self._scale = np.ones(7) if units == "normalised" else np.array(ACTION_SCALE)
        super().__init__(image_size, render_mode, action_bound=self._scale, variation=variation, vary=vary)
        scale = "5 cm and 0.5 rad" if units == "normalised" else "m and rad"
        self.action_units = f"{scale} per env_step; gripper effort, closing is positive"  # type: ignore[misc]
        self.quality = checks.known_name("quality", quality, QUALITIES)
        self.camera = camera
        self._open()
        try:
            checks.known_name("camera", camera, self._simulator.cameras())
        except ValueError:
            self.close()
            raise

    @abstractmethod
    def _make(self) -> Any:
        """Makes the robosuite environment, with `SILENT` among its arguments."""

    def _new_simulator(self) -> RobosuiteSimulator:
        return RobosuiteSimulator(self._make)

    def _new_pictures(self) -> MujocoPictures:
        return MujocoPictures(
            self._simulator.model,
            self.image_size,
            self.camera,
            self.quality,
            hidden_geom_groups=(COLLISION_GEOM_GROUP,),
        )

    def sim_state_from_pose(self, flattened: np.ndarray) -> np.ndarray:
        """Makes a sim_state `[S]` from the numbers that recordings keep: robosuite's flattened state (time, qpos,
        qvel).

        The other numbers are set as at the start of an episode: a gripper without a command, the arm's rest posture,
        and bodies without joints (a door) at their places since the last reset. A replay then begins exactly in the
        recorded pose, and may later differ from the recording by fractions of a millimetre.

        Args:
            flattened: `[1 + nq + nv]`.

        Raises:
            ValueError: Wrong shape, or numbers that are not finite.
        """
        names = self.sim_state_names[: self._simulator.flattened_width]
        return self._simulator.complete(checks.vector("flattened", flattened, names))

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns hand position, Euler angles and gripper opening: float32 `[7]`."""
        from scipy.spatial.transform import Rotation

        with self._simulator.as_in(self._check_sim_state(sim_state)):
            position, rotation = self._simulator.hand()
            width = self._simulator.gripper_width_m()
        angles = Rotation.from_matrix(rotation).as_euler("xyz")
        return np.array([*position, *angles, width], dtype=np.float32)

    def hand_position(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the place of the hand in a sim_state `[S]`: `[3]` [m]."""
        with self._simulator.as_in(self._check_sim_state(sim_state)):
            return self._simulator.hand()[0]

    def body_position(self, sim_state: np.ndarray, body: str) -> np.ndarray:
        """Returns the place of a body in a sim_state `[S]`: `[3]` [m]."""
        with self._simulator.as_in(self._check_sim_state(sim_state)):
            return self._simulator.body_position(body)

    def _advance(self, action: np.ndarray) -> None:
        self._simulator.advance(action / self._scale)
