"""An object store: whole objects under keys, and one promise that folders do not need: creating a key only once.

Libraries of the providers are imported when a URI is opened, never before.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from jepawm.config.places import checked_uri
from jepawm.errors import MissingDependencyError, StorageError, first_line, require

# Requests that are under way at a time.
PARALLEL = 8
# Variables whose values never appear in a message.
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS")
# Scheme: the package that opens it, and the extra of jepawm that brings the package.
_PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}


class ObjectMissingError(StorageError):
    """There is no object under a key."""


class ObjectStore(Protocol):
    """Objects below one URI. Keys are relative to it, with `/` between their parts.

    An object appears whole or not at all, and a read or list after a write shows the write: S3 and Google Cloud Storage
    promise both.

    Attributes:
        uri: Where all keys begin.
    """

    uri: str

    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            ObjectMissingError: There is none.
        """
        ...

    def read_to(self, key: str, path: str) -> None:
        """Writes an object into a local file.

        Raises:
            ObjectMissingError: There is none.
        """
        ...

    def write(self, key: str, data: bytes) -> None:
        """Writes an object, replacing an older one."""
        ...

    def write_from(self, key: str, path: str) -> None:
        """Writes an object from a local file."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Writes an object unless there is one; of several that create one key at once, exactly one succeeds.

        Returns:
            Whether this call wrote it.
        """
        ...

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix that ends with `/`, sorted."""
        ...

    def folders(self) -> list[str]:
        """First parts of the keys that have several, sorted."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects; those that are not there are passed over."""
        ...

    def written_at_s(self, key: str) -> float:
        """When an object was last written, by the clock of the store, seconds since 1970.

        Raises:
            ObjectMissingError: There is none.
        """
        ...


class FsspecStore:
    """An `ObjectStore` on a file system of `fsspec`.

    Args:
        uri: Where all keys begin.
        filesystem: The file system; its `pipe_file` knows `mode="create"`.
        root: The bucket and path of the URI, as the file system writes them.
    """

    def __init__(self, uri: str, filesystem: Any, root: str) -> None:
        self.uri = uri
        self._files = filesystem
        self._root = root.rstrip("/")

    def read(self, key: str) -> bytes:
        with self._told(key, reads=True):
            return bytes(self._files.cat_file(self._path(key)))

    def read_to(self, key: str, path: str) -> None:
        with self._told(key, reads=True):
            self._files.get_file(self._path(key), path)

    def write(self, key: str, data: bytes) -> None:
        with self._told(key):
            self._files.pipe_file(self._path(key), data)

    def write_from(self, key: str, path: str) -> None:
        with self._told(key):
            self._files.put_file(path, self._path(key))

    def create(self, key: str, data: bytes) -> bool:
        with self._told(key):
            try:
                self._files.pipe_file(self._path(key), data, mode="create")
            except FileExistsError:
                return False
            return True

    def keys(self, prefix: str) -> list[str]:
        with self._told(prefix):
            try:
                found = self._files.find(self._path(prefix.rstrip("/")), refresh=True)
            except FileNotFoundError:
                self._check_bucket()
                return []
            return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def folders(self) -> list[str]:
        with self._told(""):
            try:
                found = self._files.ls(self._root, detail=True, refresh=True)
            except FileNotFoundError:
                self._check_bucket()
                return []
            names = (entry["name"].rstrip("/") for entry in found if entry["type"] == "directory")
            return sorted(name.removeprefix(f"{self._root}/") for name in names if name != self._root)

    def delete(self, keys: Iterable[str]) -> None:
        def delete_one(key: str) -> None:
            with self._told(key), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._path(key))

        for_each(delete_one, keys)

    def written_at_s(self, key: str) -> float:
        with self._told(key, reads=True):
            self._files.invalidate_cache()
            return float(self._files.modified(self._path(key)).timestamp())

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _check_bucket(self) -> None:
        """A prefix without objects is nothing wrong; a bucket that is not there is."""
        bucket = self._root.lstrip("/").partition("/")[0]
        self._files.ls(f"/{bucket}" if self._root.startswith("/") else bucket, refresh=True)

    @contextlib.contextmanager
    def _told(self, key: str, *, reads: bool = False) -> Iterator[None]:
        """Turns what the provider's library raises into an error that says where, why and what to do.

        Args:
            key: What the block works on.
            reads: Whether it needs an object; where nothing is found otherwise, the bucket is missing.
        """
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.filename is not None and not _is_the_stores(error):
                # The local disk: full, or not writable.
                raise
            if not isinstance(error, OSError) and not _is_a_providers(error):
                raise
            where = f"{self.uri}/{key}" if key else self.uri
            if reads and isinstance(error, FileNotFoundError) and "specified bucket" not in str(error):
                raise ObjectMissingError(f"{where}: there is no such object") from error
            raise StorageError(f"{where}: {_in_words(error, self.uri)}") from error


def open_store(uri: str) -> ObjectStore:
    """The store of a URI; sends nothing yet.

    Raises:
        ConfigError: A URI that names no place in a known object store.
        MissingDependencyError: The package of its provider is not installed.
    """
    uri = checked_uri(uri)
    return OPENERS[uri.partition("://")[0]](uri)


def _open_with_fsspec(uri: str) -> ObjectStore:
    scheme, _, root = uri.partition("://")
    package, extra = _PACKAGES[scheme]
    try:
        require(package, extra)
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{uri}: {error}") from error
    import fsspec

    # Listings change under other processes, so none is remembered.
    return FsspecStore(uri, fsspec.filesystem(scheme, use_listings_cache=False), root)


OPENERS: dict[str, Callable[[str], ObjectStore]] = dict.fromkeys(_PACKAGES, _open_with_fsspec)
"""What opens a URI, by its scheme."""


def check_store(store: ObjectStore) -> None:
    """Writes, reads, lists and deletes a small object, and checks that the store creates a key only once.

    Raises:
        StorageError: One of them is refused or does not work; nothing stays.
    """
    key = f".jepawm/checks/{uuid.uuid4().hex}"
    try:
        if not store.create(key, b"first"):
            raise StorageError(f"{store.uri}: a new key is said to exist already")
        if store.create(key, b"second") or store.read(key) != b"first":
            raise StorageError(
                f"{store.uri}: the store creates a key twice (it ignores If-None-Match), so two drivers could not be "
                "kept apart; use S3, Google Cloud Storage, or a server that knows conditional writes"
            )
        if key not in store.keys(".jepawm/checks/"):
            raise StorageError(f"{store.uri}: an object that was just written is not listed")
    finally:
        store.delete([key])


def now_s(store: ObjectStore) -> float:
    """The time by the clock of the store, seconds since 1970: clocks of machines may differ by minutes."""
    key = f".jepawm/clock/{uuid.uuid4().hex}"
    store.write(key, b"")
    try:
        return store.written_at_s(key)
    finally:
        store.delete([key])


def for_each(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Calls a function for each item, several at a time; the first error is raised when all have ended."""
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="storage") as pool:
        begun = [pool.submit(work, item) for item in items]
        try:
            for done in begun:
                done.result()
        except BaseException:
            # Where a store does not answer, each of the others would wait for its timeout as well.
            pool.shutdown(cancel_futures=True)
            raise


def _is_a_providers(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] in ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "s3fs")


def _is_the_stores(error: OSError) -> bool:
    """Whether an error with a file name is about an object: local files that we hand over exist."""
    return not os.path.isabs(str(error.filename))


def _in_words(error: Exception, uri: str) -> str:
    kind, text = type(error).__name__, _without_secrets(first_line(error))
    if "Credentials" in kind or "credentials" in text.lower():
        return (
            f"no credentials were found ({text}); give this machine a role that may use the bucket, or set the "
            "variables of the provider (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    if isinstance(error, PermissionError) or "AccessDenied" in text or "Forbidden" in text:
        return f"permission denied ({text}); the role needs to list, read, write and delete objects below {uri}"
    if isinstance(error, FileNotFoundError):
        return f"there is no such bucket ({text}); make it first, or correct the name"
    if "Connect" in kind or "Timeout" in kind or isinstance(error, ConnectionError | TimeoutError):
        return f"the store does not answer ({text}); check the network, and the address if you set one"
    return f"the store refused ({kind}: {text})"


def _without_secrets(text: str) -> str:
    for name in _SECRETS:
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, f"${name}")
    return text
