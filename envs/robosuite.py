"""robosuite: an arm at a table, and goals to reach, pick and place.

Reference: Zhu et al., robosuite, arXiv 2009.12293; the subtasks follow Terver et al., arXiv 2512.24497.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from envs import checks, robosuite_expert
from envs.robosuite_adapter import SILENT, SUBTASKS, RobosuiteAdapter
from envs.robosuite_expert import Phase, ScriptedArm, Seen
from envs.robosuite_simulator import import_robosuite

SUCCESS_DISTANCE_M = 0.05
# Distance of a reach goal from the hand, and its lowest height.
_REACH_M = (0.1, 0.25)
_REACH_ABOVE_TABLE_M = 0.05
# Distance of the object from its start in a place goal.
_PLACE_M = (0.1, 0.2)
_STARTS_TRIED = 20
_SCRIPT_ENV_STEPS = 400

# The object of each task; the script picks it.
OBJECTS: dict[str, str] = {
    "Lift": "cube_main",
    "Stack": "cubeA_main",
    "PickPlaceCan": "Can_main",
}


class RoboSuiteEnv(RobosuiteAdapter):
    """A robosuite task. `envs.robosuite_adapter.RobosuiteAdapter` explains action, proprio and sim_state.

    Goals and success depend on `subtask`:
        `reach`: an arm pose, with the hand 10 to 25 cm from where it starts. Solved within 5 cm of the goal's hand.
        `pick`: the object is held 10 cm above where it lay. Solved within 5 cm of the goal's object.
        `place`: the object lies 10 to 20 cm from where it lay. Solved within 5 cm of the goal's object.
        `task`: robosuite's own success, evaluated in the sim_state; the goal is the picture of one solution.
    The published kitchens count 20 cm for a reach, from hand to object, and 15 cm for a place; here, where a table is
    a metre wide, that would count starts as solved.

    A script that knows positions (`envs.robosuite_expert`) reaches the goals: a reach in every task, the other subtasks
    for the tasks in `OBJECTS`. Dynamics are robosuite's, with one exception for robots on wheels: an action is relative
    to the present frame of the base, and not to that of 2 ms ago, so that equal states have equal futures.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512.
        render_mode: None or `"rgb_array"`.
        task: Name of a robosuite environment with one arm: `"Lift"`, `"Stack"`, `"PickPlaceCan"`, `"Door"`, ...
        robot: Name of a robosuite robot with one arm and a gripper, e.g. `"Panda"` or `"PandaOmron"`.
        camera: `"frontview"`, `"agentview"`, `"sideview"`, `"birdview"`, `"robot0_eye_in_hand"`, ...
        quality: `"faithful"`, `"fast"` or `"auto"`; see `envs.mujoco_rendering`.
        subtask: See above.
        units: Units of actions: `"normalised"` or `"published"`.
        variation: There are no factors of variation; what varies is where objects start, with the seed.
        vary: As `variation`.

    Raises:
        ImportError: robosuite is not installed.
        ValueError: A wrong argument, or a subtask that the task has no object for.
    """

    def __init__(
        self,
        image_size: int = 224,
        render_mode: str | None = None,
        task: str = "Lift",
        robot: str = "Panda",
        camera: str = "frontview",
        quality: str = "auto",
        subtask: str = "reach",
        units: str = "normalised",
        variation: Mapping[str, Any] | None = None,
        vary: Iterable[str] = (),
    ) -> None:
        self.subtask = checks.known_name("subtask", subtask, SUBTASKS)
        suite = import_robosuite()
        self.task = checks.known_name("task", task, suite.ALL_ENVIRONMENTS)
        self.robot = checks.known_name("robot", robot, suite.ALL_ROBOTS)
        if subtask != "reach" and task not in OBJECTS:
            raise ValueError(
                f"subtask: task {task} has 'reach' only, found {subtask!r}; the others need an object that the script "
                f"can pick, which {', '.join(OBJECTS)} have"
            )
        of = "hand" if subtask == "reach" else "object"
        self.distance_name = f"{of} to where the goal has it [m]"  # type: ignore[misc]
        super().__init__(image_size, render_mode, camera, quality, units, variation, vary)

    def _make(self) -> Any:
        suite = import_robosuite()
        return suite.make(self.task, robots=self.robot, **SILENT)

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws a start as robosuite's reset does, and lets the script reach a goal.

        The few starts from which the script fails are drawn again.

        Raises:
            RuntimeError: The script fails from all of 20 starts.
        """
        self._resolved(variation)
        random = np.random.default_rng(seed)
        simulator = self._simulator
        with simulator.aside():
            for _ in range(_STARTS_TRIED):
                start = simulator.start(random)
                phases, wanted = self._script(random)
                goal = self._follow(phases)
                if self._got_there(goal, wanted) and not self.success(start, goal):
                    return start, goal
        raise RuntimeError(
            f"task {self.task}, robot {self.robot}: the script brings about a {self.subtask} from none of "
            f"{_STARTS_TRIED} starts of seed {seed}"
        )

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether sim_state `[S]` counts as having reached goal `[S]`; see the class."""
        if self.subtask == "task":
            with self._simulator.as_in(self._check_sim_state(sim_state)):
                return self._simulator.task_solved()
        return self.distance(sim_state, goal) < SUCCESS_DISTANCE_M

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """Distance of the hand (for a reach) or of the object (otherwise) from its place in goal `[S]` [m]."""
        return float(np.linalg.norm(self._place(sim_state) - self._place(goal)))

    def see(self, sim_state: np.ndarray) -> Seen:
        """The part of a sim_state `[S]` that the script uses."""
        with self._simulator.as_in(self._check_sim_state(sim_state)):
            return self._see()

    def draw_script(self, random: np.random.Generator, sim_state: np.ndarray) -> list[Phase]:
        """Draws a script for the subtask that starts in a sim_state `[S]`."""
        with self._simulator.as_in(self._check_sim_state(sim_state)):
            return self._script(random)[0]

    def _place(self, sim_state: np.ndarray) -> np.ndarray:
        if self.subtask == "reach":
            return self.hand_position(sim_state)
        return self.body_position(sim_state, OBJECTS[self.task])

    def _see(self) -> Seen:
        hand, rotation = self._simulator.hand()
        thing = self._simulator.body_position(OBJECTS[self.task]) if self.task in OBJECTS else hand
        return Seen(hand, rotation, self._simulator.base_rotation(), thing)

    def _script(self, random: np.random.Generator) -> tuple[list[Phase], np.ndarray | None]:
        """A script that starts in the present state, and the place where hand or object should end, if any."""
        seen = self._see()
        if self.subtask == "reach":
            # Not below the hand's lowest height, because there is a table.
            lowest = min(seen.thing[2] + _REACH_ABOVE_TABLE_M, seen.hand[2])
            target = _draw_place(random, seen.hand, _REACH_M, lowest)
            return robosuite_expert.reach(target), target
        if self.subtask == "pick" or (self.subtask, self.task) == ("task", "Lift"):
            return robosuite_expert.pick(), seen.thing + np.array([0.0, 0.0, robosuite_expert.HOVER_M])
        if self.subtask == "place":
            target = _draw_place(random, seen.thing, _PLACE_M, None)
            return robosuite_expert.place(target), target
        target = self._task_target(seen)
        return robosuite_expert.place(target), None

    def _task_target(self, seen: Seen) -> np.ndarray:
        """The place where robosuite's own task counts the object as solved."""
        if self.task == "Stack":
            other = self._simulator.body_position("cubeB_main")
            # Both lie on the table: one is a cube's height above the other, give or take their sizes.
            return np.array([other[0], other[1], seen.thing[2] + 0.045])
        suite_env = self._simulator.env
        target = np.array(suite_env.target_bin_placements[suite_env.object_id])
        return np.array([target[0], target[1], seen.thing[2] + 0.05])

    def _follow(self, phases: list[Phase]) -> np.ndarray:
        simulator, arm = self._simulator, ScriptedArm(phases)
        for _ in range(_SCRIPT_ENV_STEPS):
            action = arm.act(self._see())
            if arm.done:
                break
            simulator.advance(action)
        return simulator.get_state()

    def _got_there(self, goal: np.ndarray, wanted: np.ndarray | None) -> bool:
        if self.subtask == "task":
            return self._simulator.task_solved()
        return wanted is not None and bool(np.linalg.norm(self._place(goal) - wanted) < SUCCESS_DISTANCE_M)


def _draw_place(
    random: np.random.Generator, around: np.ndarray, distance_m: tuple[float, float], lowest: float | None
) -> np.ndarray:
    """A place `[3]` in a shell around another: not below `lowest`, or at the same height where that is None."""
    while True:
        direction = random.normal(size=3)
        if lowest is None:
            direction[2] = 0.0
        place = around + direction / np.linalg.norm(direction) * random.uniform(*distance_m)
        if lowest is None or place[2] >= lowest:
            return place
