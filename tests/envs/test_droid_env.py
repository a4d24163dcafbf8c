"""Recorded clips as an environment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.droid import LARGEST_ACTION, DroidEnv

SIZE, LENGTHS = 32, (6, 4, 9)


def recording() -> dict[str, np.ndarray]:
    """Three clips; every frame is of one grey level of its own."""
    random = np.random.default_rng(0)
    total = sum(LENGTHS)
    actions = random.uniform(-0.05, 0.05, (total, 7))
    states = []
    for first, length in zip(np.cumsum([0, *LENGTHS[:-1]]), LENGTHS, strict=True):
        origin = random.uniform(-1, 1, (1, 7))
        states.append(
            origin + np.concatenate([np.zeros((1, 7)), np.cumsum(actions[first : first + length - 1], axis=0)])
        )
    grey = np.arange(total, dtype=np.uint8)[:, None, None, None] * 10
    frames = np.broadcast_to(grey, (total, SIZE, SIZE, 3)).copy()
    return {"frames": frames, "states": np.concatenate(states), "actions": actions, "lengths": np.array(LENGTHS)}


@pytest.fixture
def env() -> DroidEnv:
    return DroidEnv(recording(), image_size=SIZE, render_mode="rgb_array")


def state(clip: int, frame: int, *drift: float) -> np.ndarray:
    return np.array([clip, frame, *drift, *[0.0] * (7 - len(drift))])


def test_gymnasium_finds_nothing_wrong(env: DroidEnv) -> None:
    check_env(env, skip_render_check=True)


def test_it_is_registered_apart_from_those_that_need_no_recording(tmp_path: Path) -> None:
    assert "envs/DROID-v1" not in envs.ENTRY_POINTS
    np.savez(tmp_path / "clips.npz", **recording(), control_hz=5.0)
    made = gymnasium.make("envs:envs/DROID-v1", recording=str(tmp_path / "clips.npz"), image_size=SIZE)
    assert made.unwrapped.control_hz == 5.0
    assert made.unwrapped.num_clips == 3
    assert DroidEnv(recording(), image_size=SIZE).control_hz == 4


def test_it_shows_the_recording_whatever_is_done(env: DroidEnv) -> None:
    columns = recording()
    for action in (np.zeros(7), np.array(LARGEST_ACTION)):
        seen, _ = env.reset(options={"sim_state": state(1, 0)})
        for frame in range(4):
            np.testing.assert_array_equal(seen["pixels"], columns["frames"][6 + frame])
            np.testing.assert_array_equal(seen["proprio"], columns["states"][6 + frame].astype(np.float32))
            np.testing.assert_array_equal(env.render_state(state(1, frame)), seen["pixels"])
            seen, _, terminated, truncated, info = env.step(action)
            assert not terminated
            assert not truncated
        # Behind the last frame the picture stays.
        np.testing.assert_array_equal(seen["pixels"], columns["frames"][9])
        assert info["sim_state"][:2].tolist() == [1, 3]


def test_the_recorded_actions_lead_to_the_goal(env: DroidEnv) -> None:
    start, goal = env.sample_start_goal(4)
    assert goal[1] - start[1] == 3
    assert goal[0] == start[0]
    _, info = env.reset(options={"sim_state": start, "goal": goal})
    assert info["success"] is False
    for action in env.recorded_actions(start, 3):
        _, reward, _, _, info = env.step(action)
        np.testing.assert_array_equal(info["recorded_action"], action)
    assert info["success"] is True
    assert reward == 1.0
    np.testing.assert_allclose(info["sim_state"], goal, atol=1e-12)
    assert env.distance(info["sim_state"], goal) == pytest.approx(0, abs=1e-12)


def test_the_distance_at_the_goal_is_the_published_error(env: DroidEnv) -> None:
    start, goal = state(2, 1), state(2, 4)
    planned = np.random.default_rng(3).uniform(-0.1, 0.1, (3, 7))
    env.reset(options={"sim_state": start, "goal": goal})
    for action in planned:
        last = env.advance(action)
    recorded = env.recorded_actions(start, 3)
    expected = np.abs(planned.sum(axis=0) - recorded.sum(axis=0))
    assert env.distance(last, goal) == pytest.approx(expected[:3].sum())
    np.testing.assert_allclose(np.abs(last[2:]), expected)
    # Doing nothing leaves the hand where it was.
    env.reset(options={"sim_state": start})
    for _ in range(3):
        last = env.advance(np.zeros(7))
    moved = recording()["states"][10 + 4, :3] - recording()["states"][10 + 1, :3]
    assert env.distance(last, goal) == pytest.approx(np.abs(moved).sum())
    assert env.distance(last, goal) == pytest.approx(env.distance(start, goal))


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        (state(0, 3, 0.04), True),
        (state(0, 3, 0.06), False),
        (state(0, 3, 0.04, 0.04), False),
        (state(0, 3, 0, 0, 0, 0.5), True),
        (state(0, 2), False),
        (state(1, 3), False),
    ],
)
def test_success_is_within_five_centimetres_at_the_goals_frame(
    env: DroidEnv, reached: np.ndarray, expected: bool
) -> None:
    assert env.success(reached, state(0, 3)) is expected


def test_starts_leave_room_for_their_goals(env: DroidEnv) -> None:
    far = DroidEnv(recording(), image_size=SIZE, goal_env_steps=5)
    pairs = [far.sample_start_goal(seed) for seed in range(60)]
    assert {int(start[0]) for start, _ in pairs} == {0, 2}
    assert all(goal[1] < LENGTHS[int(goal[0])] for _, goal in pairs)
    assert {int(start[1]) for start, _ in pairs if start[0] == 2} == {0, 1, 2, 3}
    np.testing.assert_array_equal(far.sample_start_goal(9), pairs[9])


def changed(**columns: Any) -> dict[str, Any]:
    return {name: value for name, value in {**recording(), **columns}.items() if value is not None}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DroidEnv(), r'recording: expected a .npz .* found None; pass recording="PATH"'),
        (lambda: DroidEnv("/nowhere/clips.npz"), "recording: /nowhere/clips.npz cannot be read: .*No such file"),
        (lambda: DroidEnv(changed(actions=None), SIZE), "recording: lacks actions; found frames, states, lengths"),
        (lambda: DroidEnv(changed(frames=np.zeros((19, 32, 32, 3))), SIZE), r"frames: expected uint8 .* found float64"),
        (lambda: DroidEnv(recording(), 64), "image_size: the recording's frames have 32 px, found 64"),
        (lambda: DroidEnv(changed(lengths=np.array([6, 4])), SIZE), "lengths add up to 10, there are 19 frames"),
        (lambda: DroidEnv(changed(lengths=np.array([18, 1])), SIZE), r"at least 2 frames, found \[18, 1\]"),
        (lambda: DroidEnv(changed(states=np.zeros((19, 6))), SIZE), r"states: expected \[19, 7\] finite .* \[19, 6\]"),
        (lambda: DroidEnv(changed(actions=np.full((19, 7), np.nan)), SIZE), r"actions: .* with values that are not"),
        (lambda: DroidEnv(recording(), SIZE, goal_env_steps=9), "goal_env_steps: expected 1 to 8"),
        (lambda: DroidEnv(recording(), SIZE).render_state(state(3, 0)), "a clip from 0 to 2, found 3"),
        (lambda: DroidEnv(recording(), SIZE).render_state(state(1, 4)), "a frame of clip 1 from 0 to 3, found 4"),
        (lambda: DroidEnv(recording(), SIZE).reset(options={"sim_state": state(0, 0)[:3]}), "expected 9 numbers"),
    ],
)
def test_wrong_recordings_and_states_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "clips.npz"
    np.savez(path, **recording())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"recording: .*clips.npz cannot be read"):
        DroidEnv(path, SIZE)
    # Nothing is unpickled.
    np.savez(path, **changed(states=np.array([{}], dtype=object)))
    with pytest.raises(ValueError, match="cannot be read: Object arrays cannot be loaded"):
        DroidEnv(path, SIZE)
