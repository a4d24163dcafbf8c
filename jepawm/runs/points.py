"""Between search spaces and runs: a run's settings by dotted key, and a run with the settings of a point."""

from typing import Any

from jepawm.config import RunConfig, to_dict
from jepawm.config.yaml_io import flatten, override, unflatten
from jepawm.errors import ConfigError
from jepawm.tuning.points import in_words
from jepawm.tuning.space import Point


def settings_of(config: RunConfig) -> dict[str, Any]:
    """A run's settings by dotted key, which a space's `when` may name."""
    return flatten(to_dict(config))


def with_point(base: RunConfig, point: Point, where: str) -> RunConfig:
    """A run with the settings of a point.

    Args:
        base: The run that the point changes.
        point: Settings by dotted key.
        where: Named in errors.

    Raises:
        ConfigError: An unknown key, a wrong value, or values that do not go together.
    """
    try:
        return override(base, unflatten(point), where)
    except ConfigError as error:
        raise ConfigError(f"{where} ({in_words(point)}): {str(error).removeprefix(f'{where}: ')}") from error
