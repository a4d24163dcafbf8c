"""Policies: deterministic by seed, open-loop ones drawn at once, statistics as documented."""

from dataclasses import replace

import numpy as np
import pytest

from envs.policies import POLICIES, OpenLoopPolicy, make_policy, policy_class
from envs.pusht_shapes import make_block
from envs.wall_physics import step_positions

STATE = np.array([150.0, 200.0, 300.0, 300.0, 0.3, 0.0, 0.0])
# Policies that need no simulator; those that do are tested beside their environments.
NOISY_PUSH = [
    [0.12474051862955093, 0.36863330006599426],
    [0.0726269856095314, 0.26910147070884705],
    [0.02426300197839737, 0.4064488410949707],
]
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


def test_noisy_push_draws_what_it_drew_before_it_had_a_sibling() -> None:
    # Recorded when the policy was the only one of Push-T: datasets are found again by their policy's name.
    policy = make_policy("pusht_noisy_push")
    policy.reset((0, 3))
    acted = np.stack([policy.act(STATE) for _ in range(3)])
    np.testing.assert_allclose(acted, NOISY_PUSH, rtol=0, atol=1e-6)


def test_mixed_push_mixes_speeds_noise_and_places() -> None:
    policy = make_policy("pusht_mixed_push")
    centre = np.array(make_block().centre_in_world(300.0, 300.0, 0.3))
    random = np.random.default_rng(0)
    walks = [policy._draw_walk(random, STATE) for _ in range(4000)]
    pauses = np.array([walk.max_step == 0 for walk in walks])
    # Three standard errors of a share of 4000 draws.
    assert pauses.mean() == pytest.approx(0.10, abs=0.015)
    assert {walk.env_steps_left for walk, pause in zip(walks, pauses, strict=True) if pause} == set(range(2, 8))
    moving = [walk for walk, pause in zip(walks, pauses, strict=True) if not pause]
    assert {walk.env_steps_left for walk in moving} == set(range(4, 20))
    steps = np.array([walk.max_step for walk in moving])
    assert 0.06 <= steps.min() < 0.08
    assert 0.53 < steps.max() <= 0.55
    places = np.stack([walk.place for walk in moving])
    assert places.min() >= 30
    assert places.max() <= 482
    near = np.linalg.norm(places - centre, axis=1) <= 120 + 1e-6
    # 75 of 90 around the block, and of those on the table as many as the disc's share of it.
    share_of_table = np.pi * 120**2 / 512**2
    assert near.mean() == pytest.approx((75 + 15 * share_of_table) / 90, abs=0.03)
    for noise in (0.01, 0.05, 0.1):
        assert np.mean([walk.noise_std == noise for walk in walks]) == pytest.approx(1 / 3, abs=0.025)


def test_mixed_push_rests_in_a_pause() -> None:
    policy = make_policy("pusht_mixed_push")
    policy.reset(0)
    policy._walk = replace(policy._walk, place=STATE[:2] + 40, env_steps_left=5, max_step=0.0, noise_std=0.0)
    assert not policy.act(STATE).any()
    # A place that is reached ends a walk, and no pause: the agent is at the place of its pause all along.
    policy._walk = replace(policy._walk, place=STATE[:2].copy(), env_steps_left=5)
    policy.act(STATE)
    assert policy._walk.env_steps_left == 4
