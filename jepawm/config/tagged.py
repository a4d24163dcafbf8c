"""Tagged unions: a section of which there are several kinds, each a dataclass with its own fields.

`name` says which kind it is, in YAML (`planner: {name: cem, num_samples: 64}`), on the command line
(`--planner.name cem`) and in Python (`PlannerConfig(name="cem", num_samples=64)`). A kind is found by its name in the
table of its base class, or by `module:Class` where it stands in somebody else's package.
"""

import dataclasses
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from jepawm.errors import ConfigError, did_you_mean

PRESET_KEY = "preset"


class TaggedConfig:
    """Base of the kinds of one section.

    The base of a section sets `kinds` and `default_kind`; each kind is a subclass that sets `implementation`. To call
    the base is to make the kind that `name` asks for.

    Attributes:
        section: Dotted key of the section.
        kinds: Name of each kind to the `module:Class` of its dataclass.
        default_kind: The kind without a `name`.
        presets: Settings that go together under one word, each with the `name` of its kind. `preset: WORD` stands for
            them in YAML, on the command line and in Python; the configuration holds the settings, not the word.
        decisive: Settings that may stand for others, see `decides_others`; a command line reads them first.
        implementation: `module:Class` of what is built from a kind.
    """

    section: ClassVar[str]
    kinds: ClassVar[dict[str, str]]
    default_kind: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    decisive: ClassVar[tuple[str, ...]] = ()
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
    def with_preset(cls, data: Mapping[str, Any], where: str = "config") -> dict[str, Any]:
        """Settings with those that their `preset` stands for; what stands beside the preset comes before it.

        Args:
            data: Settings of this section, with or without `preset`.
            where: Named in errors.

        Raises:
            ConfigError: An unknown preset, or one of another kind than `name` says.
        """
        own = {key: value for key, value in data.items() if key != PRESET_KEY}
        if len(own) == len(data):
            return own
        word = data[PRESET_KEY]
        if not isinstance(word, str) or word not in cls.presets:
            raise ConfigError(f"{where}: {cls.section}.preset: unknown '{word}'{did_you_mean(str(word), cls.presets)}")
        settings = cls.presets[word]
        if own.get("name", settings["name"]) != settings["name"]:
            raise ConfigError(
                f"{where}: {cls.section}.preset '{word}' is settings of {cls.section}.name '{settings['name']}', "
                f"found '{own['name']}'"
            )
        return {**settings, **own}

    @classmethod
    def expanded(cls, data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str]:
        """Settings with those that one of them stands for, e.g. a preset; a section may know others.

        Args:
            data: Settings of this section, as they are written.
            where: Named in errors.

        Returns:
            All settings, and where those that `data` does not hold come from.

        Raises:
            ConfigError: An unknown preset, or one of another kind than `name` says.
        """
        if not cls.presets or PRESET_KEY not in data:
            return dict(data), ""
        return cls.with_preset(data, where), f"preset {data[PRESET_KEY]}"

    @classmethod
    def decides_others(cls, key: str, value: str) -> bool:
        """Whether a value of a key of `decisive` stands for other settings too."""
        return False

    @classmethod
    def preset(cls, word: str, **changes: Any) -> Self:
        """The configuration that a preset stands for.

        Args:
            word: A key of `presets`.
            **changes: Settings in place of the preset's.

        Raises:
            ConfigError: An unknown preset, or a wrong setting.
        """
        return cls(**cls.with_preset({PRESET_KEY: word, **changes}))

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
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            # The module is there; what it imports is not.
            raise ConfigError(f"{where}: cannot import {place}: {error}") from error
        raise ConfigError(
            f"{where}: cannot import {place}: {error}. Python looks in {_search_path()}; put the folder that holds "
            f"{error.name} on its path: export PYTHONPATH=FOLDER (PYTHONPATH=. for the current folder)"
        ) from error
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}: cannot import {place}: {error}") from error


def _search_path() -> str:
    """The first folders of Python's path, for a message."""
    folders = [folder or os.curdir for folder in sys.path if not folder.endswith(".zip")]
    return ", ".join(folders[:3]) + (", ..." if len(folders) > 3 else "")
