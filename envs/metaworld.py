"""Metaworld: fifty tabletop tasks of one arm with a gripper.

Reference: Yu et al., Meta-World, arXiv 1910.10897; as an offline planning task: Terver et al., arXiv 2512.24497.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from envs import checks
from envs.metaworld_simulator import CAMERA, ExpertActions, MetaworldSimulator, import_metaworld, task_name
from envs.mujoco_rendering import QUALITIES, MujocoPictures
from envs.simulator_env import SimulatorEnv

# Length of a published episode, of an expert's as of a planner's.
EPISODE_ENV_STEPS = 100
# Metaworld's own limit; slow experts need more than 100.
_PATIENCE_ENV_STEPS = 500
_STARTS_TRIED = 20

# Their `obj_to_target` is always 0, or (lever-pull) the hand's place at the lever.
_TELL_NO_DISTANCE = ("assembly-v3", "box-close-v3", "disassemble-v3", "door-open-v3", "hammer-v3", "lever-pull-v3")
# Places of the two objects in an observation; zeros where there is one only.
_OBJECTS = [4, 5, 6, 11, 12, 13]

PAPER_TASKS: tuple[str, ...] = (
    "assembly-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-close-v3",
    "faucet-open-v3",
    "hammer-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-back-side-v3",
    "plate-slide-back-v3",
    "plate-slide-side-v3",
    "plate-slide-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "soccer-v3",
    "stick-pull-v3",
    "stick-push-v3",
    "sweep-into-v3",
    "window-close-v3",
)
"""The 42 tasks that the published models were trained on (arXiv 2512.24497)."""


class MetaworldEnv(SimulatorEnv):
    """One of Metaworld's tasks. Its dynamics, starts, experts and success are Metaworld's own, to the bit.

    An action `[4]` moves the point that draws the hand by up to 1 cm along x, y, z (+-1), and opens (-1) or closes
    (+1) the gripper; Metaworld clips it. proprio `[4]`: hand x, y, z [m], gripper opening (0 to 1).

    sim_state `[S]`, 77 to 102 numbers, as the task has objects: first Metaworld's observation `[39]` (what its experts
    read), then what else decides the future; see `envs.metaworld_simulator`. The last 3 or 6 are the placement:
    where objects start and what the target is. Reset to a sim_state, an episode goes on exactly as it would have:
    the contact solver's first guess is part of the state. A placement is drawn anew by every reset without a
    sim_state. Of an inconsistent sim_state, whose observation is not that of its qpos, the observation comes back
    as it was given until the first env_step.

    Success is Metaworld's own criterion, evaluated in the sim_state. It uses the target in that sim_state's placement,
    and not the goal. The goal is the picture of one solution: start and goal of `sample_start_goal` share a placement,
    as do all frames of one recorded episode.

    Pictures are those of the published data: camera `corner2` moved to (0.75, 0.075, 0.7) m. It hangs upside down,
    and the published systems mirror its pictures top to bottom. So the arm stands upright and left and right are
    exchanged; a model that was trained on the published data needs this.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 224.
        render_mode: None or `"rgb_array"`.
        task: One of Metaworld's 50, e.g. `"reach-v3"` or `"reach"`; `PAPER_TASKS` are the 42 published ones.
        quality: `"faithful"` (shadows and antialiasing, as published), `"fast"` (without them, ten times as fast where
            no GPU draws), or `"auto"`: faithful on a GPU, else fast.
        variation: There are no factors of variation; what varies is the placement, with the seed.
        vary: As `variation`.

    Raises:
        ImportError: Metaworld is not installed.
        ValueError: No such task or quality.
    """

    # 5 physics steps of 2.5 ms.
    control_hz: ClassVar[int] = 80
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("hand_dx", "hand_dy", "hand_dz", "gripper")
    proprio_names = ("hand_x", "hand_y", "hand_z", "gripper")
    action_max_norm = None
    _simulator: MetaworldSimulator
    action_units = "1 cm of the hand's target; gripper effort, closing is positive"

    def __init__(
        self,
        image_size: int = 224,
        render_mode: str | None = None,
        task: str = "reach-v3",
        quality: str = "auto",
        variation: Mapping[str, Any] | None = None,
        vary: Iterable[str] = (),
    ) -> None:
        super().__init__(image_size, render_mode, action_bound=1.0, variation=variation, vary=vary)
        self.quality = checks.known_name("quality", quality, QUALITIES)
        self.task = task_name(task)
        of = "objects to where the goal has them" if self.task in _TELL_NO_DISTANCE else "object or hand to the target"
        self.distance_name = f"{of} [m]"  # type: ignore[misc]
        self._open()

    def _new_simulator(self) -> MetaworldSimulator:
        import_metaworld()
        return MetaworldSimulator(self.task)

    def _new_pictures(self) -> MujocoPictures:
        return MujocoPictures(self._simulator.model, self.image_size, CAMERA, self.quality, bottom_up=True)

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws the start that Metaworld's `seed(seed)` and `reset` give, and lets the task's expert reach a goal.

        As published, the goal is the sim_state of the expert after 100 env_steps. If the task is not solved there, the
        goal is the middle one of the earlier sim_states in which it was solved, or the first later one. The few starts
        from which the expert does not solve the task in 500 env_steps are drawn again.

        Raises:
            RuntimeError: The expert solves the task from none of 20 starts.
        """
        self._resolved(variation)
        random = np.random.default_rng(seed)
        simulator = self._simulator
        with simulator.aside():
            for _ in range(_STARTS_TRIED):
                start = simulator.start(random)
                goal = self._expert_goal(start)
                if goal is not None:
                    return start, goal
        raise RuntimeError(f"task {self.task}: the expert solves it from none of {_STARTS_TRIED} starts of seed {seed}")

    def _expert_goal(self, start: np.ndarray) -> np.ndarray | None:
        simulator, act = self._simulator, ExpertActions(self.task)
        sim_state, solved = start, []
        for env_step in range(1, _PATIENCE_ENV_STEPS + 1):
            simulator.advance(act(sim_state))
            sim_state = simulator.get_state()
            if simulator.evaluate()[0]:
                solved.append(sim_state)
            if solved and env_step >= EPISODE_ENV_STEPS:
                return sim_state if solved[-1] is sim_state else solved[len(solved) // 2]
        return None

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether Metaworld counts a sim_state `[S]` as solved; the class says how the goal matters."""
        with self._simulator.as_in(self._check_sim_state(sim_state)):
            return self._simulator.evaluate()[0]

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """Distance of a sim_state `[S]` from a solution [m]: Metaworld's `obj_to_target`, from hand or object to the
        target. Six tasks have no such distance; there it is the distance of both objects in the observation from their
        places in goal `[S]`.
        """
        if self.task in _TELL_NO_DISTANCE:
            sim_state, goal = self._check_sim_state(sim_state), self._check_sim_state(goal)
            return float(np.linalg.norm(sim_state[_OBJECTS] - goal[_OBJECTS]))
        with self._simulator.as_in(self._check_sim_state(sim_state)):
            return self._simulator.evaluate()[1]

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the place of the hand and the opening of the gripper: float32 `[4]`."""
        return np.asarray(sim_state, dtype=np.float32)[:4]
