"""Any Gymnasium environment in collect and evaluate: toys, Gymnasium's classics, MuJoCo."""

from pathlib import Path

import numpy as np
import pytest
from adapting import config, pixels_of

from jepawm.config import EnvConfig
from jepawm.data import check_dataset
from jepawm.rollout import CollectPlan, EnvHost, Task
from jepawm.rollout.make import make_env

FRAMESKIP = 5


def test_a_host_plays_tasks_of_anyones_environment() -> None:
    host = EnvHost(config("Slider"))
    tasks = host.sample_tasks([0, 1], [7, 8])
    goals = host.render([task.goal for task in tasks])
    observed = host.begin(tasks)
    assert not np.array_equal(goals[0], observed[0].pixels)
    # What led to a goal leads to it in an evaluation too.
    actions = []
    for task in tasks:
        walk = host._bare.random_walk(task.seed)
        actions.append([walk.act() for _ in range(25)])
    chunks = np.array(actions).reshape(2, 5, FRAMESKIP, 1)
    done = host.execute([0, 1], chunks)
    assert done[0].pixels.shape == (5, 32, 32, 3)
    at_25 = host._bare
    expected = [at_25.distance(state, tasks[0].goal) for state in done[0].sim_states]
    assert min(expected) < expected[0]
    short = EnvHost(config("Slider", "goal_env_steps=[10, 10]"))
    task = short.sample_tasks([0], [7])[0]
    short.begin([task])
    (done_0,) = short.execute([0], chunks[:1, :2])
    assert not done_0.solved[0]
    assert done_0.solved[-1]
    np.testing.assert_array_equal(done_0.pixels[-1], short.render([task.goal])[0])


def test_states_collected_on_walks_serve_as_goals() -> None:
    host = EnvHost(config("Slider", "push=0.004"))
    (walked,) = host.collect([0], CollectPlan("auto", 3, 30, "raw"))
    assert walked.info["policy"] == "random_walk"
    task = Task(5, 1, walked.sim_state[4], walked.sim_state[20])
    np.testing.assert_array_equal(host.render([task.goal])[0], pixels_of(walked)[20])
    host.begin([task])
    (done,) = host.execute([5], walked.actions[None, 4:19].reshape(1, 3, FRAMESKIP, 1))
    np.testing.assert_array_equal(done.sim_states[-1], walked.sim_state[19])
    (uniform,) = host.collect([0], CollectPlan("uniform", 3, 30, "raw"))
    assert uniform.sim_state[0, -1] == 0
    assert (uniform.sim_state[1:, -2:] == -1).all()


def classic(env_id: str) -> None:
    pytest.importorskip("pygame")
    host = EnvHost(EnvConfig(id=env_id, image_size=32))
    told = host.describe()
    tasks = host.sample_tasks([0, 1, 2], [1, 100, 199])
    goals = host.render([task.goal for task in tasks])
    assert goals.std(axis=(1, 2, 3)).min() > 3
    np.testing.assert_array_equal(host.begin(tasks)[1].sim_state, tasks[1].start)
    done = host.execute([0, 1, 2], np.full((3, 12, FRAMESKIP, told.action.dim), 0.3, np.float32))
    assert all(np.isfinite(each.sim_states).all() for each in done)
    host.finish()
    episodes = host.collect([0, 1], CollectPlan("auto", 0, 40, "raw"))
    for episode in episodes:
        assert pixels_of(episode)[0].std() > 3
        last = episode.sim_state[-2]
        np.testing.assert_array_equal(host.render([last])[0], pixels_of(episode)[-2])
    host.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "Acrobot-v1"])
def test_gymnasiums_classics(env_id: str) -> None:
    classic(env_id)


def test_time_limits_are_not_ours() -> None:
    pytest.importorskip("pygame")
    env = make_env(EnvConfig(id="MountainCarContinuous-v0", image_size=32))
    env.reset(seed=0)
    still = np.zeros(1, np.float32)
    for _ in range(1100):
        env.advance(still)
    assert not env._world.is_over


@pytest.mark.parametrize("env_id", ["Reacher-v5", "InvertedPendulum-v5"])
def test_mujoco_environments_are_set_to_their_states(env_id: str) -> None:
    pytest.importorskip("mujoco")
    host = EnvHost(EnvConfig(id=env_id, image_size=32))
    env = host._bare
    assert env.can_be_set
    (episode,) = host.collect([0], CollectPlan("uniform", 0, 6, "raw"))
    pixels = pixels_of(episode)
    np.testing.assert_array_equal(host.render(list(episode.sim_state)), pixels)
    # Any state of an episode can be a start; two episodes from it are equal, and go on as the recorded one did.
    runs = []
    for _ in range(2):
        (seen,) = host.begin([Task(0, 9, episode.sim_state[2], episode.sim_state[5])])
        # The state itself to the bit; what is observed of it lies a substep behind in an episode, as Gymnasium has it.
        pose = slice(0, env._numbers.start)
        np.testing.assert_array_equal(seen.sim_state[pose], episode.sim_state[2, pose])
        np.testing.assert_allclose(seen.sim_state, episode.sim_state[2], atol=0.05)
        (done,) = host.execute([0], episode.actions[None, 2:][None])
        runs.append(done.sim_states)
        host.finish()
        host.collect([1], CollectPlan("uniform", 0, 3, "raw"))
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_allclose(runs[0], episode.sim_state[3:], rtol=1e-6, atol=1e-8)
    host.close()


def test_velocities_do_not_count_where_they_can_be_told_apart() -> None:
    pytest.importorskip("mujoco")
    env = make_env(EnvConfig(id="InvertedPendulum-v5", image_size=32))
    # Observed are cart, angle, and their velocities.
    assert env._compared.tolist() == [0, 1]
    # Reacher: cosines, sines, target, velocities, finger to target.
    assert make_env(EnvConfig(id="Reacher-v5", image_size=32))._compared.tolist() == [0, 1, 2, 3, 4, 5, 8, 9]


@pytest.mark.parametrize("goal_source", ["sampler", "held_out"])
def test_a_model_is_trained_and_evaluated_in_anyones_environment(goal_source: str, tmp_path: Path) -> None:
    from jepawm.config.command_line import parse
    from jepawm.console import Console
    from jepawm.runs.pipeline import run
    from jepawm.runs.runtime import LocalRuntime

    flags = (
        "--local --device cpu --env.id foreign_envs:Buttons --env.image-size 32 --data.policy auto "
        "--data.num-episodes 8 --data.held-out-fraction 0.4 --train.num-train-steps 2 --train.batch-size 4 "
        "--train.diagnostics-windows 8 --evaluation.num-episodes 2 --evaluation.protocols two_plan "
        "--evaluation.num-animations 1 --planner.num-samples 6 --planner.num-elites 3 --planner.num-iterations 1 "
        f"--evaluation.prediction-horizon 2 --tracking.no-mlflow --evaluation.goal-source {goal_source} --run-dir"
    )
    parsed, recipe = parse([*flags.split(), str(tmp_path / "run")])
    result = run(parsed, recipe, LocalRuntime(), Console(quiet=True)).to_dict()
    assert result["num_episodes"] == 2
    assert result["protocols"]["two_plan"]["mean_distance"] > 0
    assert result["distance_name"] == "distance of observations"
    assert not check_dataset(result["dataset"]["path"])
