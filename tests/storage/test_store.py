"""What every object store promises, and what the errors of a provider become."""

import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from folder_store import Bucket, Clock, FolderStore

from jepawm.errors import ConfigError, MissingDependencyError, StorageError
from jepawm.storage.store import FsspecStore, ObjectMissingError, ObjectStore, check_store, now_s, open_store


def in_memory(_folder: Path) -> ObjectStore:
    name = uuid.uuid4().hex
    files = fsspec.filesystem("memory")
    files.mkdir(f"/{name}")
    return FsspecStore(f"memory://{name}/home", files, f"/{name}/home")


def in_a_folder(folder: Path) -> ObjectStore:
    return FolderStore("folder://bucket/home", folder / "home", folder / "waiting", Clock())


@pytest.fixture(params=[in_memory, in_a_folder])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    made: ObjectStore = request.param(tmp_path)
    return made


def test_objects_are_written_read_listed_and_deleted(store: ObjectStore, tmp_path: Path) -> None:
    assert store.keys("a/") == []
    assert store.folders() == []
    (tmp_path / "here").write_bytes(b"from a file")
    store.write("a/one", b"first")
    store.write("a/one", b"second")
    store.write_from("a/b/two", str(tmp_path / "here"))
    store.write("c/three", b"")
    assert store.read("a/one") == b"second"
    store.read_to("a/b/two", str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == b"from a file"
    assert store.keys("a/") == ["a/b/two", "a/one"]
    assert store.folders() == ["a", "c"]
    store.delete(["a/one", "a/never"])
    assert store.keys("a/") == ["a/b/two"]
    for look in (store.read, store.written_at_s):
        with pytest.raises(ObjectMissingError, match="a/one: there is no such object"):
            look("a/one")


def test_a_key_is_created_once(store: ObjectStore) -> None:
    assert store.create("k", b"first")
    assert not store.create("k", b"second")
    assert store.read("k") == b"first"


def test_times_are_those_of_one_clock_and_nothing_stays(store: ObjectStore) -> None:
    before = now_s(store)
    store.write("k", b"")
    assert before <= store.written_at_s("k") <= now_s(store)
    check_store(store)
    assert store.keys("") == ["k"]


def test_a_store_that_creates_twice_is_refused(tmp_path: Path) -> None:
    class Forgetful(FolderStore):
        def create(self, key: str, data: bytes) -> bool:
            self.write(key, data)
            return True

    with pytest.raises(StorageError, match="creates a key twice"):
        check_store(Forgetful("s3://old/home", tmp_path / "home", tmp_path / "waiting", Clock()))


class Failing:
    """A file system on which everything raises one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., None]:
        def fail(*arguments: object, **options: object) -> None:
            raise self._error

        return fail


class NoCredentialsError(Exception):
    """As botocore's, which is not installed everywhere."""


class EndpointConnectionError(OSError):
    """As botocore's."""


NoCredentialsError.__module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NoCredentialsError("Unable to locate credentials"), "no credentials were found"),
        (PermissionError("Access Denied"), "permission denied .* list, read, write and delete objects below s3://b/h"),
        (FileNotFoundError("The specified bucket does not exist"), "there is no such bucket"),
        (FileNotFoundError("http://store/a bucket of that name/h/k"), "there is no such object"),
        (EndpointConnectionError('Could not connect to "http://127.0.0.1:9"'), "does not answer"),
        (TimeoutError(), "does not answer"),
        (OSError(5, "Reduce your request rate."), "the store refused .*Reduce your request rate"),
    ],
)
def test_errors_of_a_provider_say_what_to_do(error: Exception, told: str) -> None:
    with pytest.raises(StorageError, match=f"^s3://b/h/k: .*{told}"):
        FsspecStore("s3://b/h", Failing(error), "b/h").read("k")


def test_where_a_write_finds_nothing_the_bucket_is_missing() -> None:
    store = FsspecStore("gs://b/h", Failing(FileNotFoundError("http://store/b/h/k")), "b/h")
    for write in (lambda: store.write("k", b""), lambda: store.create("k", b""), lambda: store.keys("k/")):
        with pytest.raises(StorageError, match="there is no such bucket"):
            write()


def test_what_is_no_error_of_the_store_stays_what_it_is() -> None:
    full = OSError(28, "No space left on device", "/cache/file")
    for error in (full, KeyError("x")):
        with pytest.raises(type(error)) as caught:
            FsspecStore("s3://b/h", Failing(error), "b/h").read_to("k", "/cache/file")
        assert caught.value is error


def test_secrets_are_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush/hush")
    with pytest.raises(StorageError) as caught:
        FsspecStore("s3://b/h", Failing(OSError("the key hush/hush is wrong")), "b/h").read("k")
    assert "hush" not in str(caught.value)
    assert "$AWS_SECRET_ACCESS_KEY" in str(caught.value)
    with pytest.raises(ConfigError, match="carries credentials") as refused:
        open_store("s3://AKIA:hush@bucket/home")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(("uri", "package"), [("s3://bucket/home", "s3fs"), ("gs://bucket/home", "gcsfs")])
def test_a_missing_package_says_what_to_install(uri: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf'{uri}: .*{package}.*"jepawm\[{uri[:2]}\]"'):
        open_store(uri)


def test_a_uri_opens_its_store(bucket: Bucket) -> None:
    open_store("s3://bucket/home/").write("run/x", b"1")
    assert bucket.store("home/run").read("x") == b"1"
