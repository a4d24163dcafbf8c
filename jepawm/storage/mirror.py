"""The working copy of a stored folder: pulls what the manifest names, and pushes what changed here.

What this machine knows of the folder is kept beside all working copies, not in them:

```
MIRRORS/.state/SERVICE/BUCKET/PATH/
  record.json    the last manifest seen, and size and time of each file when it equalled the store's
  lock           held by a process while it pulls
  work           held by the process that holds the folder and works in the copy
```
"""

import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from jepawm.config.places import mirrors_dir
from jepawm.errors import StorageError
from jepawm.files import atomic_file, write_json
from jepawm.storage.folder import StoredFolder
from jepawm.storage.manifest import Manifest, StoredFile, new_key
from jepawm.storage.store import ObjectMissingError, for_each

# Files up to this size are read once, so that a file that grows meanwhile is pushed as one of its states.
_READ_AT_ONCE = 8 * 2**20
# From this size on, a download is announced.
_MUCH = 64 * 2**20
# Looks at a folder whose files change while they are pushed, and new manifests that a reader follows.
_MOST_LOOKS = 5

Wanted = Callable[[str], bool]


def everything(path: str) -> bool:
    """Wants every file of a folder."""
    return True


@dataclass(frozen=True)
class Known:
    """A file of the working copy when it last equalled the store's.

    Attributes:
        file: Of the store.
        size: Bytes.
        mtime_ns: Time of its last change here.
    """

    file: StoredFile
    size: int
    mtime_ns: int

    def fits(self, stat: os.stat_result) -> bool:
        """Whether the file was not written since."""
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass
class Record:
    """What this machine knows of a stored folder.

    Attributes:
        manifest: The last one seen.
        known: Files of the working copy that equalled the store's.
    """

    manifest: Manifest = field(default_factory=Manifest)
    known: dict[str, Known] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes the record."""
        told = json.loads(self.manifest.to_bytes())
        known = {name: [asdict(each.file), each.size, each.mtime_ns] for name, each in self.known.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"number": self.manifest.number, "manifest": told, "known": known})

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Reads a record; an empty one where there is none.

        Raises:
            StorageError: The file is damaged.
        """
        if not path.is_file():
            return cls()
        try:
            told = json.loads(path.read_text("utf-8"))
            manifest = Manifest.from_bytes(json.dumps(told["manifest"]).encode(), told["number"], str(path))
            known = {
                name: Known(StoredFile(**file), size, mtime_ns)
                for name, (file, size, mtime_ns) in told["known"].items()
            }
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"{path} is damaged ({error!r}); delete it, and the files are compared anew") from error
        return cls(manifest, known)


def mirror_id() -> str:
    """Identity of the working copies of this machine; processes that share a cache folder share it."""
    path = Path(mirrors_dir(), ".state", "id")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                with atomic_file(path) as temporary:
                    temporary.write_text(uuid.uuid4().hex)
    return path.read_text()


def state_dir(path: str | os.PathLike[str]) -> Path:
    """Where the state of a working copy is kept."""
    return Path(mirrors_dir(), ".state", os.path.relpath(os.path.abspath(path), mirrors_dir()))


class Mirror:
    """The working copy of a stored folder.

    Args:
        path: Of the working copy.
        folder: The stored folder.
        say: Told a line before much is downloaded.
    """

    def __init__(self, path: str, folder: StoredFolder, say: Callable[[str], None] = lambda text: None) -> None:
        self.path = Path(path)
        self.folder = folder
        self._say = say
        self._record_path = state_dir(path) / "record.json"
        # A push of one thread ends before that of another begins.
        self._lock = threading.Lock()

    def file_lock(self, timeout: float = -1) -> FileLock:
        """The lock of a process that pulls; not acquired yet.

        Args:
            timeout: How long acquiring waits, seconds; negative: for ever.
        """
        place = state_dir(self.path)
        place.mkdir(parents=True, exist_ok=True)
        return FileLock(place / "lock", timeout=timeout)

    def work_lock(self, timeout: float) -> FileLock:
        """The lock of the process that holds the folder and works in the copy; not acquired yet.

        Args:
            timeout: How long acquiring waits, seconds; negative: for ever.
        """
        place = state_dir(self.path)
        place.mkdir(parents=True, exist_ok=True)
        return FileLock(place / "work", timeout=timeout)

    def is_worked_in(self) -> bool:
        """Whether a process of this machine works in the copy, which is then ahead of the store."""
        try:
            with self.work_lock(timeout=0):
                return False
        except Timeout:
            return True

    def last_seen(self) -> Manifest:
        """The manifest at the last pull or push."""
        return Record.load(self._record_path).manifest

    def pull(self, manifest: Manifest, *, written_by: int | None = None, wanted: Wanted = everything) -> None:
        """Makes the copy equal to a manifest; the caller holds the file lock.

        Where the manifest comes from the same lease as the last one seen, no other driver has written, and what changed
        here since then is newer: it stays. Otherwise the store is right, and what is here alone is removed.

        Args:
            manifest: The last one.
            written_by: Lease that its files come from; None: its own token.
            wanted: Which files are downloaded; others that are out of date are removed.

        Raises:
            StorageError: The store does not answer, or an object is not what the manifest says.
        """
        with self._lock:
            for _ in range(_MOST_LOOKS):
                try:
                    return self._pull(manifest, manifest.token if written_by is None else written_by, wanted)
                except ObjectMissingError:
                    # The driver that holds the folder has written newer manifests and removed old objects.
                    newer = self.folder.manifest()
                    if newer.number == manifest.number:
                        raise
                    manifest, written_by = newer, None
            raise StorageError(f"{self.folder.uri} changes faster than it can be read; try again")

    def follow(self, manifest: Manifest, wanted: Wanted) -> None:
        """Takes over what other processes of the same lease wrote; files that were written here stay."""
        with self._lock:
            record = Record.load(self._record_path)
            manifest = self._not_older(manifest, record)
            missing = []
            for name, file in manifest.files.items():
                stat, known = self._stat(name), record.known.get(name)
                from_here = stat is not None and (known is None or not known.fits(stat))
                up_to_date = stat is not None and known is not None and known.file.sha256 == file.sha256
                if wanted(name) and not from_here and not up_to_date:
                    missing.append(name)
            for_each(lambda name: self._download(name, manifest.files[name], record), missing)
            for name in [name for name in record.known if name not in manifest.files]:
                stat = self._stat(name)
                if stat is not None and record.known[name].fits(stat):
                    self._unlink(name)
                record.known.pop(name)
            record.manifest = manifest
            record.save(self._record_path)

    def push(self, token: int) -> bool:
        """Uploads what changed here since the last pull or push, and commits it as one state.

        Files under temporary names (`.tmp`) and locks stay here.

        Args:
            token: Number of the lease.

        Returns:
            Whether anything had changed.

        Raises:
            LeaseLostError: Another driver has taken the folder over.
            StorageError: The store does not answer.
        """
        with self._lock:
            if not self.path.is_dir():
                raise StorageError(
                    f"{self.path}, the working copy of {self.folder.uri}, was removed while it is in use"
                )
            record = Record.load(self._record_path)
            changes: dict[str, StoredFile | None] = {}
            pushed: dict[str, Known] = {}
            here: set[str] = set()
            for _ in range(_MOST_LOOKS):
                here = set(self._names())
                # What is written again meanwhile (metrics) is left to the next push; what is new belongs to this state.
                changed = [name for name in here - pushed.keys() if self._has_changed(name, record.known.get(name))]
                if not changed:
                    break
                for_each(lambda name: self._upload(name, pushed), sorted(changed))
            # A file that was removed while others were uploaded is removed in this state as well.
            pushed = {name: known for name, known in pushed.items() if name in here}
            changes |= {name: known.file for name, known in pushed.items()}
            changes |= {name: None for name in record.known if name not in here}
            if not changes:
                return False
            record.manifest = self.folder.commit(changes, token)
            record.known = {name: known for name, known in {**record.known, **pushed}.items() if name in here}
            record.save(self._record_path)
            return True

    def clear(self, manifest: Manifest) -> None:
        """Deletes the working copy of a folder that was removed; the caller holds the file lock.

        Args:
            manifest: The last one, which names no file.
        """
        with self._lock:
            shutil.rmtree(self.path, ignore_errors=True)
            Record(manifest).save(self._record_path)

    # -- one file ----------------------------------------------------------------------------------------------------

    def _pull(self, manifest: Manifest, written_by: int, wanted: Wanted) -> None:
        record = Record.load(self._record_path)
        newer = self._not_older(manifest, record)
        if newer.number > manifest.number:
            manifest, written_by = newer, newer.token
        if written_by == 0:
            # Nothing is stored. Where something was, the store has lost it, and the next push brings it back.
            Record(manifest).save(self._record_path)
            return
        is_ours = record.manifest.token == written_by
        if is_ours:
            # Also where a download fails below: what was written here is still newer than the store's.
            record.manifest = manifest
        missing = []
        for name, file in manifest.files.items():
            stat, known = self._stat(name), record.known.get(name)
            if stat is not None and known is not None and known.fits(stat):
                same = known.file.sha256 == file.sha256
            elif stat is None:
                # A person who deletes a working copy frees space: the next push deletes nothing in the store for that.
                record.known.pop(name, None)
                same = False
            else:
                same = is_ours or (stat.st_size == file.size and _sha256(self.path / name) == file.sha256)
                if same and not is_ours:
                    record.known[name] = Known(file, stat.st_size, stat.st_mtime_ns)
            if same:
                continue
            if wanted(name):
                missing.append(name)
            elif stat is not None:
                self._unlink(name)
                record.known.pop(name, None)
        for name in self._names():
            stat, known = self._stat(name), record.known.get(name)
            unchanged = known is not None and stat is not None and known.fits(stat)
            if name not in manifest.files and (not is_ours or unchanged):
                self._unlink(name)
        for name in [name for name in record.known if name not in manifest.files]:
            record.known.pop(name)
        size = sum(manifest.files[name].size for name in missing)
        if size >= _MUCH:
            self._say(
                f"   {size / 2**30:.2f} GiB in {len(missing)} files of {self.folder.uri} are fetched to {self.path}"
            )
        try:
            for_each(lambda name: self._download(name, manifest.files[name], record), missing)
            record.manifest = manifest
        finally:
            record.save(self._record_path)

    def _not_older(self, manifest: Manifest, record: Record) -> Manifest:
        """The manifest, or the last one where this machine has pushed since the manifest was read."""
        return self.folder.manifest() if manifest.number < record.manifest.number else manifest

    def _download(self, name: str, file: StoredFile, record: Record) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: another thread of this process may write the file at the same time.
        temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
        try:
            self.folder.store.read_to(file.key, str(temporary))
            found = _sha256(temporary)
            if found != file.sha256:
                raise StorageError(
                    f"{self.folder.uri}/{file.key} is damaged: its SHA-256 is {found}, the manifest says {file.sha256}"
                )
            os.utime(temporary, (file.modified_s, file.modified_s))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        stat = path.stat()
        record.known[name] = Known(file, stat.st_size, stat.st_mtime_ns)

    def _upload(self, name: str, pushed: dict[str, Known]) -> None:
        path = self.path / name
        try:
            stat = path.stat()
            if stat.st_size <= _READ_AT_ONCE:
                data = path.read_bytes()
                size, sha256 = len(data), hashlib.sha256(data).hexdigest()
                file = StoredFile(new_key(name, sha256), size, sha256, stat.st_mtime)
                self.folder.store.write(file.key, data)
            else:
                file = self._put(name, path, stat.st_mtime)
                after = path.stat()
                if (after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
                    # It was written meanwhile, as long metrics are all the time: a copy is one of its states.
                    self.folder.store.delete([file.key])
                    copy = state_dir(self.path) / f"copy-{uuid.uuid4().hex}"
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        shutil.copyfile(path, copy)
                        file = self._put(name, copy, stat.st_mtime)
                    finally:
                        copy.unlink(missing_ok=True)
        except FileNotFoundError:
            # It was removed meanwhile.
            return
        pushed[name] = Known(file, stat.st_size, stat.st_mtime_ns)

    def _put(self, name: str, source: Path, modified_s: float) -> StoredFile:
        sha256 = _sha256(source)
        file = StoredFile(new_key(name, sha256), source.stat().st_size, sha256, modified_s)
        self.folder.store.write_from(file.key, str(source))
        return file

    def _has_changed(self, name: str, known: Known | None) -> bool:
        stat = self._stat(name)
        return stat is not None and (known is None or not known.fits(stat))

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return (self.path / name).stat()
        except OSError:
            return None

    def _unlink(self, name: str) -> None:
        path = self.path / name
        path.unlink(missing_ok=True)
        # Empty folders go as well: a store has none.
        while path.parent != self.path and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()

    def _names(self) -> Iterator[str]:
        """Paths of all files that belong into the store."""
        for place, folders, files in os.walk(self.path):
            folders[:] = sorted(name for name in folders if ".tmp" not in name)
            for name in files:
                if ".tmp" not in name and not name.endswith(".lock"):
                    yield os.path.relpath(os.path.join(place, name), self.path).replace(os.sep, "/")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
