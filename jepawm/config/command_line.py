"""The command line of a run: `--recipe NAME`, then any dotted key as a flag."""

import ast
import dataclasses
import inspect
import sys
import textwrap
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from jepawm.config.recipe_files import check_command, recipe_layers, recipe_names
from jepawm.config.run import RunConfig, checks_postponed
from jepawm.config.tagged import PRESET_KEY, TaggedConfig
from jepawm.config.yaml_io import describe, field_types, flatten, is_section, resolve, to_dict, unflatten
from jepawm.errors import ConfigError

DEFAULT_RECIPE = "demo"
COMMAND_LINE = "command line"
# Flags that have another name since an older format of the configuration.
MOVED = {
    "planner.proprio-weight": "objective.proprio-weight",
    "loss.supervision": "loss.name",
    "optim.warmup-fraction": "optim.schedule.warmup-fraction",
    "optim.final-fraction": "optim.schedule.final-fraction",
}

Layers = list[tuple[str, dict[str, Any]]]
Section = TypeVar("Section")
Config = TypeVar("Config")


@dataclass(frozen=True)
class Command:
    """What a command that takes a run's flags says in its help.

    Attributes:
        prog: How it is called.
        about: What it does, and flags of its own.
        common: Dotted keys that `--help` shows; a section's name stands for all of it.
        takes_recipe: Whether `--recipe` is one of its flags.
        recipes: The command whose recipes it takes.
        default_recipe: The recipe without `--recipe`.
    """

    prog: str
    about: str
    common: tuple[str, ...]
    takes_recipe: bool = True
    recipes: str = "train"
    default_recipe: str = DEFAULT_RECIPE


TRAIN = Command(
    prog="jepawm train",
    about="Collect or read episodes, train a world model, plan with it, and leave a report.",
    common=(
        *("seed", "device", "local", "name", "run_dir", "resume", "max_gpu_hours"),
        *("env.id", "env.image_size", "env.vary", "env.options"),
        *("data.source", "data.path", "data.policy", "data.num_episodes", "data.frameskip"),
        *("model.encoder.name", "model.encoder.weights", "model.encoder.trainable", "model.predictor.name"),
        *("train.num_train_steps", "train.batch_size", "optim.learning_rate"),
        *("planner.name", "planner.horizon", "planner.num_samples", "planner.num_iterations"),
        *("evaluation.num_episodes", "evaluation.seed", "evaluation.protocols"),
        *("scaling.num_workers", "scaling.num_env_actors", "scaling.num_planner_hosts", "tracking.mlflow"),
    ),
)


def parse(
    argv: list[str] | None = None, command: Command = TRAIN, *, base: Layers | None = None
) -> tuple[RunConfig, str]:
    """The configuration of a run, see `parse_as`."""
    return parse_as(RunConfig, argv, command, base=base)


def parse_as(
    kind: type[Config], argv: list[str] | None, command: Command, *, base: Layers | None = None
) -> tuple[Config, str]:
    """Reads `--recipe NAME` and `--small`, then every other flag over that; answers `--print-config` and `--help`.

    Args:
        kind: The configuration, such as `RunConfig`.
        argv: Command line without the program's name; None: `sys.argv[1:]`.
        command: What `--help` says.
        base: Layers to start from in place of a recipe's, e.g. the configuration of a trained model.

    Returns:
        The configuration and the recipe's name.

    Raises:
        ConfigError: A wrong recipe, key or combination of values.
        SystemExit: After `--help` or `--print-config` (0), or a wrong flag (2).
    """
    import tyro

    # A section that may be left out has flags like any other.
    flat = (tyro.conf.AvoidSubcommands,)
    words = list(sys.argv[1:] if argv is None else argv)
    recipe, words = command.default_recipe, _flags_of_switches(words)
    if base is None:
        known = ", ".join(recipe_names(command.recipes))
        given, words = take_value(words, "--recipe", f"a name (known: {known}) or a YAML file")
        recipe = given or command.default_recipe
        check_command(recipe, command.recipes)
    small, words = take_switch(words, "--small") if base is None else (False, words)
    print_config, words = take_switch(words, "--print-config")
    show_all, words = take_switch(words, "--help-all")
    _refuse_moved(words)
    layers = recipe_layers(recipe, small=small) if base is None else base
    kinds, words = _take_kinds(words, kind)
    if kinds:
        layers = [*layers, (COMMAND_LINE, unflatten(kinds))]
    # A preset may bring a horizon that a protocol of the layers below does not fit; a flag may still change either.
    with checks_postponed():
        below, origins = resolve(kind, layers)
    if show_all:
        about = _about(kind, command, recipe)
        tyro.cli(kind, args=["--help"], default=below, prog=command.prog, description=about, config=flat)
    if "-h" in words or "--help" in words:
        chosen = {key.rpartition(".")[0] for key in kinds}
        common = _common_flags(below, {*command.common, *chosen})
        about = _about(kind, command, recipe)
        tyro.cli(type(common), args=["--help"], default=common, prog=command.prog, description=about, config=flat)
    config = tyro.cli(kind, args=words, default=below, prog=command.prog, config=flat)
    config = dataclasses.replace(config)  # type: ignore[type-var]
    before = flatten(to_dict(below))
    changed = [key for key, value in flatten(to_dict(config)).items() if value != before.get(key)]
    if print_config:
        print(describe(config, {**origins, **dict.fromkeys(changed, COMMAND_LINE)}))
        raise SystemExit(0)
    return config, recipe


# -- words -----------------------------------------------------------------------------------------------------------


def take_value(words: list[str], flag: str, what: str) -> tuple[str | None, list[str]]:
    """The value of a flag (the last one, if it is given twice), and the other words.

    Raises:
        ConfigError: The flag is the last word; `what` says what it needs.
    """
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


def take_values(words: list[str], flag: str, what: str) -> tuple[list[str], list[str]]:
    """All values of a flag, up to the next word that begins with a dash, and the other words.

    Raises:
        ConfigError: The flag has no value, or is there twice.
    """
    values, rest, left, is_there = list[str](), list[str](), list(words), False
    while left:
        word = left.pop(0)
        name, equals, first = word.partition("=")
        if name != flag:
            rest.append(word)
            continue
        if is_there:
            raise ConfigError(f"{flag} is given twice; write all its values after one {flag}")
        is_there = True
        values += [first] if equals else []
        while left and not left[0].startswith("-"):
            values.append(left.pop(0))
        if not values:
            raise ConfigError(f"{flag} needs {what}")
    return values, rest


def take_switch(words: list[str], flag: str) -> tuple[bool, list[str]]:
    """Whether a flag without a value is there, and the other words."""
    return flag in words, [word for word in words if word != flag]


def take_section(words: list[str], section: type[Section]) -> tuple[Section, list[str]]:
    """Settings of a section that is not part of a run (`--improve.num-rounds 3`), and the other words.

    Args:
        words: Command line without the program's name.
        section: A dataclass whose `section` names it.

    Raises:
        ConfigError: Values that do not go together.
        SystemExit: A wrong flag (2).
    """
    import tyro

    prefix = f"--{section.section}."  # type: ignore[attr-defined]
    own: list[str] = []
    rest: list[str] = []
    goes_to = rest
    for word in _flags_of_switches(words):
        if word.startswith("--"):
            goes_to = own if word.startswith(prefix) else rest
        goes_to.append(f"--{word.removeprefix(prefix)}" if word.startswith(prefix) else word)
    kinds, own = _take_kinds(own, section)
    below, _ = resolve(section, [(COMMAND_LINE, unflatten(kinds))])
    return tyro.cli(section, args=own, prog=prefix, default=below), rest


def section_help(section: type) -> str:
    """One line for each setting of a section, for the text of a command's `--help`."""
    texts, types = field_texts(section), field_types(section)
    name = section.section  # type: ignore[attr-defined]
    lines = []
    for item in dataclasses.fields(section):
        kind = types[item.name]
        if is_section(kind) and issubclass(kind, TaggedConfig):
            lines += _union_help(kind)
            continue
        flag = f"--{name}.{item.name.replace('_', '-')}"
        lines.append(f"{flag} (default: {item.default}): {texts.get(item.name, '')}")
    return "\n\n".join(lines)


def _union_help(union: type[TaggedConfig]) -> list[str]:
    """The lines of a section with several kinds: its name, and the settings of each kind."""
    lines = [f"--{union.section}.name (default: {union.default_kind}): {field_texts(union)['name']}"]
    for kind_name in union.kinds:
        kind: Any = union.kind(kind_name)
        texts = field_texts(kind)
        for item in dataclasses.fields(kind):
            if item.name != "name":
                flag = f"--{union.section}.{item.name.replace('_', '-')}"
                lines.append(f"{flag} ({kind_name}, default: {item.default}): {texts.get(item.name, '')}")
    return lines


def _take_kinds(words: list[str], config: type) -> tuple[dict[str, str], list[str]]:
    """Flags that decide what other flags a configuration has (`--planner.name`, `--planner.preset`) as dotted keys; and
    the rest.

    A preset is read like a kind, and so is a value that decides other settings (an encoder folder as
    `--model.encoder.weights`): their settings come first, and single flags change them.
    """
    kinds: dict[str, str] = {}
    unions = list(tagged_sections(config).items())
    for section, union in unions:
        for key, choices in (("name", union.kinds), (PRESET_KEY, union.presets)):
            if not choices:
                continue
            value, words = take_value(words, f"--{section}.{key}", f"one of {', '.join(choices)}")
            if value is not None:
                kinds[f"{section}.{key}"] = value
        for key in union.decisive:
            value, rest = take_value(words, f"--{section}.{key}", "a value")
            if value is not None and union.decides_others(key, value):
                kinds[f"{section}.{key}"], words = value, rest
        if f"{section}.name" in kinds:
            # A kind may have sections with several kinds of their own (`--subgoals.planner.name`).
            unions += tagged_sections(union.kind(kinds[f"{section}.name"]), f"{section}.").items()
    return kinds, words


def tagged_sections(cls: type, prefix: str = "") -> dict[str, type[TaggedConfig]]:
    """Dotted keys of the sections that have several kinds, and their base classes."""
    sections: dict[str, type[TaggedConfig]] = {}
    for name, kind in field_types(cls).items():
        if is_section(kind):
            if issubclass(kind, TaggedConfig):
                sections[f"{prefix}{name}"] = kind
            else:
                sections.update(tagged_sections(kind, f"{prefix}{name}."))
    return sections


def _refuse_moved(words: list[str]) -> None:
    for word in words:
        flag = word.split("=")[0].removeprefix("--").replace("_", "-")
        if flag in MOVED:
            raise ConfigError(f"--{flag} is --{MOVED[flag]} now")


def _flags_of_switches(words: list[str]) -> list[str]:
    """`--key true` and `--key=False` as tyro's `--key` and `--section.no-key`."""
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


# -- help ------------------------------------------------------------------------------------------------------------


def _about(kind: type, command: Command, recipe: str) -> str:
    lines = [command.about]
    if command.takes_recipe:
        known = ", ".join(recipe_names(command.recipes))
        lines.append(f"--recipe NAME or FILE.yaml: where the settings come from ({known}); now: {recipe}.")
        lines.append("--small: the recipe at the small size that it states, with the same structure.")
    lines += [
        "--help-all shows every flag; --print-config shows every setting and where its value comes from.",
        "A switch is written --key, --section.no-key, or --key True and --key False.",
    ]
    for section, union in tagged_sections(kind).items():
        if union.presets:
            lines.append(
                f"--{section}.preset NAME: published settings under one word ({', '.join(union.presets)}); further "
                f"--{section} flags change them, --print-config shows them."
            )
    return "\n\n".join(lines)


def _common_flags(config: Any, keys: set[str], prefix: str = "") -> Any:
    """An object that has only some of a configuration's settings: what a short help shows.

    Args:
        config: The configuration, or a section of it.
        keys: Dotted keys that are kept; a section's name keeps all of it.
        prefix: Dotted key of the section, with a dot at its end.
    """
    import tyro

    kind: Any = type(config)
    types, texts = field_types(kind), field_texts(kind)
    fields: list[tuple[str, Any, Any]] = []
    for item in dataclasses.fields(config):
        key, value = f"{prefix}{item.name}", getattr(config, item.name)
        if is_section(types[item.name]):
            whole = {f"{key}.{inner.name}" for inner in dataclasses.fields(value)} if key in keys else set()
            part = _common_flags(value, keys | whole, f"{key}.")
            if dataclasses.fields(part):
                fields.append((item.name, type(part), dataclasses.field(default=part)))
        elif key in keys:
            shown: Any = Annotated[types[item.name], tyro.conf.arg(help=texts.get(item.name, ""))]
            fields.append((item.name, shown, dataclasses.field(default=value)))
    made = dataclasses.make_dataclass(kind.__name__, fields, frozen=True)
    made.__doc__ = kind.__doc__
    return made()


def field_texts(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and of its bases."""
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef), "the source of a class is a class"
        for node, after in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                texts[node.target.id] = " ".join(str(after.value.value).split())
    return texts
