"""Factors of variation: differences between episodes of one environment that its sim_state does not hold.

A factor is a colour, a size, a shape, the place of a wall or a camera. Each has a published default. A `variation` maps
names of factors to values. With its variation and a sim_state, any moment of an episode can be drawn again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs import checks

Variation = dict[str, Any]


@dataclass(frozen=True)
class Factor:
    """One property that may vary: a number, several numbers, or one of a few names.

    Attributes:
        default: The published value: a float, an int, a tuple of either, or a str.
        low: Smallest value, of the shape of `default`; None where `choices` are given.
        high: Largest value.
        choices: The possible names; `default` is one of them.
        about: What the factor is, with its unit.
        physical: Whether the factor changes how things move or where episodes start, and not only the look.
    """

    default: Any
    low: Any = None
    high: Any = None
    choices: tuple[str, ...] = ()
    about: str = ""
    physical: bool = False

    def sample(self, random: np.random.Generator) -> Any:
        """Draws a value: uniformly between the bounds (whole numbers if the default is whole), or one of the
        choices."""
        if self.choices:
            return self.choices[int(random.integers(len(self.choices)))]
        low, high = np.asarray(self.low), np.asarray(self.high)
        if self._is_whole:
            return random.integers(low, high, endpoint=True).tolist()
        return random.uniform(low, high).tolist() if low.ndim else float(random.uniform(low, high))

    def check(self, name: str, value: Any) -> Any:
        """Returns a value in the types that JSON has.

        Raises:
            ValueError: Wrong shape, not numbers, out of bounds, or no such choice.
        """
        if self.choices:
            return str(checks.known_name(name, value, self.choices))
        low, high = np.asarray(self.low, dtype=np.float64), np.asarray(self.high, dtype=np.float64)
        size = f"{low.size} numbers" if low.ndim else "a number"
        expected = f"expected {size} from {self.low} to {self.high}{' (' + self.about + ')' if self.about else ''}"
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {expected}, found {value!r}") from error
        if array.shape != low.shape or not ((array >= low) & (array <= high)).all():
            raise ValueError(f"{name}: {expected}, found {value!r}")
        if self._is_whole:
            if (array != np.rint(array)).any():
                raise ValueError(f"{name}: {expected}, whole ones, found {value!r}")
            array = array.astype(np.int64)
        return array.tolist()

    @property
    def _is_whole(self) -> bool:
        return np.asarray(self.default).dtype.kind == "i"


def colour(default: tuple[int, int, int], about: str) -> Factor:
    """A factor that is an RGB colour, 0 to 255 each."""
    return Factor(default, (0, 0, 0), (255, 255, 255), about=about)


def defaults(factors: Mapping[str, Factor]) -> Variation:
    """The published value of every factor, in plain types."""
    return {
        name: list(factor.default) if isinstance(factor.default, tuple) else factor.default
        for name, factor in factors.items()
    }


def resolve(argument: str, factors: Mapping[str, Factor], base: Variation, given: Mapping[str, Any]) -> Variation:
    """All factors: the values of `given` where there are any, else those of `base`.

    Raises:
        ValueError: An unknown factor, a value it cannot take, or an environment without factors.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{argument}: expected a mapping from factors to values, found {given!r}")
    if given and not factors:
        raise ValueError(
            f"{argument}: this environment has no factors of variation, found {', '.join(map(str, given))}"
        )
    resolved = dict(base)
    for name, value in given.items():
        checks.known_name(argument, name, factors)
        resolved[name] = factors[name].check(f"{argument}[{name!r}]", value)
    return resolved


def names_of(argument: str, factors: Mapping[str, Factor], wanted: Iterable[str]) -> tuple[str, ...]:
    """Factor names, where `"all"` stands for every factor and `"agent"` for all that begin with `agent.`.

    Raises:
        ValueError: A name that is neither a factor nor the beginning of one, or an environment without factors.
    """
    if isinstance(wanted, str):
        raise ValueError(f"{argument}: expected a list of names, found the text {wanted!r}; write [{wanted}]")
    wanted = tuple(wanted)
    if wanted and not factors:
        raise ValueError(
            f"{argument}: this environment has no factors of variation, found {', '.join(map(str, wanted))}"
        )
    chosen: list[str] = []
    for name in wanted:
        found = [known for known in factors if name in ("all", known) or known.startswith(f"{name}.")]
        if not found:
            checks.known_name(argument, name, {*factors, "all", *(known.split(".")[0] for known in factors)})
        chosen += [known for known in found if known not in chosen]
    return tuple(chosen)


def draw(factors: Mapping[str, Factor], names: Iterable[str], random: np.random.Generator) -> Variation:
    """Draws values of the named factors, in the order of the names."""
    return {name: factors[name].sample(random) for name in names}


def differing(factors: Mapping[str, Factor], variation: Variation) -> Variation:
    """The factors whose values differ from the published ones; recordings keep these."""
    published = defaults(factors)
    return {name: value for name, value in variation.items() if value != published[name]}
