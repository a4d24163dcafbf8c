"""Checks that sections of a configuration share; each error names the key as it is written in YAML."""

import dataclasses
import os
from typing import Any
from urllib.parse import urlsplit

from jepawm.errors import ConfigError


def key(owner: Any, name: str) -> str:
    """The dotted key of a field, as it is written in YAML and on the command line."""
    return f"{owner.section}.{name}"


def positive(owner: object, *names: str) -> None:
    """Refuses a field that is not above 0; None passes, for it stands for a default."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{key(owner, name)} must be above 0, found {value}")


def not_negative(owner: object, *names: str) -> None:
    """Refuses a field below 0; None passes, for it stands for a default."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not value >= 0:
            raise ConfigError(f"{key(owner, name)} must not be negative, found {value}")


def fraction(owner: object, *names: str) -> None:
    """Refuses a field outside [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value < 1:
            raise ConfigError(f"{key(owner, name)} must lie in [0, 1), found {value}")


def unread_by(owner: Any, name: str, choice: str) -> None:
    """Refuses a field that was set although the choice made by another field leaves it unread."""
    default = next(item.default for item in dataclasses.fields(owner) if item.name == name)
    if getattr(owner, name) != default:
        raise ConfigError(f"{key(owner, name)} has no meaning for {choice}")


def positive_variable(name: str, default: float, unit: str) -> float:
    """A number above 0 from an environment variable; the default where it is not set, or empty.

    Raises:
        ConfigError: The variable is no positive number.
    """
    text = os.environ.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number > 0:
        raise ConfigError(f"{name} is '{text}', expected a number of {unit} above 0")
    return number


def no_password(owner: object, name: str, remedy: str) -> None:
    """Refuses an address with a password in it: configurations are written to runs, reports and trackers.

    Args:
        owner: The section.
        name: Its field; None passes.
        remedy: Where the password belongs.
    """
    address = getattr(owner, name)
    if address is not None and urlsplit(address).password is not None:
        raise ConfigError(
            f"{key(owner, name)} holds a password, and a configuration is written to config.yaml, eval.json and the "
            f"tracker; leave it out, and {remedy}"
        )
