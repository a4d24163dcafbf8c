"""Recipe files: which there are, what one says itself, and its settings over those of its parents."""

import os
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from jepawm.config.migrate import migrate
from jepawm.config.yaml_io import resolve
from jepawm.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from jepawm.config.run import RunConfig

PARENT_KEY = "extends"
ABOUT_KEY = "about"
SMALL_KEY = "small"
# Folder of recipes -> the command that reads them; all others are recipes of `jepawm train`.
RECIPE_FOLDERS = {"pretrain": "pretrain"}


def recipe_names(command: str = "train") -> list[str]:
    """Names of the recipes that ship with the package: those in a folder have its name in front, `dino_wm/wall`.

    Args:
        command: The command that reads them.
    """
    return [name for name in all_recipe_names() if command_of(name) == command]


def command_of(name: str) -> str:
    """The command that reads a recipe which ships with the package."""
    return RECIPE_FOLDERS.get(name.partition("/")[0], "train")


def all_recipe_names() -> list[str]:
    """Names of the recipes of all commands."""

    def inside(folder: Any, prefix: str) -> Iterator[str]:
        for item in folder.iterdir():
            if item.is_dir():
                yield from inside(item, f"{prefix}{item.name}/")
            elif item.name.endswith(".yaml"):
                yield prefix + item.name.removesuffix(".yaml")

    return sorted(inside(resources.files("jepawm") / "recipes", ""))


def read_recipe_text(name: str) -> str:
    """Text of a recipe by name, or of a YAML file by path.

    Raises:
        ConfigError: No such recipe or file.
    """
    names = all_recipe_names()
    if name not in names:
        if name.endswith((".yaml", ".yml")) or os.path.isfile(name):
            if not os.path.isfile(name):
                raise ConfigError(f"recipe file not found: {name}")
            with open(name, encoding="utf-8") as file:
                return file.read()
        raise ConfigError(f"unknown recipe '{name}'{did_you_mean(name, names)}")
    return resources.files("jepawm").joinpath("recipes", *f"{name}.yaml".split("/")).read_text(encoding="utf-8")


def recipe_about(name: str) -> str:
    """The comment that a recipe begins with."""
    lines = []
    for line in read_recipe_text(name).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def read_recipe(name: str) -> dict[str, Any]:
    """What one recipe file says itself, without its parents, in today's format.

    Args:
        name: A recipe's name, or the path of a YAML file.

    Raises:
        ConfigError: No such recipe or file, or not a YAML mapping.
    """
    text = read_recipe_text(name)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name} is not valid YAML: {error}") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {name} must be a mapping of sections, found {type(data).__name__}")
    return migrate(data, f"recipe {name}")


def recipe_family(name: str) -> list[tuple[str, dict[str, Any]]]:
    """A recipe and its parents (`extends`), the oldest first: each name with what it says itself.

    Raises:
        ConfigError: A recipe that cannot be read, or that extends itself.
    """
    family: list[tuple[str, dict[str, Any]]] = []
    seen: list[str] = []
    child: str | None = name
    while child is not None:
        if child in seen:
            raise ConfigError(f"recipe {name}: '{PARENT_KEY}' goes in a circle: {' -> '.join([*seen, child])}")
        seen.append(child)
        data = dict(read_recipe(child))
        parent = data.pop(PARENT_KEY, None)
        for key in (ABOUT_KEY, SMALL_KEY):
            if not isinstance(data.get(key, {}), dict):
                raise ConfigError(f"recipe {child}: '{key}' must be a mapping, found {data[key]!r}")
        family.insert(0, (child, data))
        if parent is not None and not isinstance(parent, str):
            raise ConfigError(f"recipe {child}: '{PARENT_KEY}' must be one recipe, found {parent!r}")
        if parent is not None and parent.endswith((".yaml", ".yml")) and not os.path.isabs(parent):
            # A parent's path is relative to the file that names it.
            parent = os.path.join(os.path.dirname(child) or os.curdir, parent)
        child = parent
    return family


def recipe_layers(name: str, *, small: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """The settings of a recipe and its parents, the oldest first, each with the name that errors and origins show.

    Args:
        name: A recipe's name, or the path of a YAML file.
        small: Put the small size that recipe and parents state (`small`) over their settings.

    Raises:
        ConfigError: A recipe that cannot be read, that extends itself, or that states no small size.
    """
    family = recipe_family(name)
    layers = [
        (f"recipe {each}", {key: value for key, value in data.items() if key not in (ABOUT_KEY, SMALL_KEY)})
        for each, data in family
    ]
    if small:
        sizes: dict[str, Any] = {}
        for _, data in family:
            sizes = _over_small(sizes, data.get(SMALL_KEY, {}))
        if not sizes:
            raise ConfigError(f"recipe {name} states no small size ('{SMALL_KEY}'); leave --small out")
        layers.append((f"recipe {name}, small", sizes))
    return layers


def _over_small(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One small size over its parent's; a section that names its kind is taken whole, for the parent's is another's."""
    merged = dict(below)
    for key, value in above.items():
        deeper = isinstance(value, dict) and isinstance(below.get(key), dict) and "name" not in value
        merged[key] = _over_small(below[key], value) if deeper else value
    return merged


def load_recipe(name: str, *, small: bool = False) -> "RunConfig":
    """The configuration of a recipe over its parents and the defaults; `small`: at the small size that it states.

    Raises:
        ConfigError: A recipe of another command, or one that cannot be read.
    """
    from jepawm.config.run import RunConfig

    check_command(name, "train")
    return resolve(RunConfig, recipe_layers(name, small=small))[0]


def check_command(name: str, command: str) -> None:
    """Refuses a recipe of the package that another command reads.

    Raises:
        ConfigError: Names the command.
    """
    if name in all_recipe_names() and command_of(name) != command:
        raise ConfigError(
            f"{name} is a recipe of `jepawm {command_of(name)}`; `jepawm {command}` knows "
            f"{', '.join(recipe_names(command))}"
        )
