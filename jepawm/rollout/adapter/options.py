"""Options of the adapter for Gymnasium environments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

import numpy as np

from jepawm.errors import ConfigError


@dataclass(frozen=True)
class AdapterOptions:
    """Options of the adapter, set with `--env.options KEY=VALUE`; all other keys are arguments of the environment.

    Attributes:
        success_distance: Distance from the goal below which it is reached; None: a fifth of the median distance from
            start to goal in eight tasks.
        success_numbers: Indices of the observation's numbers that the distance uses. None: all numbers; in an
            environment that can be set to a state, those that do not depend on velocities, because the picture of a
            goal shows no velocity.
        goal_env_steps: Least and largest number of env_steps from a start to its goal.
        action_bound: Bound of action dimensions without bounds.
        control_hz: env_steps per second; None: from the environment's `dt`, else its `render_fps`, else 10.
    """

    success_distance: float | None = None
    success_numbers: tuple[int, ...] | None = None
    goal_env_steps: tuple[int, int] = (25, 50)
    action_bound: float | None = None
    control_hz: float | None = None

    NAMES: ClassVar[tuple[str, ...]] = (
        "success_distance",
        "success_numbers",
        "goal_env_steps",
        "action_bound",
        "control_hz",
    )

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> "AdapterOptions":
        """The adapter's options among an environment's arguments.

        Raises:
            ConfigError: A value that an option cannot take.
        """
        given = {key: kwargs[key] for key in cls.NAMES if key in kwargs}
        for key in ("success_distance", "action_bound", "control_hz"):
            if key in given and not (is_number(given[key]) and given[key] > 0):
                raise ConfigError(f"env.options {key}: expected a number above 0, found {given[key]!r}")
        if "goal_env_steps" in given:
            steps = given["goal_env_steps"]
            if not _are_whole(steps) or len(steps) != 2 or not 1 <= steps[0] <= steps[1]:
                raise ConfigError(
                    "env.options goal_env_steps: expected two whole numbers [LEAST, LARGEST] of env_steps, at least 1, "
                    f"found {steps!r}"
                )
            given["goal_env_steps"] = tuple(steps)
        if "success_numbers" in given:
            if not _are_whole(given["success_numbers"]) or not given["success_numbers"]:
                raise ConfigError(
                    "env.options success_numbers: expected places in the observation such as [0, 1], found "
                    f"{given['success_numbers']!r}"
                )
            given["success_numbers"] = tuple(given["success_numbers"])
        return cls(**given)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number, and not a truth value."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _are_whole(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(type(value) is int for value in values)
