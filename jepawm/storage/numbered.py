"""Numbered objects: an append-only list in an object store, of which several writers may each append the next one.

A number is created only once, so of two writers that append at the same time one succeeds and the other learns that it
must look again. Leases and manifests are such lists.

A number that is not needed any more is emptied first, so that it stays taken for a writer that read the list a while
ago, and deleted when hundreds of others have followed.
"""

import contextlib

from jepawm.storage.store import ObjectMissingError, ObjectStore

# Numbers that stay taken, though their objects are empty; a store lists 1,000 keys per request.
TAKEN = 500


class NumberedObjects:
    """Objects `PREFIX/00000001.json`, `PREFIX/00000002.json`, ...

    Args:
        store: Where they lie.
        prefix: First part of their keys, without a slash at its end.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def key(self, number: int) -> str:
        """The key of a number."""
        return f"{self._prefix}/{number:08d}.json"

    def numbers(self) -> list[int]:
        """Numbers that are there, in order."""
        names = (key.rpartition("/")[2] for key in self._store.keys(f"{self._prefix}/"))
        return sorted(int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdigit())

    def latest(self) -> tuple[int, bytes] | None:
        """The last number and its object; None where nothing was ever appended."""
        while True:
            numbers = self.numbers()
            if not numbers:
                return None
            with contextlib.suppress(ObjectMissingError):
                data = self._store.read(self.key(numbers[-1]))
                # An empty one was followed by several others meanwhile.
                if data:
                    return numbers[-1], data

    def append(self, number: int, data: bytes) -> bool:
        """Writes the next object; False where another writer took the number, or it is far behind the last one."""
        if not self._store.create(self.key(number), data):
            return False
        if number > self.numbers()[-1] - TAKEN:
            return True
        self._store.delete([self.key(number)])
        return False

    def overwrite(self, number: int, data: bytes) -> None:
        """Replaces an object of this writer's own."""
        self._store.write(self.key(number), data)

    def read(self, number: int) -> bytes:
        """The object of a number.

        Raises:
            ObjectMissingError: There is none.
        """
        return self._store.read(self.key(number))

    def written_at_s(self, number: int) -> float:
        """When the object of a number was last written, by the clock of the store."""
        return self._store.written_at_s(self.key(number))

    def forget(self, numbers: list[int]) -> None:
        """Empties objects that are not needed any more, and deletes those that are far behind the last one."""
        known = self.numbers()
        last = max(known, default=0)
        for number in numbers:
            if number > last - TAKEN:
                self._store.write(self.key(number), b"")
        self._store.delete(self.key(number) for number in known if number <= last - TAKEN)
