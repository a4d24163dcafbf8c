"""Policies: deterministic by seed, open-loop ones drawn at once, statistics as documented."""

import numpy as np
import pytest

from envs.policies import POLICIES, OpenLoopPolicy, make_policy, policy_class
from envs.wall_physics import step_positions

STATE = np.array([150.0, 200.0, 300.0, 300.0, 0.3, 0.0, 0.0])
# Policies that need no simulator; those that do are tested beside their environments.
HERE = [name for name in sorted(POLICIES) if policy_class(name).env_id in ("envs/Wall-v1", "envs/PushT-v1")]
OPEN_LOOP = [name for name in HERE if issubclass(policy_class(name), OpenLoopPolicy)]


@pytest.mark.parametrize("name", HERE)
def test_seed_decides(name: str) -> None:
    def episode(seed: int | tuple[int, int]) -> np.ndarray:
        policy.reset(seed)
        return np.stack([policy.act(STATE) for _ in range(100)])

    policy = make_policy(name)
    first = episode((0, 7))
    assert first.shape == (100, 2)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(episode((0, 7)), first)
    assert not np.array_equal(episode((0, 8)), first)
    assert not np.array_equal(episode((1, 7)), first)
    with pytest.raises(RuntimeError, match="reset"):
        make_policy(name).act(STATE)


@pytest.mark.parametrize("name", OPEN_LOOP)
def test_open_loop_actions_are_what_act_hands_out(name: str) -> None:
    policy = make_policy(name)
    policy.reset(3)
    acted = np.stack([policy.act(STATE[:2]) for _ in range(200)])
    np.testing.assert_array_equal(policy.actions(3, 200), acted)
    np.testing.assert_array_equal(policy.actions(3, 17), acted[:17])
    assert policy.actions(3, 0).shape == (0, 2)


def test_wall_walk_statistics() -> None:
    actions = make_policy("wall_walk").actions(0, 20_000).astype(np.float64)
    length = np.linalg.norm(actions, axis=1)
    assert length.min() >= 0.2 - 1e-6
    assert length.max() <= 1.8 + 1e-6
    assert length.mean() == pytest.approx(1.0, abs=0.01)
    assert length.std() == pytest.approx(0.351, abs=0.01)  # 0.4, less the tails
    turn = np.diff(np.arctan2(actions[:, 1], actions[:, 0]))
    # A von Mises distribution of concentration 5 has mean cosine I1(5) / I0(5).
    assert np.cos(turn).mean() == pytest.approx(0.8934, abs=0.01)


def test_wall_mixed_walk_statistics() -> None:
    actions = make_policy("wall_mixed_walk").actions(0, 20_000).astype(np.float64)
    speed = np.linalg.norm(actions, axis=1)
    assert speed.max() <= 1.8 + 1e-6
    assert speed.mean() == pytest.approx(0.9, abs=0.05)
    assert (np.abs(np.diff(speed)) > 1e-5).mean() == pytest.approx(0.15, abs=0.01)
    assert actions.std() == pytest.approx(0.74, abs=0.03)
    turn = np.diff(np.arctan2(actions[:, 1], actions[:, 0]))
    # I1(8) / I0(8) on the 94 % without a new heading, 0 on the others.
    assert np.cos(turn).mean() == pytest.approx(0.94 * 0.9352, abs=0.015)


def test_mixed_walk_changes_rooms() -> None:
    random = np.random.default_rng(0)
    policy = make_policy("wall_mixed_walk")
    actions = np.stack([policy.actions((0, episode), 50) for episode in range(500)])
    positions = random.uniform(7.4, 25.6, (500, 2)) + [31.0, 0.0] * (random.random((500, 1)) < 0.5)
    in_left, changed = positions[:, 0] < 32, np.zeros(500, dtype=bool)
    for t in range(50):
        positions = step_positions(positions, actions[:, t])
        changed |= (positions[:, 0] < 32) != in_left
    assert 0.05 < changed.mean() < 0.25


def test_noisy_push_moves_the_block() -> None:
    pytest.importorskip("pymunk")
    from envs.pusht import PushTEnv

    env, policy = PushTEnv(image_size=16), make_policy("pusht_noisy_push")
    moved, moving, norms = [], [], []
    for seed in range(10):
        states = [env.reset(seed=seed)[1]["sim_state"]]
        policy.reset(seed)
        for _ in range(100):
            action = policy.act(states[-1])
            norms.append(np.linalg.norm(action))
            states.append(env.advance(action))
        states = np.array(states)
        moving.append((np.abs(np.diff(states[:, 2:5], axis=0)).max(axis=1) > 1e-6).mean())
        moved.append(np.linalg.norm(states[-1, 2:4] - states[0, 2:4]))
        assert (states[:, :4] > 0).all()
        assert (states[:, :4] < 512).all()
    assert min(moved) > 20
    assert np.mean(moving) > 0.4
    assert max(norms) < 0.7


def test_unknown_policy_suggests_the_closest() -> None:
    with pytest.raises(ValueError, match=r"policy: .*found 'wall_mixed_wolk' \(did you mean 'wall_mixed_walk'"):
        make_policy("wall_mixed_wolk")
