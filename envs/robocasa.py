"""RoboCasa: kitchens for robosuite. Needs a package and gigabytes of assets that its users fetch themselves.

Written against RoboCasa's public interface and tested with a stand-in for a kitchen: neither the package nor its assets
were available to its authors, so no real kitchen has been run.

Reference: Nasiriany et al., RoboCasa, arXiv 2406.02523; as a planning task: Terver et al., arXiv 2512.24497.
"""

import contextlib
import importlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from envs import checks, robosuite_expert
from envs.robocasa_demonstrations import Demonstration
from envs.robosuite_adapter import SILENT, SUBTASKS, RobosuiteAdapter
from envs.robosuite_expert import ScriptedArm, Seen
from envs.robosuite_simulator import RobosuiteSimulator, import_robosuite

REACH_DISTANCE_M = 0.2
PICK_DISTANCE_M = 0.05
PLACE_DISTANCE_M = 0.15

# RoboCasa's name for the object of a kitchen task.
OBJECT = "obj"

_SOURCE = "the repository robocasa/robocasa on GitHub"
_PUBLISHED_SOURCE = "the repository Basile-Terv/robocasa on GitHub"
_ASSETS = ("textures", "fixtures", "objects/objaverse")
_STARTS_TRIED = 20
_SCRIPT_ENV_STEPS = 100


def import_robocasa() -> Any:
    """Imports RoboCasa, which registers its kitchens with robosuite.

    Raises:
        ImportError: The package or its assets are not there, or the package refuses the versions that are installed;
            the message says how to get what is missing.
    """
    import_robosuite()
    try:
        # It tells on stdout which of its relatives are not installed.
        with contextlib.redirect_stdout(io.StringIO()):
            robocasa = importlib.import_module("robocasa")
    except AssertionError as error:
        raise ImportError(f"RoboCasa is installed and refuses to be imported: {error}") from error
    except ModuleNotFoundError as error:
        if error.name != "robocasa":
            raise
        raise ImportError(
            "this environment needs the package 'robocasa', which is not installed; get it from its source: "
            f"clone {_SOURCE} and run pip install -e robocasa (the published task PnPCounterTop is in "
            f"{_PUBLISHED_SOURCE} instead), then its assets: python -m robocasa.scripts.download_kitchen_assets"
        ) from error
    assets = Path(robocasa.__path__[0]) / "models" / "assets"
    missing = [name for name in _ASSETS if not (assets / name).is_dir() or not any((assets / name).iterdir())]
    if missing:
        raise ImportError(
            f"RoboCasa is installed, its assets are not: {assets} lacks {', '.join(missing)}; run: "
            "python -m robocasa.scripts.download_kitchen_assets (about 5 GB)"
        )
    return robocasa


class RoboCasaEnv(RobosuiteAdapter):
    """A task in one kitchen. What an action, proprio and sim_state are: see `envs.robosuite_adapter.RobosuiteAdapter`.

    Layout, style and objects of the kitchen are fixed when the environment is made, since they decide on what a
    sim_state is; a reset draws where the objects are. Two environments made with equal arguments have equal kitchens.
    With `demos`, the kitchen is that of one recorded demonstration, and so are starts and goals.

    Success, by `subtask`:
        `reach`: the hand is within 20 cm of the object, as published.
        `pick`: the object is within 5 cm of where the goal has it. (The published test reads a flag of the authors'
            own fork, which no state tells.)
        `place`: the object is within 15 cm of where the goal has it, as published.
        `task`: RoboCasa's own success, evaluated in the sim_state.

    Fixtures that remember something outside of their joints (a stove that is on) forget it at a reset to a sim_state.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 256.
        render_mode: None or `"rgb_array"`.
        task: Name of a kitchen task. The published one, `"PnPCounterTop"`, is in a fork of RoboCasa only.
        robot: The published robot is `"PandaOmron"`.
        camera: The published one, `"robot0_leftview"`, is in that fork only; RoboCasa has `"robot0_agentview_left"`,
            `"robot0_agentview_right"` and `"robot0_eye_in_hand"`.
        quality: `"faithful"`, `"fast"` or `"auto"`; see `envs.mujoco_rendering`.
        subtask: See above.
        units: Of actions; `"published"`, in m and rad, is what the published DROID models give.
        kitchen: Which kitchen: seeds the draw of layout, style and objects.
        layout: Number of a RoboCasa layout, or None to draw one.
        style: Number of a RoboCasa style, or None to draw one.
        demos: HDF5 file of recorded demonstrations, or None.
        demo: Name of one of them, e.g. `"demo_0"`; None: the first.
        variation: There are no factors of variation.
        vary: As `variation`.

    Raises:
        ImportError: RoboCasa, its assets, or (with `demos`) h5py are not installed.
        ValueError: A wrong argument.
    """

    def __init__(
        self,
        image_size: int = 224,
        render_mode: str | None = None,
        task: str = "PnPCounterTop",
        robot: str = "PandaOmron",
        camera: str = "robot0_leftview",
        quality: str = "auto",
        subtask: str = "reach",
        units: str = "published",
        kitchen: int = 0,
        layout: int | None = None,
        style: int | None = None,
        demos: str | Path | None = None,
        demo: str | None = None,
        variation: Mapping[str, Any] | None = None,
        vary: Iterable[str] = (),
    ) -> None:
        self.subtask = checks.known_name("subtask", subtask, SUBTASKS)
        if subtask in ("pick", "place") and demos is None:
            raise ValueError(
                f"subtask: {subtask!r} has its goals from demonstrations; name an HDF5 file of them: demos"
            )
        import_robocasa()
        suite = import_robosuite()
        self.task = checks.known_name("task", task, suite.ALL_ENVIRONMENTS)
        self.robot = checks.known_name("robot", robot, suite.ALL_ROBOTS)
        self.kitchen, self.layout, self.style = kitchen, layout, style
        self._demo = None if demos is None else Demonstration.read(Path(demos), demo)
        of = "hand to object" if subtask == "reach" else "object to where the goal has it"
        self.distance_name = f"{of} [m]"  # type: ignore[misc]
        super().__init__(image_size, render_mode, camera, quality, units, variation, vary)

    def _make(self) -> Any:
        import_robocasa()
        suite = import_robosuite()
        env = suite.make(
            self.task,
            robots=self.robot,
            controller_configs=suite.load_composite_controller_config(robot=self.robot),
            seed=self.kitchen,
            layout_ids=self.layout,
            style_ids=self.style,
            translucent_robot=False,
            **SILENT,
        )
        if self._demo is not None:
            self._demo.build(env)
        return env

    def _new_simulator(self) -> RobosuiteSimulator:
        return _KitchenSimulator(self._make)

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws a start and a goal.

        With demonstrations: where one recorded segment of the subtask (of a `task`: the whole demonstration) begins
        and ends, as published. Without: a kitchen's start, and the hand brought above the object by a script.

        Raises:
            ValueError: The demonstration has no such segment.
            RuntimeError: The script reaches the object from none of 20 starts.
        """
        self._resolved(variation)
        random = np.random.default_rng(seed)
        with self._simulator.aside():
            if self._demo is not None:
                first, last = self._demo.draw_slice(random, self.subtask)
                return self.sim_state_from_pose(first), self.sim_state_from_pose(last)
            for _ in range(_STARTS_TRIED):
                start = self._simulator.start(random)
                goal = self._reach_from_here()
                if self.success(goal, goal) and not self.success(start, goal):
                    return start, goal
        raise RuntimeError(
            f"task {self.task}: the script reaches the object from none of {_STARTS_TRIED} starts of seed {seed}"
        )

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether sim_state `[S]` counts as having reached goal `[S]`; see the class."""
        if self.subtask == "task":
            with self._simulator.as_in(self._check_sim_state(sim_state)):
                return self._simulator.task_solved()
        within = {"reach": REACH_DISTANCE_M, "pick": PICK_DISTANCE_M, "place": PLACE_DISTANCE_M}
        return self.distance(sim_state, goal) < within[self.subtask]

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """Distance [m] of the hand from the object (for a reach), or of the object from its place in goal `[S]`."""
        target = self.hand_position(sim_state) if self.subtask == "reach" else self._object_position(goal)
        return float(np.linalg.norm(self._object_position(sim_state) - target))

    def _object_position(self, sim_state: np.ndarray) -> np.ndarray:
        return self.body_position(sim_state, self._object_body())

    def _object_body(self) -> str:
        objects = self._simulator.env.objects
        if OBJECT not in objects:
            raise ValueError(
                f"task {self.task}: expected an object called '{OBJECT}', found {', '.join(objects) or 'none'}"
            )
        return str(objects[OBJECT].root_body)

    def _reach_from_here(self) -> np.ndarray:
        simulator = self._simulator
        thing = simulator.body_position(self._object_body())
        arm = ScriptedArm(robosuite_expert.reach(thing + np.array([0.0, 0.0, robosuite_expert.HOVER_M])))
        for _ in range(_SCRIPT_ENV_STEPS):
            hand, rotation = simulator.hand()
            action = arm.act(Seen(hand, rotation, simulator.base_rotation(), thing))
            if arm.done:
                break
            simulator.advance(action)
        return simulator.get_state()

    def _sample_start(self) -> np.ndarray:
        if self._demo is not None:
            return self.sim_state_from_pose(self._demo.draw_slice(self.np_random, self.subtask)[0])
        return super()._sample_start()


class _KitchenSimulator(RobosuiteSimulator):
    """Draws the places of objects at every reset; RoboCasa does so only when it makes a new kitchen."""

    def _reset(self, seed: int) -> None:
        env = self.env
        # The samplers hold the environment's generator, so its state is set and the object is kept.
        env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        if env.placement_initializer is not None:
            env.object_placements = env.placement_initializer.sample(placed_objects=env.fxtr_placements)
        env.reset()
