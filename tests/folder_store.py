"""An object store in a local folder, with a clock that a test moves: what the rooms above are tested on."""

import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from jepawm.storage import store as store_module
from jepawm.storage.store import ObjectMissingError

START_S = 1_700_000_000.0


class Clock:
    """The clock of a store."""

    def __init__(self) -> None:
        self.now_s = START_S

    def move(self, seconds: float) -> None:
        self.now_s += seconds


class FolderStore:
    """An `ObjectStore`; objects appear by a hard link, which fails where the name is taken.

    Args:
        uri: What its messages say.
        root: Where the objects lie.
        waiting: Where they are written first; on the same disk.
        clock: Says when they were written.

    Attributes:
        requests: How many there were of each kind, for all stores that share the counter.
    """

    def __init__(self, uri: str, root: Path, waiting: Path, clock: Clock, requests: Counter[str] | None = None) -> None:
        self.uri = uri
        self.root = root
        self._waiting = waiting
        self._clock = clock
        self.requests: Counter[str] = Counter() if requests is None else requests
        self._lock = threading.Lock()

    def read(self, key: str) -> bytes:
        self._count("read")
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            raise ObjectMissingError(f"{self.uri}/{key}: there is no such object") from None

    def read_to(self, key: str, path: str) -> None:
        Path(path).write_bytes(self.read(key))

    def write(self, key: str, data: bytes) -> None:
        self._count("write")
        temporary = self._written(data)
        os.replace(temporary, self._place(key))

    def write_from(self, key: str, path: str) -> None:
        self.write(key, Path(path).read_bytes())

    def create(self, key: str, data: bytes) -> bool:
        self._count("create")
        temporary = self._written(data)
        try:
            os.link(temporary, self._place(key))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def keys(self, prefix: str) -> list[str]:
        self._count("list")
        found = (self.root / prefix).rglob("*") if (self.root / prefix).is_dir() else ()
        return sorted(path.relative_to(self.root).as_posix() for path in found if path.is_file())

    def folders(self) -> list[str]:
        self._count("list")
        found = [path for path in self.root.iterdir() if path.is_dir()] if self.root.is_dir() else []
        # A store has no empty folders.
        return sorted(path.name for path in found if any(each.is_file() for each in path.rglob("*")))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._count("delete")
            (self.root / key).unlink(missing_ok=True)

    def written_at_s(self, key: str) -> float:
        self._count("stat")
        try:
            return (self.root / key).stat().st_mtime
        except FileNotFoundError:
            raise ObjectMissingError(f"{self.uri}/{key}: there is no such object") from None

    def _place(self, key: str) -> Path:
        place = self.root / key
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _written(self, data: bytes) -> Path:
        self._waiting.mkdir(parents=True, exist_ok=True)
        path = self._waiting / uuid.uuid4().hex
        path.write_bytes(data)
        os.utime(path, (self._clock.now_s, self._clock.now_s))
        return path

    def _count(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1


@dataclass(frozen=True)
class Bucket:
    """What a test sees of the store behind `s3://bucket`."""

    root: Path
    clock: Clock
    requests: Counter[str]

    def store(self, path: str) -> FolderStore:
        return self.open(f"s3://bucket/{path}")

    def open(self, uri: str) -> FolderStore:
        place = self.root / "objects" / uri.partition("://")[2]
        return FolderStore(uri, place, self.root / "waiting", self.clock, self.requests)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """`s3://bucket/...` lies in a folder of the test."""
    found = Bucket(tmp_path / "store", Clock(), Counter())
    monkeypatch.setitem(store_module.OPENERS, "s3", found.open)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def on_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Bucket) -> Callable[[str], None]:
    """Moves the test to a machine of some name: each has its own working copies of the home `s3://bucket/home`."""

    def move(name: str) -> None:
        monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path / name))
        monkeypatch.setenv("JEPAWM_HOME", "s3://bucket/home")

    move("one")
    return move
