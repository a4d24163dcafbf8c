"""Recipes and the command line: YAML and flags in, a `RunConfig` out, each wrong key answered with the right one."""

import dataclasses
import os
import sys
from importlib import resources
from typing import Any, TypeVar

import yaml

from jepawm.config import RunConfig, to_dict
from jepawm.errors import ConfigError, did_you_mean

T = TypeVar("T")
DEFAULT_RECIPE = "demo"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("jepawm") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def read_recipe_text(name: str) -> str:
    """Text of a recipe by name, or of a YAML file by path.

    Raises:
        ConfigError: No such recipe or file.
    """
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        if not os.path.isfile(name):
            raise ConfigError(f"recipe file not found: {name}")
        with open(name, encoding="utf-8") as file:
            return file.read()
    if name not in recipe_names():
        raise ConfigError(f"unknown recipe '{name}'{did_you_mean(name, recipe_names())}")
    return (resources.files("jepawm") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def read_recipe(name: str) -> dict[str, Any]:
    """Reads a recipe by name, or a YAML file by path.

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
    return data


def _check_keys(cls: type, data: Any, where: str, prefix: str = "") -> None:
    known = {item.name: item for item in dataclasses.fields(cls)}
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: '{prefix.rstrip('.')}' must be a mapping, found {data!r}")
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'{did_you_mean(str(key), known)}")
        section = known[key].type
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            _check_keys(section, value, where, f"{prefix}{key}.")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def from_dict(cls: type[T], data: dict[str, Any], where: str = "config") -> T:
    """Builds a config dataclass from nested plain data; keys that are left out keep their defaults.

    Args:
        cls: A dataclass of `jepawm.config`.
        data: Nested mapping, as YAML gives it.
        where: Named in errors, e.g. the recipe file.

    Raises:
        ConfigError: An unknown key (with the closest known one), or a value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    _check_keys(cls, data, where)
    # Defaults that depend on the class (evaluation.two_plan and its like) fill the keys a recipe leaves out.
    full = _merge(to_dict(cls()), data) if _has_defaults(cls) else data
    try:
        return TypeAdapter(cls).validate_python(full)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: '{key}': {first['msg']}, found {first['input']!r}") from error


def _has_defaults(cls: type) -> bool:
    return all(
        item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        for item in dataclasses.fields(cls)
    )


def load_recipe(name: str) -> RunConfig:
    """The configuration of a recipe, defaults filled in."""
    return from_dict(RunConfig, read_recipe(name), f"recipe {name}")


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe(config: RunConfig, recipe: str) -> str:
    """The resolved configuration as YAML, each line with the place its value comes from."""
    defaults = flatten(to_dict(RunConfig()))
    given = flatten(read_recipe(recipe))
    of_recipe = flatten(to_dict(load_recipe(recipe)))
    lines: list[str] = []

    def walk(data: dict[str, Any], prefix: str, depth: int) -> None:
        for key, value in data.items():
            dotted = f"{prefix}{key}"
            if isinstance(value, dict):
                lines.append(f"{'  ' * depth}{key}:")
                walk(value, f"{dotted}.", depth + 1)
                continue
            origin = "default"
            if value != of_recipe[dotted]:
                origin = "command line"
            elif dotted in given or value != defaults[dotted]:
                origin = f"recipe {recipe}"
            text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("\n...").strip()
            lines.append(f"{'  ' * depth}{key}: {text}  # {origin}")

    walk(to_dict(config), "", 0)
    return "\n".join(lines)


def save_yaml(config: Any, path: str) -> None:
    """Writes a resolved configuration that `from_dict` reads back."""
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(to_dict(config), file, sort_keys=False)


def load_yaml(cls: type[T], path: str) -> T:
    """Reads what `save_yaml` wrote.

    Raises:
        ConfigError: No such file, not YAML, or keys and values that this class does not take.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping of sections, found {type(data).__name__}")
    return from_dict(cls, data, path)


def parse(argv: list[str] | None = None, description: str = "") -> tuple[RunConfig, str]:
    """Reads `--recipe NAME`, then every other flag over that recipe; answers `--print-config` and `--help`.

    Args:
        argv: Command line without the program's name; None: `sys.argv[1:]`.
        description: First lines of `--help`.

    Returns:
        The configuration and the recipe's name.

    Raises:
        ConfigError: A wrong recipe, key or combination of values.
        SystemExit: After `--help` or `--print-config` (0), or a wrong flag (2).
    """
    import tyro

    argv = list(sys.argv[1:] if argv is None else argv)
    recipe, rest, print_config = DEFAULT_RECIPE, [], False
    while argv:
        word = argv.pop(0)
        if word == "--recipe":
            if not argv:
                raise ConfigError(f"--recipe needs a name (known: {', '.join(recipe_names())}) or a YAML file")
            recipe = argv.pop(0)
        elif word.startswith("--recipe="):
            recipe = word.split("=", 1)[1]
        elif word == "--print-config":
            print_config = True
        else:
            rest.append(word)
    base = load_recipe(recipe)
    names = ", ".join(recipe_names())
    about = (
        f"{description}\n\nRecipes (--recipe NAME or FILE.yaml): {names}; this one: {recipe}.\n"
        "--print-config shows the resolved configuration and where each value comes from."
    )
    config = tyro.cli(RunConfig, args=rest, default=base, description=about)
    if print_config:
        print(describe(config, recipe))
        raise SystemExit(0)
    return config, recipe
