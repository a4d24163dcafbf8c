"""Wall: collisions case by case, one rule for one point and many, pictures at any size, other walls and doors."""

import itertools
import math

import gymnasium
import numpy as np
import pytest

from envs.wall import START_CLEARANCE_CELLS, WallEnv
from envs.wall_drawing import WallLook, render_positions, resize_matrix
from envs.wall_physics import HIGH, LOW, WallLayout, step_position, step_positions

LAYOUT_FACTORS = ("wall.x", "wall.half_width", "door.y", "door.half_height")
# Every layout at the bounds.
CORNERS = [
    dict(zip(LAYOUT_FACTORS, values, strict=True))
    for values in itertools.product(*((WallEnv.factors[n].low, WallEnv.factors[n].high) for n in LAYOUT_FACTORS))
]


def layout_of(variation: dict[str, int]) -> WallLayout:
    return WallLayout(*(float(variation[name]) for name in LAYOUT_FACTORS))


@pytest.mark.parametrize(
    ("start", "move", "end"),
    [
        ((15.0, 15.0), (3.0, -4.0), (18.0, 11.0)),  # free
        ((25.0, 30.0), (14.0, 0.0), (39.0, 30.0)),  # through the door
        ((39.0, 30.0), (-14.0, 0.0), (25.0, 30.0)),  # and back
        ((27.0, 20.0), (6.0, 0.0), (28.5, 20.5)),  # exactly horizontal into the wall
        ((37.0, 20.0), (-6.0, 0.0), (35.5, 20.5)),
        ((15.0, 6.0), (0.0, -6.0), (15.5, 4.5)),  # exactly vertical into the border
        ((15.0, 58.0), (0.0, 6.0), (15.5, 59.5)),
        ((6.0, 15.0), (-4.0, 2.0), (4.5, 16.5)),  # 4 is crossed at half the move
        ((32.0, 33.0), (0.0, 4.0), (32.5, 33.5)),  # door edges
        ((32.0, 27.0), (0.0, -4.0), (32.5, 26.5)),
        ((30.0, 32.0), (-8.0, 4.0), (22.0, 36.0)),  # out of the doorway: y = 34 is crossed beside the wall
        ((34.0, 32.0), (-8.0, 4.0), (30.5, 33.5)),  # and here inside it
        ((5.0, 59.8), (-2.0, 0.0), (4.5, 59.7)),  # slips onto the border, is put 0.3 inside
        ((25.0, 30.0), (50.0, 0.0), (59.5, 30.5)),  # the far border stops a long move through the door
    ],
)
def test_moves(start: tuple[float, float], move: tuple[float, float], end: tuple[float, float]) -> None:
    assert step_position(*start, move[0] / 2, move[1] / 2) == pytest.approx(end)


def test_many_points_move_as_one() -> None:
    random = np.random.default_rng(0)
    positions = random.uniform(4.0, 60.0, (2000, 2))
    for _ in range(5):
        actions = random.normal(0.0, 4.0, (2000, 2)) * (random.random((2000, 2)) < 0.8)
        expected = [step_position(*p, *a) for p, a in zip(positions.tolist(), actions.tolist(), strict=True)]
        positions = step_positions(positions, actions)
        np.testing.assert_array_equal(positions, expected)
    assert np.isfinite(positions).all()


def test_no_action_leaves_the_arena() -> None:
    env = WallEnv(image_size=16)
    env.action_space.seed(0)
    for seed in range(20):
        env.reset(seed=seed)
        for _ in range(100):
            state = env.advance(env.action_space.sample())
            assert (state > 4).all()
            assert (state < 60).all()


def test_many_pictures_are_single_pictures() -> None:
    positions = np.random.default_rng(0).uniform(0.0, 64.0, (20, 2))
    for size in (32, 64, 224):
        pictures = render_positions(positions, size)
        assert pictures.shape == (20, size, size, 3)
        for picture, position in zip(pictures, positions, strict=True):
            np.testing.assert_array_equal(picture, render_positions(position[None], size)[0])


@pytest.mark.parametrize("size", [16, 50, 64, 65, 96, 224, 512])
def test_patches_equal_resizing_the_whole_picture(size: int) -> None:
    cells = np.arange(65)
    resize = resize_matrix(65, size)
    for x, y in [(20.0, 30.0), (33.3, 27.9), (4.5, 59.6), (30.0, 26.2), (0.0, 64.0), (59.49, 4.51)]:
        dot = np.exp(-((cells[:, None] - y) ** 2 + (cells[None, :] - x) ** 2) / (2 * 1.7**2))
        grey = 255.0 - np.floor(255 * (dot / dot.max()))
        walls = np.zeros((65, 65), dtype=bool)
        walls[[4, 60], :] = walls[:, [4, 60]] = True
        walls[:26, 29:36] = walls[35:, 29:36] = True
        grey[walls] = 0.0
        expected = np.rint(resize @ grey @ resize.T)
        picture = render_positions(np.array([[x, y]]), size)[0].astype(int)
        assert np.abs(picture[:, :, 1] - expected).max() <= 1
        assert (picture[:, :, 1] != expected).mean() < 1e-3
        np.testing.assert_array_equal(picture[:, :, 1], picture[:, :, 2])
        red = np.rint(resize @ np.where(walls, 0.0, 255.0) @ resize.T)
        assert np.abs(picture[:, :, 0] - red).max() <= 1


def test_success_is_closer_than_four_and_a_half_cells() -> None:
    env, goal = WallEnv(), np.array([40.0, 20.0])
    assert env.success(np.array([44.4, 20.0]), goal)
    assert not env.success(np.array([44.5, 20.0]), goal)


def test_published_goals_lie_in_the_other_room() -> None:
    env = WallEnv()
    sides = []
    for seed in range(200):
        start, goal = env.sample_start_goal(seed)
        assert (start[0] < 32) != (goal[0] < 32)
        sides.append(start[0] < 32)
    assert 0.35 < np.mean(sides) < 0.65


@pytest.mark.parametrize(
    ("start", "move", "end"),
    [
        ((21.0, 30.0), (6.0, 0.0), (22.5, 30.5)),  # the published door is closed
        ((27.0, 30.0), (-6.0, 0.0), (25.5, 30.5)),
        ((21.0, 12.0), (6.0, 0.0), (27.0, 12.0)),  # through the door
        ((21.0, 14.5), (6.0, 0.0), (22.5, 15.0)),  # beside it
        ((24.0, 13.0), (0.0, 2.0), (24.5, 13.5)),  # its edges, 10 and 14
        ((24.0, 11.0), (0.0, -2.0), (24.5, 10.5)),
        ((29.0, 30.0), (6.0, 0.0), (35.0, 30.0)),  # free where the published wall is
    ],
)
def test_moves_around_another_wall(
    start: tuple[float, float], move: tuple[float, float], end: tuple[float, float]
) -> None:
    layout = WallLayout(wall_x=24.0, wall_half_width=1.0, door_y=12.0, door_half_height=2.0)
    assert step_position(*start, move[0] / 2, move[1] / 2, layout) == pytest.approx(end)
    np.testing.assert_allclose(step_positions(np.array([start]), np.array([move]) / 2, layout), [end])


@pytest.mark.parametrize("variation", CORNERS)
def test_at_its_bounds_a_layout_has_two_rooms_and_a_door_to_walk_through(variation: dict[str, int]) -> None:
    layout, env = layout_of(variation), WallEnv(image_size=16, variation=variation)
    _, left, right, door_low, door_high = layout.lines
    assert door_low - LOW >= 1
    assert HIGH - door_high >= 1
    assert min(left - LOW, HIGH - right) > 2 * START_CLEARANCE_CELLS + 3
    for seed in range(20):
        start, goal = env.sample_start_goal(seed)
        assert (start[0] < left) != (goal[0] < left)
        assert (start[0] > right) != (goal[0] > right)
        assert env.reset(seed=seed)[1]["variation"] == {
            k: v for k, v in variation.items() if v != env.factors[k].default
        }

    # From room to room at the published pace: in front of the door, through it, to the goal.
    for seed in range(4):
        start, goal = env.sample_start_goal(seed)
        near, far = (left - 2, right + 2) if start[0] < left else (right + 2, left - 2)
        state = env.reset(options={"sim_state": start, "goal": goal})[1]["sim_state"]
        for place in ((near, layout.door_y), (far, layout.door_y), tuple(goal)):
            for _ in range(40):
                step = (np.array(place) - state) / 2
                state = env.advance(step * min(1.0, 1.8 / max(np.linalg.norm(step), 1e-9)))
            assert state == pytest.approx(place, abs=1e-6)
        assert env.success(state, goal)


def test_many_points_move_as_one_around_other_walls() -> None:
    random = np.random.default_rng(1)
    for variation in CORNERS:
        layout = layout_of(variation)
        positions = random.uniform(4.0, 60.0, (300, 2))
        for _ in range(3):
            actions = random.normal(0.0, 4.0, (300, 2))
            expected = [
                step_position(*p, *a, layout) for p, a in zip(positions.tolist(), actions.tolist(), strict=True)
            ]
            positions = step_positions(positions, actions, layout)
            np.testing.assert_array_equal(positions, expected)


def test_starts_are_uniform_over_rooms_of_different_sizes() -> None:
    env = WallEnv(image_size=16, variation={"wall.x": 20})
    x = np.array([env.reset(seed=seed)[1]["sim_state"][0] for seed in range(600)])
    in_left, in_right = x[x < 17], x[x > 23]
    assert len(in_left) + len(in_right) == 600
    # Room for starts: 7.4 to 13.6 and 26.4 to 56.6.
    assert in_left.min() >= 7.4
    assert in_left.max() <= 13.6
    assert in_right.min() >= 26.4
    assert in_right.max() <= 56.6
    assert len(in_left) / 600 == pytest.approx(6.2 / 36.4, abs=0.05)
    assert np.histogram(in_right, bins=3, range=(26.4, 56.6))[0] / len(in_right) == pytest.approx([1 / 3] * 3, abs=0.07)


@pytest.mark.parametrize("size", [50, 224])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_other_looks_equal_resizing_the_whole_picture(size: int, seed: int) -> None:
    env = WallEnv(image_size=size, vary=["all"])
    variation = env.sample_variation(seed)
    look = WallLook(
        *(tuple(variation[f"{name}.colour"]) for name in ("background", "wall", "agent")), variation["agent.size"]
    )
    cells = np.arange(65)
    walls = np.zeros((65, 65), dtype=bool)
    walls[[4, 60], :] = walls[:, [4, 60]] = True
    beside_door = np.abs(cells - variation["door.y"]) > variation["door.half_height"]
    in_wall = np.abs(cells - variation["wall.x"]) <= variation["wall.half_width"]
    walls |= beside_door[:, None] & in_wall[None, :]
    resize = resize_matrix(65, size)
    for x, y in [(20.0, 30.0), (variation["wall.x"] + 0.3, variation["door.y"] - 0.2), (4.5, 59.6), (0.0, 64.0)]:
        dot = np.exp(-((cells[:, None] - y) ** 2 + (cells[None, :] - x) ** 2) / (2 * look.dot_std_cells**2))
        dot = np.floor(255 * (dot / dot.max()))[:, :, None] / 255
        coloured = (1 - dot) * look.background + dot * np.array(look.dot)
        coloured[walls] = look.wall
        expected = np.rint(np.stack([resize @ coloured[:, :, c] @ resize.T for c in range(3)], axis=2))
        picture = env.render_state([x, y], variation).astype(int)
        assert np.abs(picture - expected).max() <= 1
        assert (picture != expected).mean() < 1e-3
        np.testing.assert_array_equal(
            picture, render_positions(np.array([[x, y]]), size, layout_of(variation), look)[0].astype(int)
        )


def test_a_walk_ends_where_its_picture_shows_the_dot() -> None:
    # Physics and pictures mean the same wall: the dot is in full sight wherever a walk leads.
    env = WallEnv(image_size=64, vary=["wall", "door"])
    random = np.random.default_rng(0)
    for seed in range(10):
        env.reset(seed=seed)
        empty = env.render_state([-30.0, -30.0]).astype(int)
        for _ in range(60):
            state = env.advance(random.normal(0.0, 1.0, 2))
            red = (empty - env.render_state(state).astype(int))[:, :, 1]
            y, x = np.unravel_index(red.argmax(), red.shape)
            assert red.max() > 100
            assert math.hypot((x + 0.5) * 65 / 64 - 0.5 - state[0], (y + 0.5) * 65 / 64 - 0.5 - state[1]) < 2.5


def test_wall_random_varies_wall_and_door() -> None:
    env = gymnasium.make("envs:envs/WallRandom-v1", image_size=32).unwrapped
    seen = [env.reset(seed=seed)[1]["variation"] for seed in range(40)]
    assert {tuple(each) for each in seen} == {("wall.x", "door.y")}
    assert len({each["wall.x"] for each in seen}) > 12
    assert len({each["door.y"] for each in seen}) > 20
    named = gymnasium.make("envs:envs/WallRandom-v1", image_size=32, vary=["door.y"]).unwrapped
    assert set(named.reset(seed=0)[1]["variation"]) == {"door.y"}
