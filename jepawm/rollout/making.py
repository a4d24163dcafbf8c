"""Makes an environment of a configuration, and says what it lacks."""

from typing import Any

from jepawm.config import EnvConfig
from jepawm.errors import EnvironmentFault

CONTRACT = ("sample_start_goal", "render_state", "success", "control_hz", "sim_state_names")


def make_env(config: EnvConfig) -> Any:
    """The Gymnasium environment of a configuration.

    Raises:
        EnvironmentFault: It cannot be made, or lacks a part of what an environment must offer.
    """
    import gymnasium

    try:
        env = gymnasium.make(config.id, disable_env_checker=True, **config.make_kwargs())
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise EnvironmentFault(f"cannot make env.id '{config.id}': {error}") from error
    lacking = [name for name in CONTRACT if not hasattr(env.unwrapped, name)]
    if lacking:
        raise EnvironmentFault(
            f"env.id '{config.id}' lacks {', '.join(lacking)}; what an environment "
            "must offer is in the README, under Environments"
        )
    return env
