"""Configuration as plain data: YAML in and out, layers of settings, and one typed error for a wrong key or value."""

import dataclasses
import functools
import os
import typing
from collections.abc import Iterator
from typing import Any, TypeVar, get_type_hints

import yaml

from jepawm.config.migrate import VERSION, VERSION_KEY, migrate
from jepawm.config.tagged import TaggedConfig
from jepawm.errors import ConfigError, did_you_mean

T = TypeVar("T")


# -- plain data and dataclasses --------------------------------------------------------------------------------------


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The type of each field of a configuration dataclass."""
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def is_section(kind: Any) -> bool:
    """Whether a field's type is a configuration dataclass of its own."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@functools.cache
def inner_section(kind: Any) -> tuple[Any, bool] | None:
    """The dataclass in a field of type `Section | None` or `tuple[Section, ...]`, and whether there are several of it.

    None: the field holds no section, or is one itself.
    """
    several = typing.get_origin(kind) is tuple
    inside = [part for part in typing.get_args(kind) if part not in (type(None), Ellipsis)]
    # A dataclass without a key of its own is a value, such as a published result.
    if len(inside) != 1 or not is_section(inside[0]) or not hasattr(inside[0], "section"):
        return None
    return inside[0], several


def from_dict(cls: type[T], data: dict[str, Any], where: str = "config") -> T:
    """Builds a configuration from nested plain data; keys that are left out keep their defaults.

    Args:
        cls: A dataclass of `jepawm.config`; a section with several kinds is built as the kind that `name` asks for.
        data: Nested mapping, as YAML gives it.
        where: Named in errors, e.g. the recipe file.

    Raises:
        ConfigError: An unknown key (with the closest known one), or a value of the wrong type.
    """
    result: T = _build(cls, expand_presets(cls, data, where)[0], where, "", None)
    return result


def expand_presets(
    cls: Any, data: Any, where: str, prefix: str = "", *, below: Any = None
) -> tuple[Any, dict[str, str]]:
    """Plain data in which the settings stand that a section's `preset`, or its folder of weights, stands for.

    Args:
        cls: The configuration, or a section of it.
        data: Nested plain data.
        where: Named in errors.
        prefix: Dotted key of the section, with a dot at its end.
        below: Plain data of the layers below, which may say what kind a section is.

    Returns:
        The data without any `preset`, and for each dotted key that came with another one where it is from.

    Raises:
        ConfigError: An unknown preset, or one of another kind than `name` says.
    """
    if not isinstance(data, dict):
        return data, {}
    chosen: dict[str, str] = {}
    expanded, below = dict(data), below if isinstance(below, dict) else {}
    if issubclass(cls, TaggedConfig):
        expanded, origin = cls.expanded(data, where)
        chosen = {f"{prefix}{key}": origin for key in expanded if key not in data}
        before, cls = kind_of(cls, below), kind_of(cls, below | expanded)
        below = below if cls is before else {}
    for key, kind in field_types(cls).items():
        if key not in expanded:
            continue
        inner, several = (kind, False) if is_section(kind) else inner_section(kind) or (None, False)
        if inner is None:
            continue
        value = expanded[key]
        if several and isinstance(value, list | tuple):
            parts = [expand_presets(inner, item, where, f"{prefix}{key}.{at}.") for at, item in enumerate(value)]
            expanded[key] = [part for part, _ in parts]
        else:
            part = expand_presets(inner, value, where, f"{prefix}{key}.", below=below.get(key))
            expanded[key], parts = part[0], [part]
        for _, inside in parts:
            chosen.update(inside)
    return expanded, chosen


def _build(cls: Any, data: Any, where: str, prefix: str, default: Any) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: '{prefix.rstrip('.')}' must be a mapping, found {data!r}")
    cls = kind_of(cls, data, default)
    types = field_types(cls)
    for key in data:
        if key not in types:
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'{did_you_mean(str(key), types)}")
    values = {} if default is None or type(default) is not cls else {key: getattr(default, key) for key in types}
    if not values:
        # Defaults that a parent gives a section (evaluation.two_plan and its like) fill the keys a recipe leaves out.
        values = {item.name: item.default_factory() for item in _with_factories(cls)}
    for key, value in data.items():
        values[key] = _built(types[key], value, where, f"{prefix}{key}", values.get(key))
    missing = [item.name for item in dataclasses.fields(cls) if _is_required(item) and item.name not in values]
    if missing:
        raise ConfigError(f"{where}: '{prefix}{missing[0]}' is missing")
    return cls(**values)


def _built(kind: Any, value: Any, where: str, dotted: str, default: Any) -> Any:
    """The value of one field."""
    if is_section(kind):
        return _build(kind, value, where, f"{dotted}.", default)
    inner = inner_section(kind)
    if inner is None:
        return _validated(kind, value, where, dotted)
    section, several = inner
    if several:
        entries = enumerate(_entries(value, where, dotted))
        return tuple(_build(section, item, where, f"{dotted}.{at}.", None) for at, item in entries)
    return None if value is None else _build(section, value, where, f"{dotted}.", default)


def _entries(value: Any, where: str, dotted: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: '{dotted}' must be a list of mappings, found {value!r}")
    return list(value)


def kind_of(cls: Any, data: dict[str, Any], default: Any = None) -> Any:
    """The dataclass that a section's data is of: `cls`, or the kind that its `name` asks for."""
    if not (issubclass(cls, TaggedConfig) and "kinds" in vars(cls)):
        return cls
    if "name" in data:
        return cls.kind(data["name"])
    return cls.kind(cls.default_kind) if default is None else type(default)


def _with_factories(cls: type) -> list[Any]:
    return [item for item in dataclasses.fields(cls) if item.default_factory is not dataclasses.MISSING]


def _is_required(item: Any) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _validated(kind: Any, value: Any, where: str, dotted: str) -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        # The path inside a value: which entry of a list. A union's own members are no part of it.
        inside = "".join(f".{part}" for part in first["loc"] if isinstance(part, int))
        raise ConfigError(f"{where}: '{dotted}{inside}': {first['msg']}, found {first['input']!r}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain nested dicts and lists, for YAML, JSON and checkpoints."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return {key: plain(value) for key, value in dataclasses.asdict(config).items()}


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys to a nested mapping."""
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *sections, last = dotted.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return nested


# -- files -----------------------------------------------------------------------------------------------------------


def save_yaml(config: Any, path: str | os.PathLike[str]) -> None:
    """Writes a resolved configuration, a dataclass or what `to_dict` made of one, that `load_yaml` reads back."""
    data = config if isinstance(config, dict) else to_dict(config)
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump({VERSION_KEY: VERSION, **data}, file, sort_keys=False)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save_yaml` wrote, now or in an older format, as plain data in today's format.

    Raises:
        ConfigError: No such file, not YAML, not a mapping, or a newer format.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping of sections, found {type(data).__name__}")
    return migrate(data, str(path))


def load_yaml(cls: type[T], path: str | os.PathLike[str]) -> T:
    """Reads what `save_yaml` wrote.

    Raises:
        ConfigError: No such file, not YAML, or keys and values that this class does not take.
    """
    return from_dict(cls, read_yaml(path), str(path))


# -- layers ----------------------------------------------------------------------------------------------------------


def resolve(cls: type[T], layers: list[tuple[str, dict[str, Any]]]) -> tuple[T, dict[str, str]]:
    """Lays sparse configurations over each other.

    Where a layer names another kind of a section, the settings that all kinds of it share stay, and those of the kind
    before are dropped: they would have no meaning, or another one.

    Args:
        cls: The configuration.
        layers: Name and plain data of each layer, the lowest first.

    Returns:
        The configuration, and for each dotted key that a layer set the name of that layer.

    Raises:
        ConfigError: A wrong key or value; the message names the layer that holds it.
    """
    plain, origins = to_dict(cls()), dict[str, str]()
    for name, layer in layers:
        data, presets = expand_presets(cls, layer, name, below=plain)
        plain = _over(cls, plain, data, name, origins=origins)
        origins.update({key: f"{name}, {presets[key]}" if key in presets else name for key in flatten(data)})
    # Built once, from the whole: a layer may mend what would be wrong with the layers below it alone.
    return from_dict(cls, plain, layers[-1][0] if layers else "config"), origins


def override(config: T, changes: dict[str, Any], where: str) -> T:
    """A configuration with some settings changed; another `name` makes it another kind, as in `resolve`.

    Args:
        config: A section, or a whole configuration.
        changes: Nested plain data; `preset` stands for the settings of a preset.
        where: Named in errors.

    Raises:
        ConfigError: A wrong key or value.
    """
    cls: Any = type(config)
    if isinstance(config, TaggedConfig):
        cls = next(each for each in cls.__mro__ if "kinds" in vars(each))
    changes, _ = expand_presets(cls, changes, where, below=to_dict(config))
    result: T = from_dict(cls, _over(cls, to_dict(config), changes, where, origins={}), where)
    return result


def _over(cls: Any, plain: dict[str, Any], data: Any, where: str, *, origins: dict[str, str], prefix: str = "") -> Any:
    """One layer over the resolved plain data of the layers below it."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: '{prefix.rstrip('.')}' must be a mapping, found {data!r}")
    before, kind = kind_of(cls, plain), kind_of(cls, plain | data)
    merged = dict(plain)
    if kind is not before:
        kept = kind.shared_fields() - {"name"}
        for key in [key for key in origins if key.startswith(prefix) and key.removeprefix(prefix) not in kept]:
            del origins[key]
        # A kind may need settings that have no default; then this layer gives them.
        merged = {key: value for key, value in plain.items() if key in kept}
    types = field_types(kind)
    for key, value in data.items():
        if key not in types:
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'{did_you_mean(str(key), types)}")
        dotted, inner = f"{prefix}{key}", inner_section(types[key])
        if is_section(types[key]):
            # A kind that was just chosen begins with its own defaults of a section.
            below = merged[key] if key in merged else _default_section(kind, key)
            merged[key] = _over(types[key], below, value, where, origins=origins, prefix=f"{dotted}.")
        elif inner is None:
            merged[key] = _validated(types[key], value, where, dotted)
        elif inner[1]:
            # A list takes the place of the one below, for its entries have no names to find them by.
            merged[key] = [
                _over(inner[0], {}, item, where, origins=origins, prefix=f"{dotted}.{at}.")
                for at, item in enumerate(_entries(value, where, dotted))
            ]
        elif value is None:
            merged[key] = None
        else:
            below = merged.get(key) or {}
            merged[key] = _over(inner[0], below, value, where, origins=origins, prefix=f"{dotted}.")
    return merged


def _default_section(cls: Any, key: str) -> dict[str, Any]:
    """A section of a kind as its defaults have it, as plain data."""
    (made,) = (item.default_factory() for item in _with_factories(cls) if item.name == key)
    return to_dict(made)


def describe(config: Any, origins: dict[str, str]) -> str:
    """The resolved configuration as YAML, each line with the place its value comes from."""

    def lines(data: dict[str, Any], prefix: str, depth: int, of_list: str | None) -> Iterator[str]:
        for key, value in data.items():
            indent, dotted = "  " * depth, f"{prefix}{key}"
            # Entries of a list come from where the list comes from.
            origin = of_list or origins.get(dotted, "default")
            if isinstance(value, dict):
                yield f"{indent}{key}:"
                yield from lines(value, f"{dotted}.", depth + 1, of_list)
            elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
                yield f"{indent}{key}:"
                for at, item in enumerate(value):
                    first, *rest = lines(item, f"{dotted}.{at}.", depth + 2, origin)
                    yield f"{indent}  - {first.lstrip()}"
                    yield from rest
            else:
                text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("\n...").strip()
                yield f"{indent}{key}: {text}  # {origin}"

    return "\n".join([f"{VERSION_KEY}: {VERSION}", *lines(to_dict(config), "", 0, None)])
