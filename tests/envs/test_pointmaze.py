"""PointMaze: the published point mass, mazes and their samplers, pictures and what varies in them, policies."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.mujoco_rendering import prepare_backend
from envs.pointmaze_model import MAZES, Maze, parse_maze
from envs.policies import make_policy

prepare_backend()
mujoco = pytest.importorskip("mujoco")

from envs.pointmaze import PointMazeEnv

REPO = Path(__file__).resolve().parents[2]
MUJOCO = tuple(int(part) for part in mujoco.__version__.split(".")[:2])
STATE = np.array([0.9, 2.6, 0.0, 0.0])


@pytest.fixture(scope="module")
def golden() -> Mapping[str, Mapping[str, np.ndarray]]:
    """Published trajectories of the U-maze, by the MuJoCo that made them: before and after its contacts changed."""
    folder = Path(os.environ.get("JEPAWM_GOLDEN", REPO.parent / "shared" / "golden")) / "envs"
    found = {}
    for name, file in (("3.0", "pointmaze.npz"), ("4.0", "pointmaze_mujoco4.npz")):
        if not (folder / file).is_file():
            pytest.skip(f"golden vectors: no {file} under JEPAWM_GOLDEN or ../shared/golden")
        with np.load(folder / file) as vectors:
            found[name] = dict(vectors)
    return found


@pytest.fixture(scope="module")
def env() -> Iterator[PointMazeEnv]:
    """The published maze at the published size."""
    made = PointMazeEnv(quality="fast")
    made.reset(seed=0, options={"sim_state": STATE})
    yield made
    made.close()


def is_ball(pixels: np.ndarray) -> np.ndarray:
    """`[Y, X]` bool: what is green."""
    red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
    return (green > red + 25) & (green > blue + 25)


def is_wall(pixels: np.ndarray) -> np.ndarray:
    """`[Y, X]` bool: what has the colour of walls, in the light from above."""
    return pixels[..., 0].astype(int) > pixels[..., 2].astype(int) + 40


def middle_px(mask: np.ndarray) -> tuple[float, float]:
    """x, y of the middle of a mask."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


# Dynamics.


@pytest.mark.parametrize(("trace", "first_touch"), [(0, 10), (1, 5), (2, 5), (3, 2)])
def test_published_trajectories(golden: Mapping[str, Mapping[str, np.ndarray]], trace: int, first_touch: int) -> None:
    key, env = f"pointmaze.trace{trace}", PointMazeEnv(image_size=16)
    before, after = (golden[name][f"{key}.states"] for name in ("3.0", "4.0"))
    assert np.argmax(np.abs(before - after).max(axis=1) > 1e-6) == first_touch

    env.reset(options={"sim_state": before[0]})
    states = [before[0]] + [env.advance(action) for action in golden["3.0"][f"{key}.actions"]]
    # Contacts are those of the first file up to MuJoCo 3.4, and of the second from 3.5 to (at least) 4.0.
    for published, is_mine in ((before, MUJOCO < (3, 5)), (after, (3, 5) <= MUJOCO < (5, 0))):
        known = len(published) if is_mine else first_touch
        np.testing.assert_allclose(states[:known], published[:known], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(env.proprio(states[1]), np.float32(states[1]))


def test_actions_and_velocities_are_clipped(env: PointMazeEnv) -> None:
    def after(action: tuple[float, float], velocity: tuple[float, float]) -> np.ndarray:
        _, info = env.reset(options={"sim_state": [0.8, 1.8, *velocity]})
        np.testing.assert_array_equal(info["sim_state"][2:], velocity)
        return env.advance(np.array(action))

    np.testing.assert_array_equal(after((3.0, -1.5), (0.0, 0.0)), after((1.0, -1.0), (0.0, 0.0)))
    np.testing.assert_array_equal(after((0.0, 0.5), (0.2, -7.0)), after((0.0, 0.5), (0.2, -5.0)))
    assert after((1.0, 0.0), (0.0, 0.0))[2] == pytest.approx(1.185, abs=1e-3)


def test_a_sim_state_is_all_there_is(env: PointMazeEnv) -> None:
    # Held pushes press the ball into walls and corners, where a solver that begins with its last forces would differ.
    actions = np.random.default_rng(0).choice([-1.0, 1.0], (40, 2)).repeat(5, axis=0)
    env.reset(options={"sim_state": STATE})
    states = [env.advance(action) for action in actions]
    assert not all(env.maze.is_clear(x, y, 0.1) for x, y, _, _ in states)
    for begin in range(0, 190, 7):
        env.reset(options={"sim_state": states[begin]})
        again = [env.advance(action) for action in actions[begin + 1 : begin + 40]]
        np.testing.assert_array_equal(again, states[begin + 1 : begin + 40])


@pytest.mark.parametrize("maze", sorted(MAZES))
def test_the_ball_stays_in_the_maze(maze: str) -> None:
    env = PointMazeEnv(image_size=16, maze=maze)
    env._was_reset = True
    random = np.random.default_rng(0)
    for seed in range(10):
        env._set_state(env.sample_start_goal(seed)[0])
        for _ in range(10):
            push = random.choice([-1.0, 1.0], 2)
            for _ in range(20):
                x, y, _, _ = env.advance(push)
                # Walls give a little: the ball's radius is 0.1.
                assert env.maze.is_clear(x, y, 0.03)


# Mazes.


def test_a_maze_of_ones_own() -> None:
    assert parse_maze("umaze").rows == ("#####", "#GOO#", "###O#", "#OOO#", "#####")
    written = """
        #####
        #G O#
        #####
    """
    assert parse_maze(written) == parse_maze("#####/#GOO#/#####") == Maze(("#####", "#GOO#", "#####"))
    assert parse_maze(written).goal == pytest.approx((0.8, 0.8))
    assert parse_maze("###/#O#/###").goal is None
    env = PointMazeEnv(image_size=16, maze=written)
    for seed in range(20):
        for x, y, _, _ in env.sample_start_goal(seed):
            assert 0.5 <= x <= 1.1
            assert 0.5 <= y <= 3.1


@pytest.mark.parametrize("name", sorted(MAZES))
def test_layouts_are_mazes(name: str) -> None:
    assert parse_maze("/".join(MAZES[name])) == parse_maze(name)
    for row, column in parse_maze(name).free_cells():
        assert Maze.cell(*Maze.middle(row, column)) == (row, column)


@pytest.mark.parametrize(
    ("maze", "message"),
    [
        ("umace", r"maze: expected one of large, medium, umaze; found 'umace' \(did you mean 'umaze'\?\)\. A maze of"),
        ("", "maze: expected one of .*in rows, e.g. '#####/#OOG#/#####'"),
        (7, "maze: expected one of .*found 7"),
        ("####/#OO#/###", "maze: expected rows of one length; row 0 has 4 cells and row 2 has 3: '###'"),
        ("####/#Ox#/####", "maze: row 1, column 2: expected '#' .wall.*found 'x' in '#Ox#'"),
        ("####/#OOO/####", "maze: expected a border of '#' all around; it is open at row 1, column 3: '#OOO'"),
        ("##O#/#OO#/####", "border of '#' all around; it is open at row 0, column 2"),
        ("####/####", "maze: expected at least one free cell"),
        ("#####/#O#O#/#####", "from row 1, column 1 there is no way to row 1, column 3"),
        ("####/#O##/##O#/####", "from row 1, column 1 there is no way to row 2, column 2 .corners do not connect"),
    ],
)
def test_mazes_that_are_refused(maze: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PointMazeEnv(image_size=16, maze=maze)


# Starts, goals and success.


@pytest.mark.parametrize("maze", sorted(MAZES))
def test_starts_and_goals_lie_in_free_space(maze: str) -> None:
    env = PointMazeEnv(image_size=16, maze=maze)
    drawn = np.array([env.sample_start_goal(seed) for seed in range(200)])
    for x, y, _, _ in drawn.reshape(-1, 4):
        assert env.maze.is_clear(x, y, 0.2)
    assert np.abs(drawn[..., 2:]).max() <= 5.2262554
    visited = {env.maze.cell(x, y) for x, y, _, _ in drawn.reshape(-1, 4)}
    assert len(visited) == len(env.maze.free_cells())
    assert not np.array_equal(drawn[0, 0], drawn[0, 1])


@pytest.mark.parametrize("seed", [0, 1, 7, 123])
def test_published_draws(env: PointMazeEnv, seed: int) -> None:
    random = np.random.RandomState(seed)
    for state in env.sample_start_goal(seed):
        while True:
            x, y = random.uniform(0.5, 3.1), random.uniform(0.5, 3.1)
            if x <= 1.1 or x >= 2.5 or y >= 2.5:
                break
        expected = [x, y, random.uniform(-5.2262554, 5.2262554), random.uniform(-5.2262554, 5.2262554)]
        np.testing.assert_array_equal(state, expected)


def test_success_is_closer_than_half_a_metre(env: PointMazeEnv) -> None:
    goal = np.array([1.0, 2.0, 5.0, -5.0])
    assert env.success(np.array([1.3, 2.39, 0.0, 0.0]), goal)
    assert not env.success(np.array([1.3, 2.41, 5.0, -5.0]), goal)
    assert env.distance(np.array([1.3, 2.4, 5.0, -5.0]), goal) == pytest.approx(0.5)


# Pictures.


def test_x_is_to_the_right_and_y_downwards(env: PointMazeEnv) -> None:
    # A pixel of the published camera, which is 9.7348 above the floor at (3, 3) and sees 45 degrees.
    px_per_m = 224 / (2 * 9.7348 * math.tan(math.radians(22.5)))
    for x, y in ((0.8, 0.8), (2.8, 0.8), (0.8, 2.8), (2.8, 2.8)):
        ball = middle_px(is_ball(env.render_state(np.array([x, y, 0.0, 0.0]))))
        assert ball == pytest.approx((112 + px_per_m * (x - 1.8), 112 + px_per_m * (y - 1.8)), abs=1.5)
    walls = is_wall(env.render_state(STATE))
    # The U is open at the top: its middle wall hangs from the upper border.
    assert walls[[55, 80, 110], 112].all()
    assert not walls[[140, 145], 112].any()
    assert not walls[[80, 110, 140], 78].any()
    assert is_ball(env.render_state(STATE)).sum() == pytest.approx(math.pi * (0.2 * px_per_m) ** 2, rel=0.15)


def test_velocities_do_not_show(env: PointMazeEnv) -> None:
    np.testing.assert_array_equal(env.render_state(STATE), env.render_state(STATE + [0.0, 0.0, 3.0, -4.0]))


def test_faithful_pictures_differ_along_edges_only() -> None:
    envs = [PointMazeEnv(quality=quality) for quality in ("fast", "faithful")]
    fast, faithful = (env.render_state(STATE).astype(int) for env in envs)
    error = np.abs(fast - faithful).max(axis=-1)
    assert 0.002 < (error > 8).mean() < 0.03
    # Shadows would be seen on the floor, away from any edge.
    around = np.lib.stride_tricks.sliding_window_view(fast, (3, 3), axis=(0, 1))
    flat = (around.max(axis=(-1, -2)) - around.min(axis=(-1, -2))).max(axis=-1) <= 6
    assert flat.mean() > 0.8
    assert error[1:-1, 1:-1][flat].max() <= 6
    for env in envs:
        env.close()


def changed(env: PointMazeEnv, variation: Mapping[str, Any]) -> np.ndarray:
    """`[Y, X]` bool: what looks different."""
    return (env.render_state(STATE) != env.render_state(STATE, variation)).any(axis=-1)


def test_colours_change_what_they_say(env: PointMazeEnv) -> None:
    plain = env.render_state(STATE)
    ball, wall = is_ball(plain), is_wall(plain)
    by_ball = changed(env, {"agent.colour": (250, 20, 200)})
    assert by_ball[ball].all()
    assert (by_ball & ~ball).sum() < 0.2 * ball.sum()  # its dark rim
    by_wall = changed(env, {"wall.colour": (20, 200, 220)})
    assert by_wall[wall].all()
    light = changed(env, {"floor.light_colour": (200, 20, 20)})
    dark = changed(env, {"floor.dark_colour": (200, 20, 20)})
    assert not (by_wall & by_ball).any()
    for floor in (light, dark):
        assert floor.mean() > 0.15
        assert not (floor & (by_ball | by_wall)).any()
    # Squares meet where the texture is between the two.
    assert (light & dark).mean() < 0.05
    assert (light | dark | by_ball | by_wall).all()


def test_the_ball_has_a_size_and_a_shape(env: PointMazeEnv) -> None:
    area = is_ball(env.render_state(STATE)).sum()
    assert is_ball(env.render_state(STATE, {"agent.radius": 0.3})).sum() == pytest.approx(2.25 * area, rel=0.15)
    box = is_ball(env.render_state(STATE, {"agent.shape": "box"}))
    assert box.sum() == pytest.approx(4 / math.pi * area, rel=0.2)
    assert box[np.ix_(box.any(axis=1), box.any(axis=0))].mean() > 0.9
    disc = is_ball(env.render_state(STATE, {"agent.shape": "cylinder"}))
    assert disc[np.ix_(disc.any(axis=1), disc.any(axis=0))].mean() < 0.9


def test_light_dims_everything(env: PointMazeEnv) -> None:
    plain = env.render_state(STATE)
    dim = env.render_state(STATE, {"light.brightness": 0.5})
    wall = is_wall(plain)
    np.testing.assert_allclose(dim[wall], plain[wall] / 2, atol=2)
    # The published light is 1.2 times what the textured floor can show, so half of it is 0.6 of that.
    floor = ~wall & ~is_ball(plain)
    assert np.median(dim[floor] / plain[floor]) == pytest.approx(0.6, abs=0.02)
    assert (dim <= plain).all()


@pytest.mark.parametrize("maze", ["umaze", "large", "/".join(["#" * 16, *["#" + "O" * 14 + "#"] * 2, "#" * 16])])
def test_the_camera_always_sees_the_whole_maze(maze: str) -> None:
    env = PointMazeEnv(image_size=96, maze=maze, quality="fast", variation={"wall.colour": (250, 120, 20)})
    rows, columns = env.maze.shape
    start = env.sample_start_goal(0)[0]
    published = is_wall(env.render_state(start))
    extents = [np.ptp(np.nonzero(published)[axis]) + 1 for axis in (1, 0)]
    # From above, rows and columns are equally large.
    assert extents[0] / extents[1] == pytest.approx(rows / columns, rel=0.1)
    for azimuth in (45, 80, 135):
        for elevation in (-90, -72, -55):
            view = {"camera.azimuth": azimuth, "camera.elevation": elevation, "camera.distance": 0.75}
            walls = is_wall(env.render_state(start, view))
            assert walls.mean() > 0.03
            edge = np.concatenate([walls[0], walls[-1], walls[:, 0], walls[:, -1]])
            assert not edge.any()
    env.close()


def test_camera_moves(env: PointMazeEnv) -> None:
    x, y = middle_px(is_ball(env.render_state(STATE)))
    turned = middle_px(is_ball(env.render_state(STATE, {"camera.azimuth": 135.0})))
    assert math.dist(turned, (112, 112)) == pytest.approx(math.dist((x, y), (112, 112)), abs=1.5)
    assert math.dist(turned, (x, y)) > 20
    far = is_ball(env.render_state(STATE, {"camera.distance": 1.4}))
    assert math.dist(middle_px(far), (112, 112)) == pytest.approx(math.dist((x, y), (112, 112)) / 1.4, abs=1.5)


def test_a_variation_is_for_the_eye_and_leaves_no_trace(env: PointMazeEnv) -> None:
    actions = make_policy("pointmaze_random").actions(0, 30)

    def episode(variation: Mapping[str, Any] | None) -> tuple[np.ndarray, np.ndarray]:
        observation, info = env.reset(options={"sim_state": STATE, "variation": variation})
        assert info["variation"] == (variation or {})
        return np.array([env.advance(action) for action in actions]), observation["pixels"]

    varied = {
        name: factor.choices[-1] if factor.choices else np.asarray(factor.high).tolist()
        for name, factor in env.factors.items()
    }
    states, pixels = episode(None)
    varied_states, varied_pixels = episode(varied)
    np.testing.assert_array_equal(varied_states, states)
    assert (varied_pixels != pixels).any(axis=-1).mean() > 0.9
    # The running episode looks as it does, whatever else was shown in between.
    picture = env.render_state(STATE)
    np.testing.assert_array_equal(picture, varied_pixels)
    defaults = {name: factor.default for name, factor in env.factors.items()}
    np.testing.assert_array_equal(env.render_state(STATE, defaults), pixels)
    np.testing.assert_array_equal(env.render_state(STATE), varied_pixels)
    for before, again in zip((states, pixels), episode(None), strict=True):
        np.testing.assert_array_equal(again, before)


def test_what_varies_is_drawn_anew_and_can_be_seen() -> None:
    env = PointMazeEnv(image_size=32, vary=["all"])
    variations = []
    for seed in range(8):
        observation, info = env.reset(seed=seed)
        variations.append(info["variation"])
        assert set(info["variation"]) == set(env.factors)
        plain = PointMazeEnv(image_size=32)
        np.testing.assert_array_equal(plain.render_state(info["sim_state"], info["variation"]), observation["pixels"])
        plain.close()
    assert len({variation["light.brightness"] for variation in variations}) == 8
    with pytest.raises(ValueError, match=r"options\[\"variation\"\]: expected one of .*did you mean 'agent.colour'"):
        env.reset(options={"variation": {"agent.color": (0, 0, 0)}})
    env.close()


def test_goal_marker() -> None:
    def red(pixels: np.ndarray) -> np.ndarray:
        others = np.maximum(pixels[..., 1], pixels[..., 2]).astype(int)
        return (pixels[..., 0].astype(int) > others + 25) & ~is_wall(pixels[..., [1, 1, 2]]) & (others < 110)

    env = PointMazeEnv(quality="fast", goal_marker=True)
    plain = PointMazeEnv(quality="fast")
    # The maze's own goal; what an episode has for a goal is no part of a sim_state and not to be seen.
    pictures = [
        env.reset(options={"sim_state": STATE, "goal": goal})[0]["pixels"] for goal in (None, [2.8, 0.9, 0.0, 0.0])
    ]
    shown = (pictures[0] != plain.render_state(STATE)).any(axis=-1)
    assert middle_px(shown) == pytest.approx([112 + 27.78 * (0.8 - 1.8)] * 2, abs=1.5)
    assert red(pictures[0])[shown].mean() > 0.8
    np.testing.assert_array_equal(pictures[1], pictures[0])
    np.testing.assert_array_equal(env.render_state(STATE), pictures[0])
    env.close()
    plain.close()


# Policies.


def test_random_actions_give_the_published_statistics() -> None:
    env, policy = PointMazeEnv(image_size=16), make_policy("pointmaze_random")
    env._was_reset = True
    states, actions = [], []
    for episode in range(500):
        state = env.sample_start_goal(episode)[0]
        env._set_state(state)
        policy.reset((0, episode))
        for _ in range(100):
            states.append(state)
            actions.append(policy.act(state))
            state = env.advance(actions[-1])
    # Of the 2000 published episodes of 100 env_steps.
    np.testing.assert_allclose(np.std(actions, axis=0), [0.5769, 0.5776], atol=0.005)
    np.testing.assert_allclose(np.mean(states, axis=0), [1.8131, 1.9377, -0.0039, -0.0198], atol=0.1)
    np.testing.assert_allclose(np.std(states, axis=0), [1.0055, 0.9630, 1.6803, 1.9319], atol=0.05)


@pytest.mark.parametrize("name", ["pointmaze_random", "pointmaze_waypoints"])
def test_policies_depend_on_the_seed_alone(env: PointMazeEnv, name: str) -> None:
    policy = make_policy(name)

    def episode(seed: int | tuple[int, int]) -> np.ndarray:
        state = env.reset(options={"sim_state": STATE})[1]["sim_state"]
        policy.reset(seed)
        actions = []
        for _ in range(50):
            actions.append(policy.act(state))
            state = env.advance(actions[-1])
        return np.stack(actions)

    first = episode((0, 7))
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1.0
    np.testing.assert_array_equal(episode((0, 7)), first)
    assert not np.array_equal(episode((0, 8)), first)
    assert not np.array_equal(episode((1, 7)), first)
    with pytest.raises(RuntimeError, match="reset"):
        make_policy(name).act(STATE)


def test_random_actions_begin_alike() -> None:
    policy = make_policy("pointmaze_random")
    policy.reset(3)
    np.testing.assert_array_equal(policy.actions(3, 17), policy.actions(3, 200)[:17])
    np.testing.assert_array_equal([policy.act(STATE) for _ in range(150)], policy.actions(3, 150))


@pytest.mark.parametrize(("maze", "share"), [("umaze", 0.95), ("medium", 0.6), ("large", 0.45)])
def test_waypoints_reach_more_of_the_maze_than_random_actions(maze: str, share: float) -> None:
    env = PointMazeEnv(image_size=16, maze=maze)
    env._was_reset = True

    def visited(name: str) -> float:
        policy: Any = make_policy(name, env)
        cells = 0
        for seed in range(10):
            state = env.sample_start_goal(seed)[0]
            env._set_state(state)
            policy.reset(seed)
            seen = set()
            for _ in range(200):
                state = env.advance(policy.act(state))
                seen.add(env.maze.cell(*state[:2]))
            cells += len(seen)
        return cells / 10 / len(env.maze.free_cells())

    assert visited("pointmaze_waypoints") > max(share, visited("pointmaze_random"))
