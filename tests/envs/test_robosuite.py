"""robosuite: exact resets, pictures, subtask goals; RoboCasa's code with a table in place of a kitchen."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from envs.mujoco_rendering import prepare_backend

prepare_backend()
pytest.importorskip("robosuite")

from envs.policies import make_policy
from envs.robocasa import RoboCasaEnv
from envs.robocasa_demonstrations import Demonstration
from envs.robosuite import OBJECTS, SUCCESS_DISTANCE_M, RoboSuiteEnv
from envs.robosuite_adapter import ACTION_SCALE
from envs.robosuite_expert import HOVER_M


def random_actions(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (count, 7))


@pytest.fixture(scope="module")
def lift() -> Iterator[RoboSuiteEnv]:
    made = RoboSuiteEnv(image_size=96)
    yield made
    made.close()


def test_making_one_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    RoboSuiteEnv(image_size=32).close()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert logging.getLogger("robosuite_logs").level == logging.ERROR


# One with a table, one whose reset moves a body that has no joint, one on wheels with 12 actions.
@pytest.mark.parametrize(("task", "robot"), [("Lift", "Panda"), ("Door", "Panda"), ("Lift", "PandaOmron")])
def test_a_reset_into_an_episode_goes_on_exactly_in_another_instance(task: str, robot: str) -> None:
    first, second = (RoboSuiteEnv(image_size=48, task=task, robot=robot) for _ in range(2))
    first.reset(seed=3)
    for action in random_actions(15):
        middle = first.advance(action)
    expected = [first.step(action) for action in random_actions(10, seed=1)]
    second.reset(seed=8)
    second.advance(np.ones(7))
    _, info = second.reset(options={"sim_state": middle})
    np.testing.assert_array_equal(info["sim_state"], middle)
    for action, (observation, *_, info) in zip(random_actions(10, seed=1), expected, strict=True):
        again = second.step(action)
        np.testing.assert_array_equal(again[4]["sim_state"], info["sim_state"])
        np.testing.assert_array_equal(again[0]["proprio"], observation["proprio"])
        np.testing.assert_array_equal(again[0]["pixels"], observation["pixels"])
    first.close()
    second.close()


def test_ten_seeds_give_ten_starts(lift: RoboSuiteEnv) -> None:
    starts = [lift.reset(seed=seed)[1]["sim_state"] for seed in range(10)]
    cubes = [lift.body_position(start, OBJECTS["Lift"]) for start in starts]
    assert len({tuple(cube[:2].round(5)) for cube in cubes}) == 10
    np.testing.assert_array_equal(lift.reset(seed=4)[1]["sim_state"], starts[4])


def test_a_doors_place_is_part_of_the_state() -> None:
    door = RoboSuiteEnv(image_size=32, task="Door")
    states = [door.reset(seed=seed)[1]["sim_state"] for seed in (0, 1)]
    names = [name for name in door.sim_state_names if name.startswith("placement_")]
    assert len(names) == 7
    places = [door.body_position(state, "Door_main") for state in states]
    assert np.linalg.norm(places[0] - places[1]) > 0.001
    np.testing.assert_allclose(places[0], states[0][-7:-4])
    door.close()


def test_nobody_elses_randomness_is_used(lift: RoboSuiteEnv) -> None:
    np.random.seed(0)
    expected = np.random.get_state()[1].copy()
    lift.reset(seed=1)
    lift.sample_start_goal(1)
    RoboSuiteEnv(image_size=32).close()
    np.testing.assert_array_equal(np.random.get_state()[1], expected)


def test_dynamics_are_robosuites_own(lift: RoboSuiteEnv) -> None:
    """Seeded alike and driven alike; the first physics step of robosuite's reset sees what was there before it."""
    import robosuite

    from envs.robosuite_adapter import SILENT
    from envs.robosuite_simulator import borrowed_randomness

    _, info = lift.reset(seed=5)
    with borrowed_randomness(0):
        raw = robosuite.make("Lift", robots="Panda", **SILENT)
    with borrowed_randomness(int(np.random.default_rng(5).integers(2**32))):
        raw.reset()
    width = lift._simulator.flattened_width
    np.testing.assert_array_equal(raw.sim.get_state().flatten(), info["sim_state"][:width])
    for action in random_actions(20):
        raw.step(action)
        np.testing.assert_allclose(lift.advance(action)[:width], raw.sim.get_state().flatten(), atol=1e-5)


def test_pictures_are_upright_and_show_the_table_and_no_collision_geoms(lift: RoboSuiteEnv) -> None:
    pixels = lift.reset(seed=0)[0]["pixels"].astype(int)
    assert pixels.std() > 30
    height = len(pixels)
    # The white table fills the middle of the lower half; the upper half has the grey wall, which is darker.
    assert pixels[height * 6 // 10 : height * 7 // 10, 30:66].mean() > 180
    assert pixels[: height // 10].mean() < 150
    red = (pixels[..., 0] > 1.6 * pixels[..., 1]) & (pixels[..., 0] > 1.6 * pixels[..., 2])
    assert 2 < red.sum() < 60, "the cube"
    # Collision geoms are drawn in green and blue.
    green = (pixels[..., 1] > 1.5 * pixels[..., 0]) | (pixels[..., 2] > 1.5 * pixels[..., 0])
    assert green.sum() == 0


def test_proprio_is_where_the_hand_is(lift: RoboSuiteEnv) -> None:
    observation, info = lift.reset(seed=0)
    position, rotation = lift._simulator.hand()
    x, y, z = observation["proprio"][3:6].astype(float)
    np.testing.assert_allclose(observation["proprio"][:3], position, atol=1e-6)
    # Rotations about the fixed axes x, y, z, one after another.
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    np.testing.assert_allclose(about_z @ about_y @ about_x, rotation, atol=1e-5)
    # It points down.
    np.testing.assert_allclose(rotation[:, 2], [0, 0, -1], atol=0.2)
    for told, wider in ((-1.0, True), (1.0, False)):
        before = lift.proprio(info["sim_state"])[6]
        for _ in range(10):
            info["sim_state"] = lift.advance([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, told])
        assert (lift.proprio(info["sim_state"])[6] > before + 0.01) == wider


def test_an_action_moves_the_hand_along_its_axis(lift: RoboSuiteEnv) -> None:
    for axis in range(3):
        for sign in (-1.0, 1.0):
            _, info = lift.reset(seed=0)
            before = lift.hand_position(info["sim_state"])
            action = np.zeros(7)
            action[axis] = sign
            for _ in range(5):
                state = lift.advance(action)
            moved = lift.hand_position(state) - before
            assert sign * moved[axis] > 0.03
            assert np.abs(np.delete(moved, axis)).max() < 0.02


def test_published_units_are_metres_and_radians(lift: RoboSuiteEnv) -> None:
    published = RoboSuiteEnv(image_size=32, units="published")
    np.testing.assert_allclose(published.action_space.high, ACTION_SCALE)
    start = lift.reset(seed=0)[1]["sim_state"]
    published.reset(options={"sim_state": start})
    for action in random_actions(5):
        expected = lift.advance(action)
        np.testing.assert_allclose(published.advance(action * ACTION_SCALE), expected, atol=1e-9)
    published.close()


@pytest.mark.parametrize(
    ("task", "subtask"), [("Lift", "reach"), ("Lift", "pick"), ("Lift", "place"), ("Stack", "task")]
)
def test_goals_of_subtasks(task: str, subtask: str) -> None:
    env = RoboSuiteEnv(image_size=64, task=task, subtask=subtask)
    start, goal = env.sample_start_goal(0)
    if subtask == "reach":
        # The expert drives to every goal; the way to this one is the shortest.
        np.testing.assert_array_equal(env.sample_start_goal(0)[1], goal)
    assert env.success(goal, goal)
    assert not env.success(start, goal)
    assert env.distance(start, goal) > SUCCESS_DISTANCE_M or subtask == "task"
    assert (env.render_state(start) != env.render_state(goal)).any()
    if subtask == "pick":
        lifted = env.body_position(goal, OBJECTS[task]) - env.body_position(start, OBJECTS[task])
        assert lifted[2] == pytest.approx(HOVER_M, abs=0.03)
    if subtask == "place":
        moved = env.body_position(goal, OBJECTS[task]) - env.body_position(start, OBJECTS[task])
        # It starts a centimetre above the table.
        assert abs(moved[2]) < 0.02
        assert 0.05 < np.linalg.norm(moved[:2]) < 0.25
    # The policy gets there too, from the start on.
    policy = make_policy("robosuite_script", env)
    policy.reset(seed=0)
    state = env.reset(options={"sim_state": start})[1]["sim_state"]
    actions = []
    for _ in range(12):
        actions.append(policy.act(state))
        state = env.advance(actions[-1])
    assert all(env.action_space.contains(action) for action in actions)
    policy.reset(seed=0)
    np.testing.assert_array_equal(policy.act(start), actions[0])
    env.close()


def test_the_noisy_script_is_deterministic_by_seed(lift: RoboSuiteEnv) -> None:
    state = lift.reset(seed=0)[1]["sim_state"]
    policy = make_policy("robosuite_script_noisy", lift)
    drawn = []
    for seed in (1, 1, 2):
        policy.reset((seed, 0))
        drawn.append(np.stack([policy.act(state) for _ in range(3)]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    alone = make_policy("robosuite_script")
    alone.reset(0)
    with pytest.raises(RuntimeError, match="make_policy"):
        alone.act(state)


def test_recorded_states_are_completed(lift: RoboSuiteEnv) -> None:
    state = lift.reset(seed=0)[1]["sim_state"]
    width = lift._simulator.flattened_width
    completed = lift.sim_state_from_pose(state[:width])
    np.testing.assert_array_equal(completed[:width], state[:width])
    np.testing.assert_array_equal(lift.render_state(completed), lift.render_state(state))
    with pytest.raises(ValueError, match=rf"flattened: expected {width} numbers \(time, qpos_0.*shape \(3,\)"):
        lift.sim_state_from_pose([0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "Lifd"}, "task: expected one of Door, Lift, .*did you mean 'Lift'"),
        ({"robot": "Pandas"}, "robot: .*did you mean 'Panda'"),
        ({"camera": "front"}, "camera: expected one of agentview, birdview, frontview"),
        ({"units": "metres"}, "units: expected one of normalised, published; found 'metres'"),
        ({"subtask": "lift"}, "subtask: expected one of pick, place, reach, task"),
        ({"task": "Door", "subtask": "pick"}, "subtask: task Door has 'reach' only, found 'pick'.*Lift, Stack"),
        ({"task": "TwoArmLift", "robot": "Baxter"}, "expected one robot with one arm and a gripper, found 1 robots"),
    ],
)
def test_wrong_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoboSuiteEnv(image_size=32, **kwargs)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(ImportError, match=r"needs the package 'robosuite'.*pip install \"jepawm\[robosuite\]\""):
        RoboSuiteEnv()


# RoboCasa. Neither the package nor its assets are here: a table stands in for the kitchen.


@pytest.fixture
def robocasa(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Has `import robocasa` find a package with assets; returns its folder."""
    for name in ("textures", "fixtures", "objects/objaverse"):
        folder = tmp_path / "models" / "assets" / name
        folder.mkdir(parents=True)
        (folder / "something.xml").write_text("<mujoco/>")
    fake = ModuleType("robocasa")
    fake.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "robocasa", fake)
    return tmp_path


@pytest.fixture(scope="module")
def table_kitchen() -> str:
    """Registers a task with what RoboCasa's kitchens have and robosuite's do not; returns its name."""
    from robosuite.environments.manipulation.lift import Lift

    class TableKitchen(Lift):
        """Reads the arguments of a kitchen, and has its objects and placements."""

        def __init__(
            self, *args: Any, seed: int, layout_ids: Any, style_ids: Any, translucent_robot: bool, **kwargs: Any
        ):
            self.arguments = (seed, layout_ids, style_ids, translucent_robot)
            super().__init__(*args, **kwargs)
            self.rng = np.random.default_rng(seed)

        def _load_model(self) -> None:
            super()._load_model()
            self.objects, self.fxtr_placements = {"obj": self.cube}, {}
            self.placement_initializer.sample = self._sample  # type: ignore[method-assign]
            self.object_placements = None

        def _sample(self, placed_objects: Any = None) -> dict[str, Any]:
            # As in a kitchen: the generator is the environment's, and a reset uses what was drawn before.
            if placed_objects is None and self.object_placements is not None:
                return self.object_placements
            x, y = self.rng.uniform(-0.05, 0.05, 2) if hasattr(self, "rng") else (0.0, 0.0)
            return {"obj": ((x, y, 0.83), (1.0, 0.0, 0.0, 0.0), self.cube)}

    return TableKitchen.__name__


def test_robocasa_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, robocasa: Path) -> None:
    (robocasa / "models" / "assets" / "textures" / "something.xml").unlink()
    with pytest.raises(ImportError, match=r"its assets are not: .* lacks textures; run: .*download_kitchen_assets"):
        RoboCasaEnv()
    monkeypatch.setitem(sys.modules, "robocasa", None)
    with pytest.raises(
        ImportError, match=r"'robocasa', which is not installed; .*clone the repository robocasa.*PnPCounterTop"
    ):
        RoboCasaEnv()


def test_robocasa_refusing_versions_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "robocasa.py").write_text("print('WARNING')\nassert False, 'MuJoCo must be 3.2.6'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"refuses to be imported: MuJoCo must be 3\.2\.6"):
        RoboCasaEnv()


def test_robocasa_names_wrong_arguments(robocasa: Path) -> None:
    with pytest.raises(ValueError, match=r"task: expected one of .*found 'PnPCounterTop'"):
        RoboCasaEnv()
    with pytest.raises(ValueError, match="subtask: 'place' has its goals from demonstrations; name an HDF5 file"):
        RoboCasaEnv(subtask="place")


def test_robocasa_drives_a_kitchen_with_12_actions(robocasa: Path, table_kitchen: str) -> None:
    env = RoboCasaEnv(image_size=32, task=table_kitchen, camera="agentview", kitchen=7, layout=2, style=3)
    assert env._simulator.env.arguments == (7, 2, 3, False)
    assert env._simulator.action_width == 12
    np.testing.assert_allclose(env.action_space.high, ACTION_SCALE)
    starts = [env.reset(seed=seed)[1]["sim_state"] for seed in (0, 1, 0)]
    np.testing.assert_array_equal(starts[0], starts[2])
    places = [env.body_position(start, "cube_main") for start in starts]
    assert np.linalg.norm(places[0] - places[1]) > 0.005
    # Only the arm is told to move: 5 cm up are 5 cm up, and the base stays.
    told: list[np.ndarray] = []
    step = env._simulator.env.step
    env._simulator.env.step = lambda action: (told.append(action.copy()), step(action))
    env.advance([0.025, 0.0, -0.05, 0.0, 0.0, 0.25, -1.0])
    env._simulator.env.step = step
    split = env._simulator._robot.composite_controller._action_split_indexes
    arm, gripper = slice(*split["right"]), slice(*split["right_gripper"])
    np.testing.assert_allclose(told[0][arm], [0.5, 0.0, -1.0, 0.0, 0.0, 0.5])
    np.testing.assert_allclose(told[0][gripper], [-1.0])
    assert np.abs(told[0]).sum() == pytest.approx(3.0)
    start, goal = env.sample_start_goal(0)
    assert env.success(goal, goal)
    assert env.distance(goal, goal) < env.distance(start, goal)
    env.close()


def test_robocasa_takes_goals_from_demonstrations(robocasa: Path, table_kitchen: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    source = RoboCasaEnv(image_size=32, task=table_kitchen, camera="agentview")
    source.reset(seed=3)
    width = source._simulator.flattened_width
    states = np.stack([source.advance([0.0, 0.0, 0.03, 0.0, 0.0, 0.0, 0.0])[:width] for _ in range(12)])
    segments = np.array([0] * 5 + [1] * 3 + [2] * 4)
    path = tmp_path / "demos.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("data/demo_3")
        group.attrs["model_file"] = source._simulator.env.sim.model.get_xml()
        group.attrs["ep_meta"] = json.dumps({"layout_id": 2})
        group["states"] = states
        group["meta_data_info/current_task_segment"] = segments
        file.create_group("data/demo_10")
    source.close()

    env = RoboCasaEnv(image_size=32, task=table_kitchen, camera="agentview", subtask="place", demos=path)
    assert env._simulator.env._ep_meta == {"layout_id": 2}
    start, goal = env.sample_start_goal(0)
    np.testing.assert_array_equal(start[:width], states[8])
    np.testing.assert_array_equal(goal[:width], states[11])
    np.testing.assert_array_equal(env.reset(seed=0)[1]["sim_state"][:width], states[8])
    assert env.success(goal, goal)
    env.close()

    for subtask, (first, last) in {"reach": (0, 4), "pick": (5, 7), "task": (0, 11)}.items():
        drawn = Demonstration.read(path).draw_slice(np.random.default_rng(0), subtask)
        np.testing.assert_array_equal(drawn, states[[first, last]])
    with pytest.raises(ValueError, match="demo: expected one of demo_10, demo_3; found 'demo_4'"):
        Demonstration.read(path, "demo_4")
    with pytest.raises(ValueError, match="demo_10 lacks attribute model_file, attribute ep_meta, states"):
        Demonstration.read(path, "demo_10")
    with pytest.raises(ValueError, match="demos: expected an HDF5 file, found no file at"):
        Demonstration.read(tmp_path / "none.hdf5")
    with pytest.raises(ValueError, match="has no segment of subtask 'place'"):
        Demonstration("", {}, states, segments[:8], "here").draw_slice(np.random.default_rng(0), "place")
