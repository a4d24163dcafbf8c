"""Tagged unions: a section of which there are several kinds, each a dataclass with its own fields.

`name` says which kind it is, in YAML (`planner: {name: cem, num_samples: 64}`), on the command line
(`--planner.name cem`) and in Python (`PlannerConfig(name="cem", num_samples=64)`). A kind is found by its name in the
table of its base class, or by `module:Class` where it stands in somebody else's package.
"""

import dataclasses
import importlib
from typing import Any, ClassVar, Self

from jepawm.errors import ConfigError, did_you_mean


class TaggedConfig:
    """Base of the kinds of one section.

    The base of a section sets `kinds` and `default_kind`; each kind is a subclass that sets `implementation`. To call
    the base is to make the kind that `name` asks for.

    Attributes:
        section: Dotted key of the section.
        kinds: Name of each kind to the `module:Class` of its dataclass.
        default_kind: The kind without a `name`.
        implementation: `module:Class` of what is built from a kind.
    """

    section: ClassVar[str]
    kinds: ClassVar[dict[str, str]]
    default_kind: ClassVar[str]
    implementation: ClassVar[str]

    def __new__(cls, *_: Any, **fields: Any) -> Self:
        """Makes the kind that `name` asks for where the base is called, else the class itself.

        Raises:
            ConfigError: An unknown kind, or a setting that the kind does not have.
        """
        kind = cls if "kinds" not in vars(cls) else cls.kind(fields.get("name", cls.default_kind))
        known = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
        for key in fields:
            if key not in known:
                raise ConfigError(
                    f"{cls.section}.{key} has no meaning for {cls.section}.name '{kind.name}'"  # type: ignore[attr-defined]
                    f"{did_you_mean(key, known)}"
                )
        return super().__new__(kind)

    @classmethod
    def kind(cls, name: str) -> type[Self]:
        """The dataclass of a kind.

        Args:
            name: A key of `kinds`, or `module:Class`.

        Raises:
            ConfigError: No such kind, or a `module:Class` that cannot be imported or is no kind of this section.
        """
        place = cls.kinds.get(name, name if isinstance(name, str) and ":" in name else None)
        if place is None:
            raise ConfigError(f"{cls.section}.name: unknown '{name}'{did_you_mean(str(name), cls.kinds)}")
        found = import_object(place, f"{cls.section}.name")
        if not (isinstance(found, type) and issubclass(found, cls) and dataclasses.is_dataclass(found)):
            raise ConfigError(f"{cls.section}.name: {place} is no dataclass that extends {cls.__name__}")
        return found

    @classmethod
    def shared_fields(cls) -> set[str]:
        """Fields that every kind of the section has."""
        base = next(each for each in cls.__mro__ if "kinds" in vars(each))
        return {item.name for item in dataclasses.fields(base)}  # type: ignore[arg-type]


def import_object(place: str, where: str) -> Any:
    """The object at `module:attribute`.

    Args:
        place: Where it is.
        where: The key that names it, for errors.

    Raises:
        ConfigError: No such module or attribute.
    """
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}: cannot import {place}: {error}") from error
