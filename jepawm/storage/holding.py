"""Holding a stored folder: its lease, its working copy, and the threads that renew the one and push the other."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from filelock import Timeout

from jepawm.config.places import local_path, uri_of
from jepawm.errors import JepawmError, StorageError
from jepawm.storage.folder import StoredFolder
from jepawm.storage.lease import FolderBusyError, Lease, LeaseLostError, interval_s
from jepawm.storage.mirror import Mirror, Wanted, everything, mirror_id
from jepawm.storage.store import open_store

Say = Callable[[str], None]

# Folders that this process holds, by the path of their working copies.
_held: dict[str, "HeldFolder"] = {}


@dataclass(frozen=True)
class Permit:
    """What a process on another machine needs to write into a folder that a driver holds.

    Attributes:
        uri: Of the folder.
        token: Number of the driver's lease.
        mirror: Identity of the driver's working copies.
    """

    uri: str
    token: int
    mirror: str


class HeldFolder:
    """A stored folder that this process may write, or that its driver may.

    Args:
        mirror: The working copy.
        token: Number of the lease.
        say: Told a line where the store does not answer.
        lease: The lease; None: another process holds and renews it.

    Attributes:
        mirror: The working copy.
        token: Number of the lease.
        is_removed: Whether the folder was deleted from its store meanwhile.
    """

    def __init__(self, mirror: Mirror, token: int, say: Say, lease: Lease | None = None) -> None:
        self.mirror = mirror
        self.token = token
        self.is_removed = False
        self._pusher = _Repeated(self.push, say)
        # The lease is renewed while the folder is pulled and until its last push has ended.
        self._renewer = None if lease is None else _Repeated(lease.renew, say)

    @property
    def permit(self) -> Permit:
        """What lets a worker of this driver write into the folder."""
        return Permit(self.mirror.folder.uri, self.token, mirror_id())

    def push(self) -> None:
        """Uploads what changed since the last push.

        Raises:
            LeaseLostError: Another driver has taken the folder over.
            StorageError: The store does not answer.
        """
        self.mirror.push(self.token)

    def push_if_possible(self) -> None:
        """`push`, but a store that does not answer now is tried again at the next one.

        Raises:
            LeaseLostError: Another driver has taken the folder over.
        """
        try:
            self.push()
        except LeaseLostError:
            raise
        except (StorageError, OSError) as error:
            self._pusher.complain(f"WARNING: {error}; trying again every {interval_s():g} s")

    def start_renewing(self) -> None:
        """Begins to renew the lease every `interval_s`."""
        if self._renewer is not None:
            self._renewer.start()

    def start_pushing(self) -> None:
        """Begins to push every `interval_s`."""
        self._pusher.start()

    def stop_pushing(self) -> None:
        """Ends the pushes; one that is under way ends first."""
        self._pusher.stop()

    def stop_renewing(self) -> None:
        """Ends the renewals."""
        if self._renewer is not None:
            self._renewer.stop()

    def remove(self) -> None:
        """Deletes the folder from its store; nothing is pushed any more."""
        self.stop_pushing()
        self.is_removed = True
        self.mirror.folder.remove(self.token)


class _Repeated:
    """Calls a function every `interval_s` in a thread, and says once where it fails."""

    def __init__(self, work: Callable[[], None], say: Say) -> None:
        self._work, self._say = work, say
        self._stop = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._repeat, name="stored-folder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _repeat(self) -> None:
        # A renewal may fail once or twice before the lease is over.
        while not self._stop.wait(interval_s()):
            try:
                self._work()
                self._complained = False
            except LeaseLostError as error:
                self.complain(f"WARNING: {error}")
                return
            except (JepawmError, OSError) as error:
                # The store may answer again; what is not stored yet is pushed then.
                self.complain(f"WARNING: {error}; trying again every {interval_s():g} s")

    def complain(self, text: str) -> None:
        if not self._complained and not self._stop.is_set():
            self._complained = True
            self._say(f"   {text}")


@contextlib.contextmanager
def held(
    path: str, say: Say = lambda text: None, *, wanted: Wanted = everything, waits: bool = False
) -> Iterator[HeldFolder | None]:
    """Holds the stored folder that a local path stands for; any other path costs nothing.

    At the beginning its files are pulled, so that this machine goes on with what another one left. While the block
    lasts, changes are pushed every `lease.interval_s`, and at the end once more.

    Args:
        path: Of the working copy.
        say: Told a line where something takes longer or the store does not answer.
        wanted: Which files this machine needs; the others stay in the store.
        waits: Wait while another driver holds the folder, instead of refusing.

    Yields:
        The folder; None where the path stands for no URI.

    Raises:
        FolderBusyError: Another driver holds the folder.
        LeaseLostError: Another driver has taken the folder over meanwhile.
        StorageError: The store does not answer; what was not pushed stays in the working copy.
    """
    uri = uri_of(path)
    above = holder_above(path)
    if uri is None or above is not None:
        # A folder inside one that is held belongs to it: the rounds of an improvement, the base of a run.
        yield above
        return
    mirror = Mirror(os.path.abspath(path), StoredFolder(open_store(uri)), say)
    try:
        lock = mirror.work_lock(timeout=-1 if waits else 1.0).acquire()
    except Timeout:
        raise FolderBusyError(
            f"{uri} is in use by another process on this machine; wait for it, stop it, or choose another folder"
        ) from None
    with lock:
        lease = _take(mirror, say, waits)
        folder = HeldFolder(mirror, lease.token, say, lease)
        try:
            folder.start_renewing()
            # A reader of this machine that pulls now ends first.
            with mirror.file_lock():
                manifest, written_by = mirror.folder.fence(lease.token)
                mirror.path.mkdir(parents=True, exist_ok=True)
                mirror.pull(manifest, written_by=written_by, wanted=wanted)
            if lease.took_over:
                mirror.folder.remove_orphans()
            _held[str(mirror.path)] = folder
            folder.start_pushing()
            yield folder
        except BaseException:
            folder.stop_pushing()
            # A working copy that was not pulled whole is no state of the folder.
            if _held.get(str(mirror.path)) is folder:
                _push_anyway(folder, say)
            raise
        else:
            folder.stop_pushing()
            if mirror.path.is_dir() and not folder.is_removed:
                folder.push()
        finally:
            _held.pop(str(mirror.path), None)
            folder.stop_renewing()
            with contextlib.suppress(StorageError):
                # Without an answer the lease ends by itself.
                lease.release()


@contextlib.contextmanager
def joined(permit: Permit | None, say: Say = lambda text: None) -> Iterator[HeldFolder | None]:
    """Writes into a folder that the driver of this worker holds; on the driver's machine the driver itself pushes.

    Args:
        permit: Of the driver; None: the folder is no stored one.
        say: Told a line where the store does not answer.

    Yields:
        The folder, where this process pushes.
    """
    if permit is None or permit.mirror == mirror_id():
        yield None
        return
    folder = HeldFolder(Mirror(local_path(permit.uri), StoredFolder(open_store(permit.uri))), permit.token, say)
    folder.mirror.path.mkdir(parents=True, exist_ok=True)
    folder.start_pushing()
    try:
        yield folder
    except BaseException:
        folder.stop_pushing()
        _push_anyway(folder, say)
        raise
    folder.stop_pushing()
    folder.push()


def holder_above(path: str) -> HeldFolder | None:
    """The folder that this process holds and that a path lies in."""
    inside = os.path.abspath(path)
    return next(
        (each for place, each in _held.items() if inside == place or inside.startswith(f"{place}{os.sep}")), None
    )


def remove_stored(path: str) -> None:
    """Deletes the stored folder that this process holds at a path; nothing happens for a plain path."""
    folder = _held.get(os.path.abspath(path))
    if folder is not None:
        folder.remove()


def permit_for(path: str) -> Permit | None:
    """What lets workers write into the folder that this process holds around a path; None for a plain path."""
    folder = holder_above(path)
    return None if folder is None else folder.permit


def _take(mirror: Mirror, say: Say, waits: bool) -> Lease:
    told = False
    while True:
        try:
            return Lease.take(mirror.folder.store, mirror_id(), say=lambda text: say(f"   {text}"))
        except FolderBusyError as error:
            if not waits:
                raise
            if not told:
                say(f"   {error.args[0].partition(';')[0]}; waiting for it")
                told = True


def _push_anyway(folder: HeldFolder, say: Say) -> None:
    """Pushes on the way out of an error, which goes first."""
    if folder.is_removed or not folder.mirror.path.is_dir():
        return
    try:
        folder.push()
    except (JepawmError, OSError) as error:
        say(f"   WARNING: the last changes are not stored: {error}; they stay in {folder.mirror.path}")


def where(path: str) -> str:
    """A path as messages name it: by its URI where it stands for one."""
    return uri_of(path) or path
