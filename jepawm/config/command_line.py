"""The command line of a run: `--recipe NAME`, then any dotted key as a flag."""

import sys
from typing import Any

from jepawm.config.run import RunConfig
from jepawm.config.tagged import TaggedConfig
from jepawm.config.yaml_io import (
    describe,
    field_types,
    flatten,
    is_section,
    recipe_layers,
    recipe_names,
    resolve,
    to_dict,
)
from jepawm.config.yaml_io import unflatten as _unflatten
from jepawm.errors import ConfigError

DEFAULT_RECIPE = "demo"
COMMAND_LINE = "command line"

Layers = list[tuple[str, dict[str, Any]]]


def parse(argv: list[str] | None = None, description: str = "", *, base: Layers | None = None) -> tuple[RunConfig, str]:
    """Reads `--recipe NAME`, then every other flag over that recipe; answers `--print-config` and `--help`.

    Args:
        argv: Command line without the program's name; None: `sys.argv[1:]`.
        description: First lines of `--help`.
        base: Layers to start from in place of a recipe's, e.g. the configuration of a trained model.

    Returns:
        The configuration and the recipe's name.

    Raises:
        ConfigError: A wrong recipe, key or combination of values.
        SystemExit: After `--help` or `--print-config` (0), or a wrong flag (2).
    """
    import tyro

    words = list(sys.argv[1:] if argv is None else argv)
    recipe, words = _take_value(words, "--recipe", f"a name (known: {', '.join(recipe_names())}) or a YAML file")
    print_config = "--print-config" in words
    words = [word for word in words if word != "--print-config"]
    recipe = recipe or DEFAULT_RECIPE
    layers = base if base is not None else recipe_layers(recipe)
    kinds, words = _take_kinds(words)
    if kinds:
        layers = [*layers, (COMMAND_LINE, _unflatten(kinds))]
    below, origins = resolve(RunConfig, layers)
    about = (
        f"{description}\n\nRecipes (--recipe NAME or FILE.yaml): {', '.join(recipe_names())}; this one: {recipe}.\n"
        "--print-config shows the resolved configuration and where each value comes from."
    )
    config = tyro.cli(RunConfig, args=_flags_of_switches(words), default=below, description=about)
    before = flatten(to_dict(below))
    changed = [key for key, value in flatten(to_dict(config)).items() if value != before.get(key)]
    if print_config:
        print(describe(config, {**origins, **dict.fromkeys(changed, COMMAND_LINE)}))
        raise SystemExit(0)
    return config, recipe


def _take_value(words: list[str], flag: str, what: str) -> tuple[str | None, list[str]]:
    """The value of a flag, and the other words."""
    value, rest, left = None, [], list(words)
    while left:
        word = left.pop(0)
        if word == flag:
            if not left:
                raise ConfigError(f"{flag} needs {what}")
            value = left.pop(0)
        elif word.startswith(f"{flag}="):
            value = word.split("=", 1)[1]
        else:
            rest.append(word)
    return value, rest


def _take_kinds(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Flags such as `--planner.name`, which decide what other flags there are, as dotted keys; and the other words."""
    kinds: dict[str, str] = {}
    for section, union in tagged_sections(RunConfig).items():
        value, words = _take_value(words, f"--{section}.name", f"one of {', '.join(union.kinds)}")
        if value is not None:
            kinds[f"{section}.name"] = value
    return kinds, words


def tagged_sections(cls: type, prefix: str = "") -> dict[str, type[TaggedConfig]]:
    """Dotted keys of the sections that have several kinds, and their base classes."""
    found: dict[str, type[TaggedConfig]] = {}
    for name, kind in field_types(cls).items():
        if is_section(kind):
            if issubclass(kind, TaggedConfig):
                found[f"{prefix}{name}"] = kind
            else:
                found.update(tagged_sections(kind, f"{prefix}{name}."))
    return found


def _flags_of_switches(words: list[str]) -> list[str]:
    """`--key true` and `--key False` as tyro's `--key` and `--section.no-key`."""
    rewritten: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        if equals and flag.startswith("--") and value.lower() in ("true", "false"):
            word, previous = value, flag
        elif word.lower() in ("true", "false") and rewritten and rewritten[-1].startswith("--"):
            previous = rewritten.pop()
        else:
            rewritten.append(word)
            continue
        section, dot, name = previous.removeprefix("--").rpartition(".")
        rewritten.append(f"--{section}{dot}{name if word.lower() == 'true' else f'no-{name}'}")
    return rewritten
