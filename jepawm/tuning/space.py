"""Search spaces: which settings are tried, and in which range. They know neither Ray nor Optuna.

A space maps dotted configuration keys to parameters. A parameter may depend on others: `when` names the values that
another setting must have, of the space or of the run, so that a point never holds a setting that has no meaning.

    Space("predictor", {
        "model.predictor.name": Choice("adaln", "feature"),
        "model.predictor.depth": IntRange(2, 12),
        "model.predictor.position": Choice("rotary", "learned", when={"model.predictor.name": "adaln"}),
    })
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jepawm.errors import ConfigError

Point = dict[str, Any]
When = Mapping[str, Any]


@dataclass(frozen=True)
class Above:
    """In `when`: a number above a limit, e.g. a weight that is not 0."""

    limit: float


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """One setting that is tried: what every kind has.

    Attributes:
        when: Dotted keys, each with the value that it must have, a tuple of such values, or `Above`; else the setting
            is left out. A parameter's own key stands for what the run says of it.
    """

    when: When = field(default_factory=dict)

    @property
    @abstractmethod
    def ends(self) -> tuple[Any, ...]:
        """Values at the borders; all values of a choice."""

    @abstractmethod
    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the length; uniform shares give the parameter's distribution."""

    @abstractmethod
    def grid(self, num_values: int | None) -> tuple[Any, ...]:
        """Values for a grid; of a range `num_values`, evenly spaced with both ends.

        Raises:
            ConfigError: A range, and `num_values` is None.
        """

    @abstractmethod
    def clip(self, value: Any) -> Any:
        """The nearest value inside."""

    def can_match(self, wanted: Any) -> bool:
        """Whether a value of this parameter can be what another one's `when` wants; of a range it is not ruled out."""
        return True

    def with_conditions(self, when: When) -> "Parameter":
        """The same with other conditions."""
        return replace(self, when=dict(when))

    def holds_for(self, settings: Mapping[str, Any]) -> bool:
        """Whether `when` holds for settings by dotted key."""
        return all(_matches(settings.get(key), wanted) for key, wanted in self.when.items())


@dataclass(frozen=True, init=False)
class Choice(Parameter):
    """One of several values, each as likely.

    Args:
        *options: The values.
        when: See `Parameter`.
    """

    options: tuple[Any, ...]

    def __init__(self, *options: Any, when: When | None = None) -> None:
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "when", dict(when or {}))
        if not options:
            raise ConfigError("a Choice needs at least one option")

    def can_match(self, wanted: Any) -> bool:
        return any(_matches(option, wanted) for option in self.options)

    def with_conditions(self, when: When) -> Parameter:
        return Choice(*self.options, when=when)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.options

    def at(self, share: float) -> Any:
        return self.options[int(share * len(self.options))]

    def grid(self, num_values: int | None) -> tuple[Any, ...]:
        return self.options

    def clip(self, value: Any) -> Any:
        return value if value in self.options else self.options[0]


@dataclass(frozen=True)
class Uniform(Parameter):
    """A number in [low, high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self, self.low, self.high)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def at(self, share: float) -> Any:
        return self.low + share * (self.high - self.low)

    def grid(self, num_values: int | None) -> tuple[Any, ...]:
        _check_grid(self, num_values)
        return tuple(float(value) for value in np.linspace(self.low, self.high, num_values or 2))

    def clip(self, value: Any) -> Any:
        return min(max(float(value), self.low), self.high)


@dataclass(frozen=True)
class LogUniform(Parameter):
    """A number in [low, high), whose logarithm is uniform."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self, self.low, self.high)
        if self.low <= 0:
            raise ConfigError(f"LogUniform begins above 0, found {self.low}")

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def at(self, share: float) -> Any:
        return self.low * math.exp(share * math.log(self.high / self.low))

    def grid(self, num_values: int | None) -> tuple[Any, ...]:
        _check_grid(self, num_values)
        inner = np.geomspace(self.low, self.high, num_values or 2)[1:-1]
        return (self.low, *(float(value) for value in inner), self.high)

    def clip(self, value: Any) -> Any:
        return min(max(float(value), self.low), self.high)


@dataclass(frozen=True)
class IntRange(Parameter):
    """A whole number from low to high, both included, in steps."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        _check_range(self, self.low, self.high)
        if self.step < 1 or (self.high - self.low) % self.step:
            raise ConfigError(f"IntRange({self.low}, {self.high}): steps of {self.step} do not end at {self.high}")

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def at(self, share: float) -> Any:
        count = (self.high - self.low) // self.step + 1
        return self.low + self.step * int(share * count)

    def grid(self, num_values: int | None) -> tuple[Any, ...]:
        values = range(self.low, self.high + 1, self.step)
        if num_values is None or num_values >= len(values):
            return tuple(values)
        chosen = np.linspace(0, len(values) - 1, num_values).round()
        return tuple(values[int(number)] for number in chosen)

    def clip(self, value: Any) -> Any:
        steps = round((min(max(value, self.low), self.high) - self.low) / self.step)
        return self.low + self.step * steps


Choose = Callable[[str, Parameter], Any]


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        name: What it is called in reports.
        parameters: Dotted configuration key to parameter; one that depends on another stands after it.
    """

    name: str
    parameters: Mapping[str, Parameter]

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ConfigError(f"the search space '{self.name}' has no parameters")
        known: set[str] = set()
        for key, parameter in self.parameters.items():
            if not isinstance(parameter, Parameter):
                raise ConfigError(
                    f"search space '{self.name}', {key}: expected a Choice, Uniform, LogUniform or IntRange of "
                    f"jepawm.tuning.space, found {parameter!r}"
                )
            late = [other for other in parameter.when if other in self.parameters and other not in known | {key}]
            if late:
                raise ConfigError(f"search space '{self.name}': {key} depends on {late[0]}, which must stand before it")
            known.add(key)

    def __or__(self, other: "Space") -> "Space":
        """Both spaces in one; where both have a parameter, the second one's holds."""
        return Space(f"{self.name},{other.name}", {**self.parameters, **other.parameters})

    def within(self, base: Mapping[str, Any]) -> "Space":
        """The part that has a meaning for a run.

        Conditions that the run alone decides are decided, and parameters whose conditions no choice meets are left out.

        Args:
            base: The run's settings by dotted key.

        Raises:
            ConfigError: Nothing is left.
        """
        kept: dict[str, Parameter] = {}
        for key, parameter in self.parameters.items():
            decided = {name: wanted for name, wanted in parameter.when.items() if name not in kept}
            own = {name: wanted for name, wanted in parameter.when.items() if name in kept}
            by_run = all(_matches(base.get(name), wanted) for name, wanted in decided.items())
            if by_run and all(kept[name].can_match(wanted) for name, wanted in own.items()):
                kept[key] = parameter.with_conditions(own)
        if not kept:
            raise ConfigError(f"no parameter of the search space '{self.name}' has a meaning for this run")
        return Space(self.name, kept)

    def point(self, choose: Choose, base: Mapping[str, Any]) -> Point:
        """One point.

        Args:
            choose: Gives the value of a parameter, by its key.
            base: The run's settings by dotted key, which `when` may name.
        """
        chosen: Point = {}
        for key, parameter in self.parameters.items():
            if parameter.holds_for({**base, **chosen}):
                chosen[key] = choose(key, parameter)
        return chosen

    def drawn(self, generator: np.random.Generator, base: Mapping[str, Any]) -> Point:
        """A random point; the generator gives one number for every parameter, also for one that is left out."""
        shares = dict(zip(self.parameters, generator.random(len(self.parameters)), strict=True))
        return self.point(lambda key, parameter: parameter.at(shares[key]), base)

    def all_points(self, base: Mapping[str, Any], points_per_range: int | None) -> Iterator[Point]:
        """Every combination, without those that `when` rules out; each once.

        Raises:
            ConfigError: A range, and `points_per_range` is None.
        """
        yield from self._combinations(list(self.parameters), {}, base, points_per_range)

    def _combinations(
        self, keys: Sequence[str], chosen: Point, base: Mapping[str, Any], per_range: int | None
    ) -> Iterator[Point]:
        if not keys:
            yield dict(chosen)
            return
        key, *rest = keys
        parameter = self.parameters[key]
        if not parameter.holds_for({**base, **chosen}):
            yield from self._combinations(rest, chosen, base, per_range)
            return
        for value in _naming(key, lambda: parameter.grid(per_range)):
            yield from self._combinations(rest, {**chosen, key: value}, base, per_range)

    def clip(self, point: Point) -> Point:
        """The nearest point inside; keys that are no parameters stay as they are."""
        return {
            key: self.parameters[key].clip(value) if key in self.parameters else value for key, value in point.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `sweep.json`: each parameter in words."""
        return {key: repr(parameter) for key, parameter in self.parameters.items()}


def _naming(key: str, values: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
    """Values of a parameter; an error names its key."""
    try:
        return values()
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Above):
        return isinstance(value, int | float) and value > wanted.limit
    return value in (wanted if isinstance(wanted, tuple) else (wanted,))


def _check_range(parameter: Parameter, low: float, high: float) -> None:
    if not low < high:
        raise ConfigError(f"{type(parameter).__name__}({low}, {high}): the low end must be below the high end")


def _check_grid(parameter: Parameter, num_values: int | None) -> None:
    if num_values is None:
        raise ConfigError(
            f"{parameter} is a range, and a grid needs its values: set tune.search.points_per_range, or use "
            "--tune.search.name random"
        )
