"""A stored folder: reads its last manifest, appends the next one, and removes what no manifest names any more."""

from collections.abc import Mapping

from jepawm.errors import StorageError
from jepawm.storage.lease import LeaseLostError, lost
from jepawm.storage.manifest import FILES, Manifest, StoredFile
from jepawm.storage.numbered import NumberedObjects
from jepawm.storage.store import ObjectMissingError, ObjectStore

MANIFESTS = ".jepawm/manifests"
# Manifests that stay, with their objects: a reader that began with one may still finish.
KEPT_MANIFESTS = 3


class StoredFolder:
    """The folder at a URI.

    Args:
        store: Its store.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._manifests = NumberedObjects(store, MANIFESTS)

    @property
    def uri(self) -> str:
        """Where it lies."""
        return self.store.uri

    def manifest(self) -> Manifest:
        """The last manifest; an empty one with number 0 where nothing was stored.

        Raises:
            StorageError: The store does not answer, or the manifest cannot be read.
        """
        latest = self._manifests.latest()
        return Manifest() if latest is None else self._parsed(*latest)

    def commit(self, changes: Mapping[str, StoredFile | None], token: int) -> Manifest:
        """Appends a manifest; where another writer under the same lease was faster, once more on top of theirs.

        Args:
            changes: Path -> its new file, whose object is there already, or None where it was removed.
            token: Number of the writer's lease.

        Returns:
            The new manifest.

        Raises:
            LeaseLostError: A later lease has written meanwhile.
        """
        while True:
            before = self.manifest()
            if before.token > token:
                raise LeaseLostError(lost(self.uri, "another driver"))
            after = before.changed(changes, token)
            if self._manifests.append(after.number, after.to_bytes()):
                self._forget_older(after)
                return after

    def fence(self, token: int) -> tuple[Manifest, int]:
        """Appends the same files under a new lease: from here on, drivers with an older one cannot write.

        Args:
            token: Number of the new lease.

        Returns:
            The new manifest, and the number of the lease that its files come from.

        Raises:
            LeaseLostError: A later lease has written meanwhile.
        """
        while True:
            before = self.manifest()
            if before.token > token:
                raise LeaseLostError(lost(self.uri, "another driver"))
            after = before.changed({}, token)
            if self._manifests.append(after.number, after.to_bytes()):
                return after, before.token

    def remove_orphans(self) -> None:
        """Removes objects that a killed writer left and that no manifest names; the caller holds the lease."""
        named = {file.key for number in self._manifests.numbers() for file in self._read(number).files.values()}
        self.store.delete(key for key in self.store.keys(f"{FILES}/") if key not in named)

    def remove(self) -> None:
        """Deletes everything; the manifests first, so that no reader takes the rest for a folder."""
        self._manifests.delete(self._manifests.numbers())
        self.store.delete(self.store.keys(f"{FILES}/"))
        self.store.delete(self.store.keys(".jepawm/"))

    def _forget_older(self, last: Manifest) -> None:
        numbers = [number for number in self._manifests.numbers() if number <= last.number]
        old, kept = numbers[:-KEPT_MANIFESTS], numbers[-KEPT_MANIFESTS:]
        if not old:
            return
        named = {file.key for number in kept for file in self._read(number).files.values()}
        gone = {file.key for number in old for file in self._read(number).files.values()} - named
        self.store.delete(sorted(gone))
        self._manifests.delete(old)

    def _read(self, number: int) -> Manifest:
        try:
            return self._parsed(number, self._manifests.read(number))
        except ObjectMissingError:
            # Another writer of the same lease removed it.
            return Manifest()

    def _parsed(self, number: int, data: bytes) -> Manifest:
        return Manifest.from_bytes(data, number, f"{self.uri}/{self._manifests.key(number)}")


def check_found(folder: StoredFolder, manifest: Manifest) -> None:
    """Refuses a folder in which nothing is stored.

    Raises:
        StorageError: Says where nothing is.
    """
    if manifest.number == 0:
        raise StorageError(f"there is nothing at {folder.uri}; `jepawm runs list` names the runs of $JEPAWM_HOME")
