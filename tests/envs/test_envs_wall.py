"""Wall: collisions case by case, one rule for one point and many, pictures at any size."""

import numpy as np
import pytest

from envs.wall import WallEnv
from envs.wall_drawing import render_positions, resize_matrix
from envs.wall_physics import step_position, step_positions


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
