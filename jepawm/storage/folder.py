"""A stored folder: reads its last manifest, appends the next one, and removes what no manifest names any more."""

from collections.abc import Mapping

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
        self._seen: dict[int, Manifest] = {}

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
        _, after = self._append(changes, token)
        self._remember(after)
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
        before, after = self._append({}, token)
        return after, before.token

    def _append(self, changes: Mapping[str, StoredFile | None], token: int) -> tuple[Manifest, Manifest]:
        """Appends a manifest, and returns the one before it and the new one; see `commit`."""
        while True:
            before = self.manifest()
            if before.token > token:
                raise LeaseLostError(lost(self.uri, "another driver"))
            after = before.changed(changes, token)
            if self._manifests.append(after.number, after.to_bytes()):
                return before, after

    def remove_orphans(self) -> None:
        """Removes what a killed writer left and no manifest names; the caller holds the lease."""
        numbers = self._manifests.numbers()
        named = {file.key for number in numbers[-KEPT_MANIFESTS:] for file in self._read(number).files.values()}
        self.store.delete(key for key in self.store.keys(f"{FILES}/") if key not in named)
        self._manifests.forget(numbers[:-KEPT_MANIFESTS])

    def remove(self, token: int) -> None:
        """Deletes all files. A manifest without files stays, so that other machines learn that this was meant.

        Args:
            token: Number of the caller's lease.

        Raises:
            LeaseLostError: A later lease has written meanwhile.
        """
        last = self.commit(dict.fromkeys(self.manifest().files), token)
        self.store.delete(self.store.keys(f"{FILES}/"))
        self._manifests.forget(list(range(max(1, last.number - KEPT_MANIFESTS), last.number)))

    def _forget_older(self, last: Manifest) -> None:
        first_kept = last.number - KEPT_MANIFESTS + 1
        # A writer may have been killed before it forgot one or two; `remove_orphans` finds those of longer ago.
        old = [number for number in range(max(1, first_kept - KEPT_MANIFESTS), first_kept) if self._read(number).number]
        named = {
            file.key for number in range(first_kept, last.number + 1) for file in self._read(number).files.values()
        }
        gone = {file.key for number in old for file in self._read(number).files.values()} - named
        self.store.delete(sorted(gone))
        self._manifests.forget(old)
        for number in old:
            self._seen.pop(number, None)

    def _read(self, number: int) -> Manifest:
        """A manifest by its number; an empty one where it was forgotten."""
        if number in self._seen:
            return self._seen[number]
        try:
            data = self._manifests.read(number) if number > 0 else b""
        except ObjectMissingError:
            data = b""
        return self._parsed(number, data) if data else Manifest()

    def _parsed(self, number: int, data: bytes) -> Manifest:
        manifest = Manifest.from_bytes(data, number, f"{self.uri}/{self._manifests.key(number)}")
        self._remember(manifest)
        return manifest

    def _remember(self, manifest: Manifest) -> None:
        """Keeps a manifest, which never changes, so that it is not read again."""
        self._seen[manifest.number] = manifest
        for number in sorted(self._seen)[: -2 * KEPT_MANIFESTS]:
            self._seen.pop(number, None)
