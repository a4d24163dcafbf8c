"""The policy that acts while episodes are collected."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jepawm.errors import EnvironmentFault

Act = Callable[[np.ndarray], Any]


def policy_for_episode(env: Any, name: str, *, seed: int, reset_seed: int) -> tuple[str, Act]:
    """The policy of a name, ready for one episode.

    Args:
        env: The environment, with its wrappers.
        name: See `CollectPlan.policy`.
        seed: Fixes the policy's own randomness in this episode.
        reset_seed: The seed that the episode is reset with.

    Returns:
        The policy's name, and its `act(sim_state [S]) -> action [a]`.

    Raises:
        EnvironmentFault: No policy has this name, or it was made for another environment.
    """
    make_walk = getattr(env.unwrapped, "random_walk", None)
    suitable = policies_of(env) if make_walk is None else ["random_walk"]
    if name == "auto":
        name = suitable[0] if suitable else "uniform"
    if name == "random_walk" and make_walk is not None:
        # An adapted environment returns to a state by repeating the walk of the reset's seed. A walk of another seed
        # would lead to states without an address.
        return name, make_walk(reset_seed).act
    if name == "uniform":
        env.action_space.seed(seed)

        def sample(_sim_state: np.ndarray) -> Any:
            return env.action_space.sample()

        return name, sample
    from envs.policies import make_policy

    try:
        policy = make_policy(name, env.unwrapped)
    except ValueError as error:
        raise EnvironmentFault(f"data.policy: {error}") from error
    if name not in suitable:
        raise EnvironmentFault(
            f"data.policy '{name}' was made for {policy.env_id}, not for this environment; pass --data.policy "
            f"{' or '.join([*suitable, 'uniform'])}"
        )
    policy.reset(seed)
    return name, policy.act


def policies_of(env: Any) -> list[str]:
    """Names of the policies made for the class of this environment; the first one is the default."""
    import envs
    from envs.policies import POLICIES, policy_class

    entry_point = f"{type(env.unwrapped).__module__}:{type(env.unwrapped).__qualname__}"
    if entry_point not in envs.ENTRY_POINTS.values():
        return []
    return [name for name in POLICIES if envs.ENTRY_POINTS[policy_class(name).env_id] == entry_point]
