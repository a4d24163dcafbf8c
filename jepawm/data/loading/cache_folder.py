"""The folder of a node that holds decoded copies of datasets: its size limit, and which copy goes first.

Each copy is a folder with a file `cache.json`. Its modification time says when the copy was last opened, and each
process that uses the copy holds a shared lock on it, so that a copy in use is never removed.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from jepawm.config.checks import positive_variable
from jepawm.errors import DataError

ABOUT_FILE = "cache.json"
LIMIT_VARIABLE = "JEPAWM_CACHE_LIMIT_GIB"
DEFAULT_LIMIT_GIB = 100.0
_UNFINISHED = ".tmp"
_LOCK = ".lock"


def default_cache_root() -> Path:
    """`$JEPAWM_CACHE`, or `~/.cache/jepawm/frames`. Put it on a local disk."""
    chosen = os.environ.get("JEPAWM_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "jepawm" / "frames"


def cache_limit_bytes() -> float:
    """Largest size of all copies together: `$JEPAWM_CACHE_LIMIT_GIB`, or 100 GiB.

    Raises:
        ConfigError: The variable is no positive number.
    """
    return positive_variable(LIMIT_VARIABLE, DEFAULT_LIMIT_GIB, "GiB") * 2**30


@dataclass(frozen=True)
class CacheEntry:
    """One copy.

    Attributes:
        path: Its folder.
        dataset: Name of the dataset; empty where a kill left the copy unfinished.
        nbytes: Size on disk, bytes.
        used_at_s: When it was last opened, seconds since 1970.
        in_use: Whether a process uses it, or fills it.
    """

    path: Path
    dataset: str
    nbytes: int
    used_at_s: float
    in_use: bool


class CacheFolder:
    """All copies in one folder.

    Args:
        root: The folder, which need not exist; `default_cache_root()` by default.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = default_cache_root() if root is None else Path(root)

    def lock_to_fill(self, name: str) -> FileLock:
        """The lock that a process holds while it fills a copy."""
        return FileLock(self.root / f"{name}{_LOCK}")

    def entries(self) -> list[CacheEntry]:
        """Every copy, the least recently used first."""
        if not self.root.is_dir():
            return []
        found = [self._entry(path) for path in self.root.iterdir() if path.is_dir()]
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.used_at_s)

    def make_room(self, needed: int, what: str) -> None:
        """Removes copies, the least recently used first, until another one fits under the limit and on the disk.

        Args:
            needed: Size of the new copy, bytes.
            what: What is copied, for messages.

        Raises:
            DataError: The new copy is larger than the limit, or too little is free when all unused copies are gone.
        """
        limit = cache_limit_bytes()
        where = f"{self.root}: the frame cache of {what} needs {_gib(needed)} GiB"
        elsewhere = "keep fewer episodes, or read the shards directly (--data.loader shards)"
        if needed > limit:
            raise DataError(f"{where}, the limit is {_gib(limit)} GiB; raise {LIMIT_VARIABLE}, {elsewhere}")
        entries = self.entries()
        while True:
            held, free = sum(entry.nbytes for entry in entries), shutil.disk_usage(self.root).free
            if held + needed <= limit and needed <= free:
                return
            unused = next((entry for entry in entries if not entry.in_use), None)
            if unused is None:
                raise DataError(
                    f"{where}, {_gib(free)} GiB are free and {_gib(held)} of at most {_gib(limit)} GiB are in use; set "
                    f"JEPAWM_CACHE to a larger local disk, raise {LIMIT_VARIABLE}, {elsewhere}"
                )
            self._remove(unused)
            entries.remove(unused)

    def clear(self, names: Sequence[str] = ()) -> tuple[list[CacheEntry], list[CacheEntry]]:
        """Removes copies.

        Args:
            names: Names of their folders; all by default.

        Returns:
            The copies that are gone, and those that a process uses and that stay.

        Raises:
            DataError: There is no copy of a name.
        """
        entries = self.entries()
        known = {entry.path.name for entry in entries}
        for name in names:
            if name not in known:
                raise DataError(f"{self.root}: there is no copy {name}; `jepawm data cache list` names them")
        gone: list[CacheEntry] = []
        kept: list[CacheEntry] = []
        for entry in entries:
            if not names or entry.path.name in names:
                (gone if self._remove(entry) else kept).append(entry)
        return gone, kept

    def _entry(self, path: Path) -> CacheEntry | None:
        about = path / ABOUT_FILE
        try:
            facts = json.loads(about.read_text("utf-8")) if about.is_file() else {}
            used_at_s = (about if about.is_file() else path).stat().st_mtime
            nbytes = sum(file.stat().st_blocks * 512 for file in path.iterdir())
        except (OSError, ValueError):
            # Removed by another process meanwhile, or no copy of ours.
            return None
        if not facts and not path.name.endswith(_UNFINISHED):
            return None
        return CacheEntry(path, str(facts.get("dataset", "")), nbytes, used_at_s, self._in_use(path))

    def _in_use(self, path: Path) -> bool:
        if path.name.endswith(_UNFINISHED):
            return not self._fill_is_over(path)
        with contextlib.suppress(FileNotFoundError), _alone(path) as alone:
            return not alone
        return False

    def _fill_is_over(self, path: Path) -> bool:
        lock = self.lock_to_fill(path.name.removesuffix(_UNFINISHED))
        try:
            with lock.acquire(timeout=0):
                return True
        except Timeout:
            return False

    def _remove(self, entry: CacheEntry) -> bool:
        """Removes a copy unless a process uses it; it is gone for others at once."""
        if entry.path.name.endswith(_UNFINISHED):
            if self._fill_is_over(entry.path):
                shutil.rmtree(entry.path, ignore_errors=True)
                return True
            return False
        try:
            with _alone(entry.path) as alone:
                if not alone:
                    return False
                gone = entry.path.with_name(f"{entry.path.name}-gone-{os.getpid()}{_UNFINISHED}")
                os.replace(entry.path, gone)
        except FileNotFoundError:
            return True
        shutil.rmtree(gone, ignore_errors=True)
        return True


def hold(path: Path) -> IO[bytes]:
    """Marks a copy as used now, and as in use until the returned file is closed.

    Raises:
        FileNotFoundError: The copy is gone, or went while it was opened.
    """
    about = path / ABOUT_FILE
    file = open(about, "rb")  # noqa: SIM115 - the caller keeps it open
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(about)):
            raise FileNotFoundError(about)
        os.utime(about)
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Locks a copy for this process alone; yields whether no other process uses it."""
    with open(path / ABOUT_FILE, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
