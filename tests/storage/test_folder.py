"""Stored folders: states that are whole, writers that are kept apart, and nothing that piles up."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from folder_store import Bucket

from jepawm.errors import StorageError
from jepawm.storage.folder import KEPT_MANIFESTS, MANIFESTS, StoredFolder
from jepawm.storage.lease import LeaseLostError
from jepawm.storage.manifest import Manifest, StoredFile, new_key
from jepawm.storage.numbered import NumberedObjects


def put(folder: StoredFolder, path: str, data: bytes) -> StoredFile:
    file = StoredFile(new_key(path, data.hex()), len(data), data.hex(), 0.0)
    folder.store.write(file.key, data)
    return file


def test_each_commit_is_one_state(bucket: Bucket) -> None:
    folder = StoredFolder(bucket.store("run"))
    assert folder.manifest() == Manifest()
    first = folder.commit({"a": put(folder, "a", b"1"), "b/c": put(folder, "b/c", b"2")}, token=1)
    second = folder.commit({"a": None}, token=1)
    assert (first.number, sorted(first.files)) == (1, ["a", "b/c"])
    assert (second.number, sorted(second.files)) == (2, ["b/c"])
    assert folder.manifest() == second
    assert Manifest.from_bytes(second.to_bytes(), 2, "here") == second


def test_writers_of_one_lease_add_to_each_other(bucket: Bucket) -> None:
    def write(writer: int) -> None:
        folder = StoredFolder(bucket.store("run"))
        for number in range(5):
            path = f"{writer}/{number}"
            folder.commit({path: put(folder, path, path.encode())}, token=1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    folder = StoredFolder(bucket.store("run"))
    manifest = folder.manifest()
    assert manifest.number == 20
    assert set(manifest.files) == {f"{writer}/{number}" for writer, number in itertools.product(range(4), range(5))}
    for path, file in manifest.files.items():
        assert folder.store.read(file.key) == path.encode()


def test_an_earlier_lease_cannot_write_any_more(bucket: Bucket) -> None:
    folder = StoredFolder(bucket.store("run"))
    folder.commit({"a": put(folder, "a", b"1")}, token=1)
    manifest, written_by = folder.fence(token=2)
    assert (written_by, manifest.token, sorted(manifest.files)) == (1, 2, ["a"])
    with pytest.raises(LeaseLostError, match="s3://bucket/run was taken over"):
        folder.commit({"a": None}, token=1)
    with pytest.raises(LeaseLostError):
        folder.fence(token=1)
    assert folder.manifest() == manifest


def test_old_versions_go_and_a_few_manifests_stay(bucket: Bucket) -> None:
    folder = StoredFolder(bucket.store("run"))
    for number in range(10):
        folder.commit({"a": put(folder, "a", b"%d" % number)}, token=1)
    manifests = [folder.store.read(key) for key in folder.store.keys(f"{MANIFESTS}/")]
    # Numbers stay taken for a while: a writer that looked a while ago cannot write one of them again.
    assert [len(data) > 0 for data in manifests] == [False] * 7 + [True] * KEPT_MANIFESTS
    assert {folder.store.read(key) for key in folder.store.keys("files/")} == {b"7", b"8", b"9"}
    # What a killed writer uploaded and never committed goes as well.
    put(folder, "b", b"never committed")
    folder.remove_orphans()
    assert len(folder.store.keys("files/")) == KEPT_MANIFESTS
    folder.remove(token=1)
    assert folder.store.keys("files/") == []
    removed = folder.manifest()
    assert (removed.number, dict(removed.files)) == (11, {})


def test_a_writer_that_looked_long_ago_must_look_again(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepawm.storage.numbered.TAKEN", 4)
    numbered = NumberedObjects(bucket.store("run"), "list")
    for number in range(1, 10):
        assert numbered.append(number, b"%d" % number)
        numbered.forget(list(range(1, number)))
    assert numbered.numbers() == [6, 7, 8, 9]
    # Taken, and taken so long ago that the store has forgotten it.
    assert not numbered.append(7, b"late")
    assert not numbered.append(2, b"late")
    assert numbered.numbers() == [6, 7, 8, 9]
    assert numbered.latest() == (9, b"9")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "is no manifest"),
        (b'{"format_version": 1, "token": 1}', "is no manifest"),
        (b'{"format_version": 2, "token": 1, "files": {}}', "newer than this jepawm reads"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(data: bytes, told: str, bucket: Bucket) -> None:
    folder = StoredFolder(bucket.store("run"))
    folder.store.write(f"{MANIFESTS}/00000001.json", data)
    with pytest.raises(StorageError, match=f"s3://bucket/run/{MANIFESTS}/00000001.json.* {told}"):
        folder.manifest()


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_a_manifest_cannot_reach_out_of_its_folder(path: str) -> None:
    manifest = Manifest(1, 1, {path: StoredFile("files/x", 1, "00", 0.0)})
    with pytest.raises(StorageError, match="leaves the folder"):
        Manifest.from_bytes(manifest.to_bytes(), 1, "here")
