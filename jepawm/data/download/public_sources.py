"""The public datasets that `jepawm data list | get | verify` know; `public_sources.yaml` says what its keys mean."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from jepawm.config import home
from jepawm.errors import ConfigError, DataError, did_you_mean

MANIFEST = "public_sources.yaml"
UNVERIFIED = "unverified"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def is_below(path: str) -> bool:
    """Whether a relative path of `/` separated names stays below the folder that it starts from."""
    parts = PurePosixPath(path).parts
    return bool(path) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path


@dataclass(frozen=True)
class SourceFile:
    """One file, or one folder of a hub repository.

    Attributes:
        address: `https://...`, or `hf://datasets/OWNER/REPO/PATH[@REVISION]`.
        path: Where it goes, below the source's folder; ends in `/` for a folder.
        bytes: Its size, None where not known.
        sha256: Its checksum, 64 hexadecimal digits, None where not known.
        unpack: Folder that the archive's content goes into, None where it is not unpacked.
        count: How many files address and path stand for, None: one.
    """

    address: str
    path: str
    bytes: int | None
    sha256: str | None
    unpack: str | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        where = f"file '{self.path}'"
        if not self.address.startswith(("https://", "http://", "hf://datasets/")):
            raise ConfigError(
                f"{where}: address '{self.address}', expected https://... or hf://datasets/OWNER/REPO/PATH[@REVISION]"
            )
        for name, path in (("path", self.path), ("unpack", self.unpack)):
            if path is not None and not is_below(path):
                raise ConfigError(f"{where}: {name} '{path}' must lie below the source's folder")
        if self.is_folder != self.path.endswith("/"):
            raise ConfigError(f"{where}: address and path must both end in / (a folder), or neither")
        if self.is_folder and (self.bytes or self.sha256 or self.unpack or self.count):
            raise ConfigError(f"{where}: a folder has no bytes, sha256, unpack or count of its own")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ConfigError(f"{where}: sha256 '{self.sha256}', expected 64 hexadecimal digits")
        if self.bytes is not None and self.bytes < 1:
            raise ConfigError(f"{where}: bytes must be 1 or more, found {self.bytes}")
        if self.unpack is not None and not self.path.endswith(ARCHIVES):
            raise ConfigError(f"{where}: can be unpacked are {', '.join(ARCHIVES)}")
        numbered = ["{number" in text for text in (self.address, self.path)]
        if numbered != [self.count is not None] * 2:
            raise ConfigError(f"{where}: a count needs {{number}} in address and path, and {{number}} needs a count")
        if self.count is not None and (self.count < 1 or self.sha256 or self.unpack):
            raise ConfigError(f"{where}: a count is 1 or more, and numbered files share no sha256 and are not unpacked")

    @property
    def is_folder(self) -> bool:
        """Whether this item is a folder of a hub repository, with all its files."""
        return self.address.startswith("hf://") and self.address.partition("@")[0].endswith("/")

    def each(self) -> Iterator["SourceFile"]:
        """The single files of this item; a folder stays one item."""
        if self.count is None:
            yield self
            return
        for number in range(self.count):
            address, path = self.address.format(number=number), self.path.format(number=number)
            yield SourceFile(address, path, self.bytes, self.sha256)


@dataclass(frozen=True)
class Licence:
    """Terms under which data may be used.

    Attributes:
        name: SPDX name, or `unverified`.
        commercial_use: Whether it allows commercial use; None where nothing was seen.
        seen_in: Where that is said.
    """

    name: str
    commercial_use: bool | None
    seen_in: str


@dataclass(frozen=True)
class Citation:
    """The publication to cite.

    Attributes:
        authors: Names in the publication's order.
        title: Its title.
        arxiv: Number on arXiv, None where there is no paper there.
    """

    authors: str
    title: str
    arxiv: str | None

    def __str__(self) -> str:
        return f'{self.authors}, "{self.title}"' + (f", arXiv {self.arxiv}" if self.arxiv else "")


@dataclass(frozen=True)
class PublicSource:
    """A public dataset; the manifest's head says what each key means."""

    name: str
    about: str
    environment: str
    format: str | None
    opens: str | None
    licence: Licence
    citation: Citation
    homepage: str
    files: tuple[SourceFile, ...] = ()
    how: str | None = None
    approximate_bytes: int | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z0-9][a-z0-9-]*", self.name):
            raise ConfigError(f"source '{self.name}': a name is lower-case letters, digits and dashes")
        if bool(self.files) == bool(self.how):
            raise ConfigError(f"source '{self.name}': needs either files or how (what a person has to do)")
        paths = [file.path for file in self.files] + [file.unpack for file in self.files if file.unpack]
        twice = {path for path in paths if paths.count(path) > 1}
        if twice:
            raise ConfigError(f"source '{self.name}': two files would be written to '{min(twice)}'")

    @property
    def size(self) -> tuple[int | None, bool]:
        """`(bytes, exact)` of all files; bytes is None where nothing is known."""
        sizes = [file.bytes for file in self.files]
        if sizes and all(size is not None for size in sizes):
            return sum((size or 0) * (file.count or 1) for size, file in zip(sizes, self.files, strict=True)), True
        return self.approximate_bytes, False

    @property
    def folder(self) -> Path:
        """Default folder of its downloads."""
        return Path(home()) / "downloads" / self.name


@cache
def _manifest() -> tuple[str, tuple[PublicSource, ...]]:
    text = (resources.files("jepawm.data.download") / MANIFEST).read_text(encoding="utf-8")
    return read_manifest(text, MANIFEST)


def sources() -> tuple[PublicSource, ...]:
    """Every source of the manifest, in its order."""
    return _manifest()[1]


def hub_address() -> str:
    """Address behind `hf://`: `$HF_ENDPOINT`, else the manifest's hub."""
    return (os.environ.get("HF_ENDPOINT") or _manifest()[0]).rstrip("/")


def find(name: str) -> PublicSource:
    """A source by name.

    Raises:
        DataError: No such source; says which name is close.
    """
    known = {source.name: source for source in sources()}
    if name not in known:
        raise DataError(f"unknown public source '{name}'{did_you_mean(name, known)}; see them with: jepawm data list")
    return known[name]


def read_manifest(text: str, where: str) -> tuple[str, tuple[PublicSource, ...]]:
    """Reads a manifest strictly.

    Args:
        text: YAML.
        where: Named in errors.

    Returns:
        The hub's address and the sources.

    Raises:
        ConfigError: Not YAML, an unknown or missing key, a wrong type, a name twice, or a value that cannot be meant.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    _check_keys(data, {"hub": True, "sources": True}, where)
    if not isinstance(data["hub"], str) or urlsplit(data["hub"]).scheme not in ("https", "http"):
        raise ConfigError(f"{where}: hub is {data['hub']!r}, expected an address")
    if not isinstance(data["sources"], list):
        raise ConfigError(f"{where}: sources is {type(data['sources']).__name__}, expected a list")
    found: list[PublicSource] = []
    for number, item in enumerate(data["sources"]):
        name = item.get("name") if isinstance(item, dict) else None
        source = _build(PublicSource, item, f"{where}: source {name or number}")
        if source.name in {other.name for other in found}:
            raise ConfigError(f"{where}: source {source.name}: this name is there twice")
        found.append(source)
    return data["hub"], tuple(found)


_PARTS: dict[str, type] = {"licence": Licence, "citation": Citation}
_KINDS: dict[Any, tuple[type, ...]] = {
    str: (str,),
    int: (int,),
    str | None: (str, type(None)),
    int | None: (int, type(None)),
    bool | None: (bool, type(None)),
}


def _check_keys(data: Any, known: Mapping[str, bool], where: str) -> None:
    """`known`: whether each key must be there."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping, found {data!r}")
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{did_you_mean(str(key), known)}")
    for key, needed in known.items():
        if needed and key not in data:
            raise ConfigError(f"{where}: key '{key}' is missing (null where it is not known)")


def _build(cls: type, data: Any, where: str) -> Any:
    """A dataclass of this module from plain data; every key without a default must be there."""
    _check_keys(data, {item.name: item.default is MISSING for item in fields(cls)}, where)
    values: dict[str, Any] = {}
    for item in fields(cls):
        if item.name not in data:
            continue
        value = data[item.name]
        if item.name in _PARTS:
            value = _build(_PARTS[item.name], value, f"{where}: {item.name}")
        elif item.name == "files":
            if not isinstance(value, list):
                raise ConfigError(f"{where}: files is {type(value).__name__}, expected a list")
            value = tuple(_build(SourceFile, file, f"{where}: files[{i}]") for i, file in enumerate(value))
        else:
            kinds = _KINDS[item.type]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
                raise ConfigError(f"{where}: {item.name} is {value!r}, expected {expected}")
        values[item.name] = value
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
