"""Rope and Granular: distance, pushes, rest, goals, the camera, and random pushes."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from envs.mujoco_rendering import prepare_backend

prepare_backend()
mujoco = pytest.importorskip("mujoco")

from envs.deformable import REACH, DeformableEnv, chamfer_distance
from envs.deformable_physics import TABLE_HEIGHT, SimulationDiverged
from envs.granular import NUM_GRAINS, GranularEnv
from envs.policies import make_policy
from envs.rope import LENGTH, NUM_PARTICLES, RADIUS, SPACING, RopeEnv, shape_heading

CLASSES = {"rope": RopeEnv, "granular": GranularEnv}
FAR = np.array([2.9, 2.9, 2.9, 2.5])


@pytest.fixture(scope="module", params=sorted(CLASSES))
def env(request: pytest.FixtureRequest) -> Iterator[DeformableEnv]:
    made = CLASSES[request.param](image_size=64)
    yield made
    made.close()


@pytest.fixture(scope="module")
def rope() -> Iterator[RopeEnv]:
    made = RopeEnv(image_size=224)
    yield made
    made.close()


def straight_rope(middle: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Along x."""
    particles = np.full((NUM_PARTICLES, 3), TABLE_HEIGHT + RADIUS)
    particles[:, 0] = middle[0] + SPACING * (np.arange(NUM_PARTICLES) - (NUM_PARTICLES - 1) / 2)
    particles[:, 1] = middle[1]
    return particles.ravel()


def moved(env: DeformableEnv, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far each particle went, `[P]`."""
    return np.linalg.norm(env.particles(after) - env.particles(before), axis=1)


def test_chamfer_distance_is_what_plain_loops_compute() -> None:
    random = np.random.default_rng(0)
    points, others = random.normal(size=(7, 3)), random.normal(size=(11, 3))
    there = [min(math.dist(p, o) for o in others) for p in points]
    back = [min(math.dist(p, o) for p in points) for o in others]
    assert chamfer_distance(points, others) == pytest.approx(sum(there) / 7 + sum(back) / 11, rel=1e-12)
    assert chamfer_distance(points, others) == pytest.approx(chamfer_distance(others, points), rel=1e-12)
    assert chamfer_distance(points, points[::-1]) == 0
    assert chamfer_distance(points, points + [1e-9, 0, 0]) == pytest.approx(2e-9, rel=1e-4)


def test_success_is_a_chamfer_distance_below_the_limit(rope: RopeEnv) -> None:
    goal = straight_rope()
    assert rope.distance(straight_rope((0, 0.09)), goal) == pytest.approx(0.18)
    assert rope.success(straight_rope((0, 0.09)), goal)
    assert not rope.success(straight_rope((0, 0.11)), goal)
    assert RopeEnv(image_size=16, success_distance=0.3).success(straight_rope((0, 0.11)), goal)
    # Which end is which does not count.
    assert rope.distance(rope.particles(goal)[::-1].ravel(), goal) == 0


def test_a_sim_state_is_all_there_is(env: DeformableEnv) -> None:
    policy = make_policy("rope_random_push" if isinstance(env, RopeEnv) else "granular_random_push")
    policy.reset(3)
    states, pushes = [env.sample_start_goal(3)[0]], []
    env.reset(options={"sim_state": states[0]})
    for _ in range(3):
        pushes.append(policy.act(states[-1]))
        states.append(env.advance(pushes[-1]))
    other = type(env)(image_size=16)
    for before, push, after in zip(states[:-1], pushes, states[1:], strict=True):
        _, info = other.reset(options={"sim_state": before})
        np.testing.assert_array_equal(info["sim_state"], before)
        np.testing.assert_array_equal(other.advance(push), after)
        assert moved(env, before, after).max() > 0.1


def test_what_is_not_touched_stays(env: DeformableEnv) -> None:
    start, _ = env.sample_start_goal(1)
    env.reset(options={"sim_state": start})
    assert moved(env, start, env.advance(FAR)).max() < 1e-3
    for push in ([-1.5, 0.2, 0.5, -0.1], [0.3, 1.5, 0.1, -0.4]):
        pushed = env.advance(np.array(push))
    assert moved(env, start, pushed).max() > 0.3
    assert moved(env, pushed, env.advance(FAR)).max() < 1e-3


def test_a_push_without_a_way_is_not_made(env: DeformableEnv) -> None:
    start, _ = env.sample_start_goal(1)
    place = env.particles(start)[20, :2]
    env.reset(options={"sim_state": start})
    assert moved(env, start, env.advance(np.concatenate([place, place + 1e-4]))).max() < 1e-3
    # With a way, the pusher is lowered right there, and moves aside what is there.
    assert moved(env, start, env.advance(np.concatenate([place, place + 2e-3]))).max() > 0.05


def test_the_pusher_takes_the_rope_along(rope: RopeEnv) -> None:
    start = straight_rope()
    rope.reset(options={"sim_state": start})
    after = rope.particles(rope.advance(np.array([0.0, -0.5, 0.0, 0.8])))
    # The middle lies before the pusher (radius 0.1) at the push's end, and the ends lag behind.
    middle = after[NUM_PARTICLES // 2]
    assert middle[0] == pytest.approx(0, abs=0.1)
    assert middle[1] == pytest.approx(0.8 + 0.1 + RADIUS, abs=0.1)
    assert after[[0, -1], 1].max() < 0.5
    # What is pushed evenly on both sides stays even.
    np.testing.assert_allclose(after[:, 0], -after[::-1, 0], atol=0.1)
    np.testing.assert_allclose(after[:, 2], TABLE_HEIGHT + RADIUS, atol=0.01)


def test_a_push_past_an_end_turns_the_rope(rope: RopeEnv) -> None:
    start = straight_rope()
    rope.reset(options={"sim_state": start})
    after = rope.advance(np.array([1.1, -0.4, 1.1, 0.4]))
    assert moved(rope, start, after)[-3:].min() > 0.3
    assert moved(rope, start, after)[:10].max() < 0.02


def test_the_finger_clears_its_way_and_nothing_else() -> None:
    env = GranularEnv(image_size=16)
    start = env._random_start(np.random.RandomState(0))
    middle = env.particles(start)[:, :2].mean(axis=0)
    env.reset(options={"sim_state": start})
    after = env.advance(np.concatenate([middle - [1.9, 0], middle + [0.3, 0]]))
    before_xz, after_xz = env.particles(start)[:, :2] - middle, env.particles(after)[:, :2] - middle
    # 0.96 wide, pushed along x; grains roll back a little over its edges when it is lifted.
    in_way = (np.abs(before_xz[:, 1]) < 0.4) & (before_xz[:, 0] < 0.3)
    assert in_way.sum() > 15
    assert (after_xz[in_way, 0] > 0.3).all()
    aside = np.abs(before_xz[:, 1]) > 0.9
    assert aside.sum() > 10
    assert moved(env, start, after)[aside].max() < 0.05


def test_actions_beyond_the_bounds_are_cut_off(env: DeformableEnv) -> None:
    start, _ = env.sample_start_goal(2)
    env.reset(options={"sim_state": start})
    cut = env.advance(np.array([-REACH, 0.1, 0.2, 0.1]))
    env.reset(options={"sim_state": start})
    np.testing.assert_array_equal(env.advance(np.array([-1e5, 0.1, 0.2, 0.1])), cut)
    assert moved(env, start, cut).max() > 0.1


@pytest.mark.parametrize("kind", ["random", "shape"])
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_starts_and_goals_lie_at_rest(name: str, kind: str) -> None:
    env = CLASSES[name](image_size=16, goal=kind)
    distances = []
    for seed in range(6):
        start, goal = env.sample_start_goal(seed)
        distances.append(env.distance(start, goal))
        for state in (start, goal):
            env.reset(options={"sim_state": state})
            assert moved(env, state, env.advance(FAR)).max() < 1e-3
            assert np.abs(env.particles(state)[:, :2]).max() < REACH
            data = env._simulator.data
            env._simulator.place(env._qpos(state))
            mujoco.mj_forward(env._simulator.model, data)
            # The smallest grain is 0.1 thick, the rope too.
            assert data.contact.dist.min(initial=0) > -0.003
            assert env.particles(state)[:, 2].min() > TABLE_HEIGHT + 0.04
    assert len(set(distances)) == 6
    assert np.median(distances) > 1.5 * env.success_distance
    again = env.sample_start_goal(5)
    np.testing.assert_array_equal(again, (start, goal))


def test_a_random_goal_of_the_rope_is_its_start_elsewhere(rope: RopeEnv) -> None:
    for seed in range(20):
        start, goal = (rope.particles(state) for state in rope.sample_start_goal(seed))
        from_start, from_goal = start - start.mean(axis=0), goal - goal.mean(axis=0)
        np.testing.assert_allclose(np.linalg.norm(from_goal, axis=1), np.linalg.norm(from_start, axis=1), atol=1e-12)
        chord, turned = (piece[-1, :2] - piece[0, :2] for piece in (start, goal))
        angle = math.atan2(chord[0] * turned[1] - chord[1] * turned[0], chord @ turned)
        assert 0 <= angle <= math.pi / 2
        assert np.abs(goal.mean(axis=0) - start.mean(axis=0)).max() <= 1


def test_rope_shapes_have_their_ends_where_they_belong() -> None:
    def chord(shape: str) -> float:
        heading = shape_heading(shape)
        return float(np.hypot(np.cos(heading).sum(), np.sin(heading).sum()) * SPACING)

    assert chord("arc") == pytest.approx(LENGTH * 2 / math.pi, rel=0.03)  # half a circle
    assert chord("circle") < 0.3
    assert chord("L") == pytest.approx(LENGTH / 2 * math.sqrt(2), rel=0.1)
    assert chord("U") == pytest.approx(2 * 0.4 * LENGTH / math.pi, rel=0.05)  # its bow's diameter
    assert chord("S") == pytest.approx(2 * LENGTH / math.pi, rel=0.05)
    with pytest.raises(ValueError, match="shape: expected one of arc, circle, L, S, U; found 'O'"):
        shape_heading("O")


def project(place: np.ndarray, image_size: int) -> np.ndarray:
    """Column and row of x, z, y `[3]` as the published camera sees it: at (6, 10, 6), yaw 45, pitch -45 degrees."""
    # In its own frame (x right-handed with y up) a particle's z has the other sign.
    x, z, y = place
    seen = np.array([x, y, -z]) - [6.0, 10.0, 6.0]
    half = math.sqrt(0.5)
    forward = np.array([-half * half, -half, -half * half])
    right = np.array([half, 0.0, -half])
    up = np.cross(right, forward)
    scale = 0.5 / math.tan(math.radians(45) / 2) / (forward @ seen)
    return image_size * np.array([0.5 + scale * (right @ seen), 0.5 - scale * (up @ seen)])


@pytest.mark.parametrize("middle", [(0.0, 0.0), (1.5, -2.0), (1.5, 2.0), (-1.5, 2.0), (-1.5, -2.0)])
def test_the_camera_stands_where_it_is_published(rope: RopeEnv, middle: tuple[float, float]) -> None:
    pixels = rope.render_state(straight_rope(middle)).astype(int)
    orange = np.argwhere(pixels[:, :, 0] - pixels[:, :, 2] > 60)
    assert len(orange) > 40
    # From end to end it covers what its particles do, and its thickness of 2 px.
    expected = np.array([project(place, 224) for place in rope.particles(straight_rope(middle))])
    np.testing.assert_allclose(orange.min(axis=0)[::-1], expected.min(axis=0), atol=2)
    np.testing.assert_allclose(orange.max(axis=0)[::-1] + 1, expected.max(axis=0), atol=2)


def test_all_that_can_be_reached_is_in_the_picture() -> None:
    corners = [project(np.array([x, z, TABLE_HEIGHT]), 1) for x in (-REACH, REACH) for z in (-REACH, REACH)]
    assert np.min(corners) > 0
    assert np.max(corners) < 1


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_random_pushes_move_things_and_nothing_breaks(name: str) -> None:
    env, policy = CLASSES[name](image_size=16), make_policy(f"{name}_random_push")
    moves, lowered_clear = [], []
    for seed in range(2):
        state = env._random_start(np.random.RandomState(seed))
        env.reset(options={"sim_state": state})
        policy.reset((0, seed))
        # An env_step of grains takes ten times one of the rope.
        for _ in range({"rope": 20, "granular": 8}[name]):
            action = policy.act(state)
            assert np.abs(action).max() <= REACH
            before, state = state, env.advance(action)
            moves.append(moved(env, before, state).max())
            particles = env.particles(before)
            lowered_clear.append(np.linalg.norm(particles[:, :2] - action[:2], axis=1).min() > 0.199)
            particles = env.particles(state)
            assert np.isfinite(state).all()
            assert np.abs(particles[:, :2]).max() < 4.5
            assert particles[:, 2].min() > TABLE_HEIGHT
            assert particles[:, 2].max() < TABLE_HEIGHT + 0.5
            if name == "rope":
                pieces = np.linalg.norm(np.diff(particles, axis=0), axis=1)
                assert pieces.sum() == pytest.approx(LENGTH, rel=0.03)
                np.testing.assert_allclose(pieces, SPACING, rtol=0.06)
    assert np.mean(np.array(moves) > 0.02) > 0.9
    assert np.mean(lowered_clear) > 0.9


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_random_pushes_follow_their_seed(name: str) -> None:
    env, policy = CLASSES[name](image_size=16), make_policy(f"{name}_random_push")
    with pytest.raises(RuntimeError, match="reset"):
        policy.act(np.zeros(len(env.sim_state_names)))
    state, _ = env.sample_start_goal(0)

    def actions(seed: tuple[int, int]) -> np.ndarray:
        policy.reset(seed)
        return np.stack([policy.act(state) for _ in range(50)])

    first = actions((0, 1))
    assert first.shape == (50, 4)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(actions((0, 1)), first)
    assert not np.array_equal(actions((0, 2)), first)
    assert not np.array_equal(actions((1, 1)), first)
    way = np.linalg.norm(first[:, 2:] - first[:, :2], axis=1)
    assert way.min() > 0.5 - 1e-5
    assert way.max() < 1.9 + 1e-5


def test_what_lies_far_out_is_pushed_inwards() -> None:
    policy, state = make_policy("rope_random_push"), straight_rope((0.0, 2.2))
    policy.reset(0)
    for _ in range(50):
        action = policy.act(state)
        # Through a particle with x up to 1.25 and z = 2.2, towards the middle.
        assert (action[2:] - action[:2]) @ (action[:2] + action[2:]) < 0.75


def test_a_torn_rope_is_refused_by_the_simulation(rope: RopeEnv) -> None:
    torn = np.random.default_rng(0).normal(0, 8, len(rope.sim_state_names))
    rope.reset(options={"sim_state": torn})
    with pytest.raises(SimulationDiverged, match=r"went wrong 0\.\d+ s .*warnings are none.*below 10 units"):
        rope.advance(FAR)
    # It is fit for the next episode.
    start = straight_rope()
    rope.reset(options={"sim_state": start})
    assert moved(rope, start, rope.advance(FAR)).max() < 1e-3


def test_warnings_of_mujoco_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file.
    env = GranularEnv(image_size=16)
    state, _ = env.sample_start_goal(0)
    state[: 3 * NUM_GRAINS] = 0.0  # all inside each other, and inside the table
    env.reset(options={"sim_state": state})
    with pytest.raises(SimulationDiverged, match=r"warnings are \{'mjWARN_BADQ.*lie inside each other"):
        env.advance(FAR)


def test_quaternions_have_length_1() -> None:
    env = GranularEnv(image_size=16)
    start, goal = env.sample_start_goal(0)
    env.reset(options={"sim_state": start, "goal": goal})
    wrong = start.copy()
    wrong[3 * NUM_GRAINS + 4 * 5 : 3 * NUM_GRAINS + 4 * 7] = 0
    message = "expected a quaternion of length 1 for every grain, found length 0 for grain 5, and 1 more"
    for options in ({"sim_state": wrong}, {"goal": wrong}):
        with pytest.raises(ValueError, match=rf"options\[\"{next(iter(options))}\"\]: {message}"):
            env.reset(options=options)
    with pytest.raises(ValueError, match=f"sim_state: {message}"):
        env.render_state(wrong)
    np.testing.assert_array_equal(env._get_state(), start)


@pytest.mark.parametrize("name", sorted(CLASSES))
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"goal": "shapes"}, r"goal: expected one of random, shape; found 'shapes' \(did you mean 'shape'"),
        ({"success_distance": 0.0}, "success_distance: expected a number above 0, found 0.0"),
        ({"success_distance": math.nan}, "success_distance: expected a number above 0, found nan"),
        ({"quality": "best"}, "quality: expected one of .*found 'best'"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CLASSES[name](image_size=16, **arguments)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_missing_simulator_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"'mujoco', .*not installed; run: pip install \"jepawm\[mujoco\]\""):
        CLASSES[name]()
