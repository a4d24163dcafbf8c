"""Points of a search space in words: finding the space, its borders, and the flags that repeat a point."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from jepawm.config.tagged import import_object
from jepawm.errors import ConfigError, did_you_mean
from jepawm.tuning.space import Choice, Parameter, Point, Space

SPACES = {
    "predictor": "tune_spaces.predictor:predictor_space",
    "encoder": "tune_spaces.encoder:encoder_space",
    "planner": "tune_spaces.planner:planner_space",
    "objective": "tune_spaces.objective:objective_space",
    "optimizer": "tune_spaces.optimizer:optimizer_space",
}
# Sections that a trained model is tried with; to change any other one is to train.
_OF_PLANNING = ("planner.", "objective.", "subgoals.", "evaluation.nearest_starts.")

# Key of a point that names the model which the trial plans with, where a sweep has several.
MODEL_KEY = "model"


def find_space(words: str) -> Space:
    """The search space of a name, of `module:function`, or of several with commas between them.

    A function of one's own returns a `Space`, or a mapping of dotted keys to parameters.

    Raises:
        ConfigError: No such space, or a function that returns something else.
    """
    found: Space | None = None
    for word in words.split(","):
        place = SPACES.get(word, word)
        if ":" not in place:
            raise ConfigError(
                f"--space: unknown '{word}'{did_you_mean(word, SPACES)}; a function of your own is written "
                "module:function"
            )
        made = import_object(place, "--space")()
        if isinstance(made, Mapping):
            made = Space(word, made)
        if not isinstance(made, Space):
            raise ConfigError(
                f"--space: {place} returned {type(made).__name__}; expected a Space, or a mapping of dotted keys to "
                "Choice, Uniform, LogUniform and IntRange (jepawm.tuning)"
            )
        found = made if found is None else found | made
    assert found is not None, "to split a text gives one part at least"
    return found


def grid_choices(words: Iterable[str]) -> dict[str, Choice]:
    """The settings of a grid, as a person types them.

    Args:
        words: Each a dotted key and its values, `planner.num_samples=100,300`; values are written as in YAML, so a list
            is `[a,b]`, and several lists `[a,b],[c]`.

    Raises:
        ConfigError: No values, or a key that is given twice.
    """
    choices: dict[str, Choice] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.removeprefix("--").replace("-", "_")
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError as error:
            raise ConfigError(f"--grid {word}: the values are no list as in YAML ({error})") from error
        if not (key and equals and values):
            raise ConfigError(
                f"--grid: '{word}' names no values; write KEY=VALUE,VALUE, for example planner.num_samples=100,300"
            )
        if key in choices:
            raise ConfigError(f"--grid: {key} is given twice; write all its values with commas between them")
        twice = [value for at, value in enumerate(values) if value in values[:at]]
        if twice:
            raise ConfigError(f"--grid {key}: the value {twice[0]!r} is given twice")
        choices[key] = Choice(*values)
    return choices


def needs_no_training(keys: Iterable[str]) -> bool:
    """Whether a trained model can be tried with all these settings."""
    return all(key.startswith(_OF_PLANNING) for key in keys)


def probes(space: Space, base: Mapping[str, Any]) -> Iterator[tuple[str, Point]]:
    """Points at the borders of a space, each with the key whose end it holds.

    Every parameter is at each of its ends once, with those it depends on as it needs them; the others are at their
    first value. A parameter that cannot occur with these settings of the run is passed over.
    """
    for key, parameter in space.parameters.items():
        needed = _needed(space, key)
        for end in parameter.ends:

            def choose(
                name: str,
                other: Parameter,
                key: str = key,
                end: Any = end,
                needed: Mapping[str, Any] = needed,
            ) -> Any:
                return end if name == key else needed.get(name, other.at(0.0))

            point = space.point(choose, base)
            if key in point:
                yield key, point


def _needed(space: Space, key: str) -> dict[str, Any]:
    """Values that the parameters before must have so that a parameter occurs."""
    found: dict[str, Any] = {}
    for name, wanted in space.parameters[key].when.items():
        other = space.parameters.get(name)
        if other is None:
            continue
        values = other.ends if isinstance(other, Choice) else (wanted if isinstance(wanted, tuple) else (wanted,))
        fitting = [value for value in values if other.with_conditions({name: wanted}).holds_for({name: value})]
        found |= {name: fitting[0], **_needed(space, name)} if fitting else {}
    return found


def in_words(point: Point) -> str:
    """A point in one line."""
    return ", ".join(f"{key} {_short(value)}" for key, value in point.items())


def flags(point: Point) -> list[str]:
    """Words of a command line that give a run the settings of a point."""
    words = []
    for key, value in point.items():
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{key.replace('_', '-')}", *(str(each) for each in values)]
    return words


def command(words: Iterable[str]) -> str:
    """Words as a person types them."""
    return shlex.join(words)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if not isinstance(value, str) else value
