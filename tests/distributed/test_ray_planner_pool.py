"""Planner hosts in actors, which start environment actors of their own."""

import os
import signal

import pytest
from wall_game import GAME, WALL, wall_model, wall_spec

from jepawm.config import RunConfig, ScalingConfig
from jepawm.console import Console
from jepawm.evaluation.goals import sampled_tasks
from jepawm.evaluation.planner_host import PlannerHost
from jepawm.rollout import EnvHost, EnvPool, SerialBackend
from jepawm.runs.planner_hosts import pack_model, planner_hosts

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_a_killed_planner_host_costs_a_rerun_and_nothing_else(ray_local):
    from jepawm.distributed.runtime import RayRuntime

    spec = wall_spec()
    model = wall_model(spec)
    scaling = ScalingConfig(num_env_actors=2, num_planner_hosts=1, cpus_per_planner_host=1, episodes_per_group=2)
    config = RunConfig(device="cpu", env=WALL, scaling=scaling)
    with EnvPool(SerialBackend(lambda: EnvHost(WALL))) as here:
        tasks, _ = sampled_tasks(here, seed=99, num_episodes=3)
        expected = PlannerHost(model, spec, [here], episodes_per_group=2).play(GAME, tasks)

    def parcel():
        return pack_model(model, spec, config.objective, config.subgoals, version="version")

    with planner_hosts(config, RayRuntime(scaling), parcel, Console(quiet=True)) as pool:
        os.kill(pool.process_id(0), signal.SIGKILL)
        played = pool.play(GAME, tasks)
        assert pool.restarts == [1]
        assert "planner host 0 died" in pool.log[0]
    assert played.outcomes == expected.outcomes
