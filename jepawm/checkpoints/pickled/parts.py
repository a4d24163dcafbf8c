"""What a pickle is taken apart into: names, records, storages and views, and how errors name them."""

from dataclasses import dataclass, field
from typing import Any

import torch

DEPTH = 100
INT64 = 1 << 63


class Refused(Exception):
    """The file asks for something a checkpoint of modules has no use for."""


class Damaged(Exception):
    """The file contradicts itself or breaks off."""


@dataclass(frozen=True, eq=False)
class Global:
    """A name the pickle mentions, `package.module.Class`; never looked up."""

    name: str


@dataclass(eq=False)
class Object:
    """An instance in the pickle: what it would have been built from."""

    kind: str
    args: tuple[Any, ...]
    state: Any = None
    contents: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Storage:
    """A block of numbers in the file."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: a storage and how to look at it, checked to stay inside."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def below(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name lies below one of the packages."""
    return any(name.startswith(f"{package}.") for package in packages)


def hashable(value: Any) -> Any:
    """The value itself, once hashing it is known to be cheap and not to recurse."""
    parts = value if type(value) is tuple and len(value) <= 8 else (value,)
    for part in parts:
        small = type(part) is int and abs(part) < INT64
        if not (small or part is None or isinstance(part, (bool, str, bytes, float, Global, Object, View))):
            raise Refused(f"has {kind_of(part)} for a key, expected text or a number")
    return value


def counted(value: Any, what: str) -> int:
    """The value itself, once it is known to be a whole number that can count something."""
    if type(value) is not int or not 0 <= value < INT64:
        raise Damaged(f"{what} is {shown(value) if type(value) is int else kind_of(value)}, expected a count")
    return value


def shown(value: Any) -> str:
    """A name or number from the file, short and printable."""
    if not isinstance(value, str):
        value = str(value) if isinstance(value, int) and abs(value) < INT64 else kind_of(value)
    return ascii(value[:100])


def kind_of(value: Any) -> str:
    """What a value is, in words; its content may be endless."""
    if isinstance(value, (Object, Global)):
        return f"a {ascii((value.kind if isinstance(value, Object) else value.name)[:100])[1:-1]}"
    return {View: "a tensor", Storage: "a storage"}.get(type(value), f"a value of type {type(value).__name__}")
