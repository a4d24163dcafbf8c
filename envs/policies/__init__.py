"""Policies that collect data. The seed determines all actions. They need only NumPy, except experts of a simulator.

policy = make_policy("wall_mixed_walk")
policy.reset(seed=(run_seed, episode_id))
action = policy.act(info["sim_state"])
"""

import importlib
from typing import Any

from envs import checks
from envs.policies.base import OpenLoopPolicy, Policy

__all__ = ["POLICIES", "OpenLoopPolicy", "Policy", "make_policy"]

# Module and class of each policy. Importing this package imports none of them, and no simulator.
POLICIES: dict[str, str] = {
    "wall_walk": "envs.policies.wall:WallWalk",
    "wall_mixed_walk": "envs.policies.wall:WallMixedWalk",
    "pusht_noisy_push": "envs.policies.pusht:PushTNoisyPush",
    "pusht_mixed_push": "envs.policies.pusht:PushTMixedPush",
    "pointmaze_random": "envs.policies.pointmaze:PointMazeRandom",
    "pointmaze_waypoints": "envs.policies.pointmaze:PointMazeWaypoints",
    "metaworld_expert": "envs.policies.metaworld:MetaworldExpert",
    "metaworld_expert_noisy": "envs.policies.metaworld:MetaworldExpertNoisy",
    "robosuite_script": "envs.policies.robosuite:RobosuiteScript",
    "robosuite_script_noisy": "envs.policies.robosuite:RobosuiteScriptNoisy",
    "rope_random_push": "envs.policies.deformable:RopeRandomPush",
    "granular_random_push": "envs.policies.deformable:GranularRandomPush",
}


def policy_class(name: str) -> type[Policy]:
    """The class of a policy by its name in `POLICIES`.

    Raises:
        ValueError: There is no such policy; the message suggests the closest name.
    """
    module, _, attribute = POLICIES[checks.known_name("policy", name, POLICIES)].partition(":")
    found: type[Policy] = getattr(importlib.import_module(module), attribute)
    return found


def make_policy(name: str, env: Any = None) -> Policy:
    """Makes a policy by its name in `POLICIES`.

    Args:
        name: Its name.
        env: The environment it will act in (`env.unwrapped`), for policies that ask it which task or maze it has.

    Raises:
        ValueError: There is no such policy; the message suggests the closest name.
    """
    return policy_class(name).for_env(env)
