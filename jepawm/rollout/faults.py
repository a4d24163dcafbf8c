"""What an environment raised, in one line that its author can use."""

import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from jepawm.errors import EnvironmentFault, JepawmError

# Code between a host and an environment; its frames say nothing about the environment.
_BETWEEN = {"jepawm", "gymnasium"}


def environment_fault(error: Exception, env_id: str, doing: str) -> JepawmError:
    """An error that an environment raised as one of ours; an error of ours stays as it is.

    Args:
        error: What was raised.
        env_id: The environment.
        doing: What the environment was asked to do, such as "in step, episode 3, env_step 17, action [0.1, 0.2]".
    """
    if isinstance(error, JepawmError):
        return error
    return EnvironmentFault(f"env.id '{env_id}' failed {doing}: {describe_error(error)}")


def describe_error(error: BaseException) -> str:
    """Type, message and the environment's own last frame.

    An error inside a library that the environment calls is located where the environment calls the library. The
    environment's own packages are those of the methods of environments in the traceback.
    """
    import gymnasium

    frames = list(traceback.walk_tb(error.__traceback__))
    packages = {_package(frame) for frame, _ in frames if isinstance(frame.f_locals.get("self"), gymnasium.Env)}
    own = [(frame, number) for frame, number in frames if _package(frame) in packages - _BETWEEN] or frames
    where = ""
    if own:
        frame, number = own[-1]
        where = f" ({Path(frame.f_code.co_filename).name}, line {number}, in {frame.f_code.co_name})"
    return f"{type(error).__name__}: {error}{where}"


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


def show_action(action: Any) -> str:
    """An action for a message: six digits of each number."""
    return "[" + ", ".join(f"{number:.6g}" for number in np.asarray(action, np.float64).ravel()) + "]"
