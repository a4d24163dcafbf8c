"""Checks that sections of a configuration share; each error names the key as it is written in YAML."""

import dataclasses
from typing import Any

from jepawm.errors import ConfigError


def key(owner: object, name: str) -> str:
    """The dotted key of a field, as it is written in YAML and on the command line."""
    section = type(owner).__name__.removesuffix("Config").lower()
    return f"{_NESTED.get(section, section)}.{name}"


_NESTED = {
    "encoder": "model.encoder",
    "predictor": "model.predictor",
    "proprio": "model.proprio",
    "protocol": "evaluation.<protocol>",
}


def positive(owner: object, *names: str) -> None:
    """Answers a field that is not above 0."""
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise ConfigError(f"{key(owner, name)} must be above 0, found {value}")


def not_negative(owner: object, *names: str) -> None:
    """Answers a field below 0."""
    for name in names:
        value = getattr(owner, name)
        if not value >= 0:
            raise ConfigError(f"{key(owner, name)} must not be negative, found {value}")


def fraction(owner: object, *names: str) -> None:
    """Answers a field outside [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value < 1:
            raise ConfigError(f"{key(owner, name)} must lie in [0, 1), found {value}")


def only_keys_of(owner: Any, allowed: set[str]) -> None:
    """A key that the chosen part does not read is a mistake, not a no-op."""
    for item in dataclasses.fields(owner):
        if item.name not in allowed:
            unread_by(owner, item.name, f"{key(owner, 'name')} '{owner.name}'")


def unread_by(owner: Any, name: str, choice: str) -> None:
    """Answers a field that was set although the choice made elsewhere leaves it unread."""
    default = next(item.default for item in dataclasses.fields(owner) if item.name == name)
    if getattr(owner, name) != default:
        raise ConfigError(f"{key(owner, name)} has no meaning for {choice}")
