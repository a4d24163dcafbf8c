"""Push-T: success, poses of recordings, drawing, a missing simulator, and the other blocks."""

import math
import pickle
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

pymunk = pytest.importorskip("pymunk")

from envs.policies import make_policy
from envs.pusht import PushTEnv
from envs.pusht_physics import PushTSimulator
from envs.pusht_shapes import SHAPES, make_block

GOAL = np.array([200.0, 200.0, 300.0, 300.0, 0.1, 0.0, 0.0])


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ([0, 0, 0, 0, 0, 0, 0], True),
        ([11, 11, 0, 12, 0, 0, 0], True),  # 19.6 px over all four coordinates
        ([12, 12, 0, 12, 0, 0, 0], False),  # 20.8 px
        ([0, 0, 0, 0, 0.34, 0, 0], True),  # pi/9 = 0.349
        ([0, 0, 0, 0, 0.36, 0, 0], False),
        ([0, 0, 0, 0, -0.3, 0, 0], True),
        ([0, 0, 0, 0, 2 * math.pi - 0.3, 0, 0], True),
        ([0, 0, 0, 0, 4 * math.pi + 0.3, 0, 0], True),
        ([0, 0, 0, 0, -3 * math.pi, 0, 0], False),  # the published test passes this one: 2 pi - |d| is negative
        ([0, 0, 0, 0, 0, 500, -500], True),  # velocity does not count
    ],
)
def test_success(change: list[float], reached: bool) -> None:
    env = PushTEnv(image_size=16)
    assert env.success(GOAL + change, GOAL) is reached
    assert env.success(GOAL, GOAL + change) is reached


def test_sim_state_from_pose() -> None:
    state = PushTEnv.sim_state_from_pose(np.array([1, 2, 3, 4, 5], dtype=np.float32))
    np.testing.assert_array_equal(state, [1, 2, 3, 4, 5, 0, 0])
    assert PushTEnv.sim_state_from_pose([1, 2, 3, 4, 5], agent_velocity=[6, 7])[6] == 7
    with pytest.raises(ValueError, match=r"pose: expected 5 numbers .*found an array of shape \(7,\)"):
        PushTEnv.sim_state_from_pose(np.zeros(7))


def test_block_moves_only_while_pushed() -> None:
    env = PushTEnv(image_size=16)
    env.reset(options={"sim_state": [300, 200, 300, 300, 0, 0, 0]})
    for _ in range(3):
        pushed = env.advance(np.array([0.0, 1.0]))
    assert pushed[3] > 320
    after = [env.advance(np.array([0.0, -1.0])) for _ in range(5)][-1]
    at_rest = env.advance(np.zeros(2))
    np.testing.assert_allclose(at_rest[2:5], after[2:5], atol=1e-9)


@pytest.mark.parametrize("variation", [{}, {"block.shape": "plus", "block.scale": 1.1, "agent.radius": 20}])
def test_pickling_in_the_middle_of_a_push_keeps_the_course(variation: dict[str, Any]) -> None:
    env = PushTEnv(image_size=16, variation=variation)
    env.reset(options={"sim_state": [280, 200, 300, 300, 0.4, 0, 0]})
    for _ in range(4):
        before = env.advance(np.array([0.1, 0.8]))
    twin = pickle.loads(pickle.dumps(env))
    for _ in range(5):
        after = env.advance(np.array([0.0, 0.3]))
        np.testing.assert_array_equal(twin.advance(np.array([0.0, 0.3])), after)
    assert np.abs(after[2:5] - before[2:5]).max() > 1


def test_goal_marker_is_the_only_green_thing() -> None:
    state = [100, 100, 400, 100, 0, 0, 0]
    plain, marked = (PushTEnv(goal_marker=marker).render_state(state).astype(int) for marker in (False, True))
    green = marked[:, :, 1] - marked[:, :, 0] > 50
    assert green.sum() > 800
    assert not (plain[:, :, 1] - plain[:, :, 0] > 50).any()
    np.testing.assert_array_equal(plain[:90], marked[:90])


def test_touching_leaves_a_red_mark() -> None:
    env = PushTEnv(image_size=512, goal_marker=False)
    reddish = [
        (pixels[:, :, 0].astype(int) - pixels[:, :, 2] > 100).sum()
        for pixels in (env.render_state([300, y, 300, 300, 0, 0, 0]) for y in (250, 286))
    ]
    assert reddish[0] == 0
    assert reddish[1] > 0


def test_states_far_off_the_table_can_be_drawn() -> None:
    env = PushTEnv(goal_marker=False)
    pixels = env.render_state([-5000, 9e5, 9e5, -9e5, 1, 0, 0])
    assert (pixels[10:-10, 10:-10] == 255).all()


@pytest.mark.parametrize("package", ["pymunk", "cv2"])
def test_a_missing_package_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"'{package}', .*not installed; run: pip install \"jepawm\[pusht\]\""):
        PushTEnv()


# -- other blocks ----------------------------------------------------------------------------------------------------

# Published: width and height [px], area [px^2], centre of gravity [px], moment of inertia [px^2].
FIGURES = {
    "T": (120, 120, 6300, (0, 45), 3000),
    "L": (80, 120, 6400, (30, 10), 16000 / 3),
    "Z": (120, 80, 6400, (20, 0), 11200 / 3),
    "square": (80, 80, 6400, (0, 0), 3200 / 3),
    "I": (40, 160, 6400, (0, 0), 6800 / 3),
    "small_T": (120, 80, 6400, (0, 40), 5600),
    "plus": (120, 120, 8000, (0, 0), 4000),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_geometry_is_the_published_one(shape: str) -> None:
    block = make_block(shape)
    width, height, area, centre, moment = FIGURES[shape]
    assert np.ptp(block.corners, axis=(0, 1)).tolist() == [width, height]
    assert sum(abs(pymunk.Poly(None, polygon).area) for polygon in block.polygons) == pytest.approx(area)
    assert block.centre_of_gravity == pytest.approx(centre)
    assert block.moment == pytest.approx(moment)
    # The simulator's own moments of the boxes, of which T and plus count the first again and again.
    boxes = [pymunk.moment_for_poly(1, polygon) for polygon in block.polygons]
    assert block.moment == pytest.approx(len(boxes) * boxes[0] if shape in ("T", "plus") else sum(boxes))
    # Boxes share edges and nothing else, so that each block is one piece without overlap.
    picture = np.zeros((400, 400), dtype=int)
    for left, top, right, bottom in block.boxes:
        picture[int(200 + top) : int(200 + bottom), int(200 + left) : int(200 + right)] += 1
    assert picture.max() == 1
    assert picture.sum() == area


@pytest.mark.parametrize("shape", SHAPES)
def test_scale_is_a_zoom_about_the_origin(shape: str) -> None:
    one, other = make_block(shape), make_block(shape, 1.2)
    np.testing.assert_allclose(other.corners, 1.2 * one.corners)
    np.testing.assert_allclose(other.centre_of_gravity, np.multiply(1.2, one.centre_of_gravity))
    assert other.moment == pytest.approx(1.44 * one.moment)
    reach = np.linalg.norm(other.corners - other.centre_of_gravity, axis=2).max()
    assert reach < other.reach_px < reach + 3


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_drawn_is_what_collides(shape: str) -> None:
    simulator = PushTSimulator(shape, 1.1)
    simulator.set_state(np.array([60.0, 60.0, 280.0, 260.0, 0.7, 0.0, 0.0]))
    block = simulator.shape
    expected = [[tuple(simulator.block.local_to_world(corner)) for corner in polygon] for polygon in block.polygons]
    np.testing.assert_allclose(block.polygons_in_world(280.0, 260.0, 0.7), expected, atol=1e-9)
    centre = simulator.block.local_to_world(simulator.block.center_of_gravity)
    np.testing.assert_allclose(block.centre_in_world(280.0, 260.0, 0.7), centre, atol=1e-9)

    variation = {"block.shape": shape, "block.scale": 1.1, "block.colour": [200, 0, 0]}
    env = PushTEnv(image_size=512, goal_marker=False)
    picture = env.render_state([60, 60, 280, 260, 0.7, 0, 0], variation).astype(int)
    reddish = picture[:, :, 0] - picture[:, :, 1] > 100
    inside = np.zeros((512, 512), dtype=bool)
    for y, x in np.argwhere(np.ones((512, 512), dtype=bool))[:: 7 * 13]:
        inside[y, x] = any(part.point_query((float(x), float(y))).distance < -4 for part in simulator.block.shapes)
    assert inside.sum() > 50
    assert reddish[inside].all()
    # All of it, and an outline of 2 px around it.
    area = sum(abs(part.area) for part in simulator.block.shapes)
    assert area < reddish.sum() < area + 2.6 * 2 * np.ptp(block.corners, axis=(0, 1)).sum() * 1.2


@pytest.mark.parametrize("shape", SHAPES)
def test_noisy_push_moves_every_block_and_loses_none(shape: str) -> None:
    env = PushTEnv(image_size=16, variation={"block.shape": shape})
    policy = make_policy("pusht_noisy_push", env)
    moved, turned = [], []
    for seed in range(12):
        states = [env.reset(seed=seed)[1]["sim_state"]]
        policy.reset(seed)
        for _ in range(100):
            states.append(env.advance(policy.act(states[-1])))
        centres = np.array([env.block.centre_in_world(*state[2:5]) for state in states])
        moved.append(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
        angles = np.unwrap([state[4] for state in states])
        turned.append(np.abs(np.diff(angles)).sum())
        assert (centres > 5).all()
        assert (centres < 506).all()
    assert min(moved) > 20
    assert np.mean(turned) > 0.3


def test_no_size_of_block_or_disc_loses_a_block() -> None:
    # The disc, that nothing stops, can press a block some way into a wall; it comes back.
    env = PushTEnv(image_size=16, vary=["block.shape", "block.scale", "agent.radius"])
    policy = make_policy("pusht_noisy_push", env)
    deepest = []
    for seed in range(60):
        state = env.reset(seed=seed)[1]["sim_state"]
        policy.reset(seed)
        for _ in range(100):
            state = env.advance(policy.act(state))
            deepest.append(np.abs(np.array(env.block.centre_in_world(*state[2:5])) - 255.5).max() - 250.5)
    assert max(deepest) < 20
    assert np.mean(np.array(deepest) > 0) < 0.01


def test_a_larger_disc_pushes_from_farther_away() -> None:
    for radius, touches in ((15, False), (22, True)):
        env = PushTEnv(image_size=512, goal_marker=False, variation={"agent.radius": radius})
        start = [300, 279, 300, 300, 0, 0, 0]  # 21 px above the bar
        picture = env.render_state(start).astype(int)
        assert bool((picture[:, :, 0] - picture[:, :, 2] > 100).any()) is touches
        before = env.reset(options={"sim_state": start})[1]["sim_state"]
        assert bool(env.advance(np.array([0.0, 0.02]))[3] > before[3] + 0.5) is touches
        blue = (picture[:, :, 2] > 200) & (picture[:, :, 0] < 100)
        assert np.flatnonzero(blue.any(axis=0)).size == 2 * radius


def test_the_goal_marker_has_the_shape_of_the_block() -> None:
    env = PushTEnv(image_size=512)
    at_the_mark = [30, 30, 256, 256, np.pi / 4, 0, 0]
    for shape in SHAPES:
        variation = {"block.shape": shape, "block.scale": 0.9, "goal_marker.colour": [255, 0, 255]}
        marked = env.render_state([30, 30, 5000, 5000, 0, 0, 0], variation).astype(int)
        pink = marked[:, :, 0] - marked[:, :, 1] > 150
        assert pink.sum() == pytest.approx(0.81 * FIGURES[shape][2], rel=0.06)
        covered = env.render_state(at_the_mark, variation).astype(int)
        assert not (covered[:, :, 0] - covered[:, :, 1] > 150).any()
    # Without a mark on the table its colour shows nowhere.
    bare = PushTEnv(image_size=64, goal_marker=False)
    np.testing.assert_array_equal(
        bare.render_state(at_the_mark, {"goal_marker.colour": [255, 0, 255]}), bare.render_state(at_the_mark)
    )


def test_noisy_push_aims_at_the_block_of_the_episode() -> None:
    env = PushTEnv(image_size=16)
    # A policy is made before the reset that decides on the block.
    informed, uninformed = make_policy("pusht_noisy_push", env), make_policy("pusht_noisy_push")
    env.reset(seed=0, options={"variation": {"block.shape": "L"}})
    # Around the L's centre of gravity all directions are equal; the T's lies elsewhere.
    state = np.array([256.0 + 30, 256.0 + 10, 256.0, 256.0, 0.0, 0.0, 0.0])
    means = []
    for policy in (informed, uninformed):
        actions = []
        for seed in range(1000):
            policy.reset(seed)
            actions.append(policy.act(state))
        means.append(np.linalg.norm(np.mean(actions, axis=0)))
    assert means[0] < 0.05
    assert means[1] > 0.08


def test_push_obj_draws_every_shape() -> None:
    env = gymnasium.make("envs:envs/PushObj-v1", image_size=32).unwrapped
    seen = [env.reset(seed=seed)[1]["variation"] for seed in range(60)]
    assert {tuple(each) for each in seen} == {("block.shape",)}
    assert {each["block.shape"] for each in seen} == set(SHAPES)
    assert env.block.shape == seen[-1]["block.shape"]
    # The starts are the published ones, whatever the block.
    np.testing.assert_array_equal(
        env.sample_start_goal(3, {"block.shape": "Z"}), PushTEnv(image_size=16).sample_start_goal(3)
    )
