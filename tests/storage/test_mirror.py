"""Working copies: what is moved, whose change wins, and what never happens to the store."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from folder_store import Bucket, FolderStore

from jepawm.config.places import mirror_of
from jepawm.errors import StorageError
from jepawm.storage.folder import StoredFolder
from jepawm.storage.mirror import Mirror, mirror_id
from jepawm.storage.reading import fetched

URI = "s3://bucket/home/run"
Machine = Callable[[str], None]


def working_copy(bucket: Bucket) -> Mirror:
    mirror = Mirror(mirror_of(URI), StoredFolder(bucket.store("home/run")))
    mirror.path.mkdir(parents=True, exist_ok=True)
    return mirror


def contents(mirror: Mirror) -> dict[str, str]:
    files = (path for path in mirror.path.rglob("*") if path.is_file())
    return {path.relative_to(mirror.path).as_posix(): path.read_text() for path in files}


def fill(mirror: Mirror, **files: str) -> None:
    for name, text in files.items():
        path = mirror.path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def pull(mirror: Mirror) -> None:
    mirror.pull(mirror.folder.manifest())


def test_another_machine_gets_what_was_pushed(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, a="1", deep__b="2", empty="")
    os.utime(here.path / "a", (1000.0, 1000.0))
    assert here.push(token=1)
    on_machine("two")
    there = working_copy(bucket)
    assert there.path != here.path
    pull(there)
    assert contents(there) == contents(here) == {"a": "1", "deep/b": "2", "empty": ""}
    assert (there.path / "a").stat().st_mtime == 1000.0


def test_only_what_changed_is_moved(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, a="1", b="2")
    here.push(token=1)
    bucket.requests.clear()
    assert not here.push(token=1)
    assert bucket.requests["write"] == bucket.requests["create"] == 0
    fill(here, b="changed")
    here.push(token=1)
    assert (bucket.requests["write"], bucket.requests["create"]) == (1, 1)
    on_machine("two")
    there = working_copy(bucket)
    pull(there)
    bucket.requests.clear()
    pull(there)
    # The manifest alone.
    assert bucket.requests["read"] == 1


def test_removed_files_go_and_temporary_ones_never_come(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, old__a="1", kept="2")
    here.push(token=1)
    on_machine("two")
    there = working_copy(bucket)
    pull(there)
    on_machine("one")
    shutil.rmtree(here.path / "old")
    fill(here, **{"new.tmp-17__a": "half", "shard.tmp": "half", ".lock": ""})
    here.push(token=1)
    on_machine("two")
    pull(there)
    assert contents(there) == {"kept": "2"}
    assert not (there.path / "old").exists()


def test_what_a_killed_driver_did_not_push_goes_on_here(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, metrics="1", other="x")
    here.push(token=1)
    fill(here, metrics="1 2", step__weights="new")
    pull(here)
    assert contents(here) == {"metrics": "1 2", "other": "x", "step/weights": "new"}


def test_the_store_is_right_where_another_driver_has_written(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, metrics="1", other="x")
    here.push(token=1)
    fill(here, metrics="1 2 of a branch that ended", step__weights="of that branch")
    on_machine("two")
    there = working_copy(bucket)
    pull(there)
    fill(there, metrics="1 3")
    there.push(token=2)
    on_machine("one")
    pull(here)
    assert contents(here) == {"metrics": "1 3", "other": "x"}


def test_a_deleted_working_copy_deletes_nothing_in_the_store(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, a="1", b="2")
    here.push(token=1)
    shutil.rmtree(here.path)
    with pytest.raises(StorageError, match="was removed while it is in use"):
        here.push(token=1)
    here.path.mkdir()
    pull(here)
    assert contents(here) == {"a": "1", "b": "2"}
    (here.path / "a").unlink()
    pull(here)
    assert contents(here) == {"a": "1", "b": "2"}


def test_a_part_can_be_pulled_and_pushes_keep_the_rest(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, small="1", checkpoints__weights="many")
    here.push(token=1)
    on_machine("two")
    there = working_copy(bucket)
    there.pull(there.folder.manifest(), wanted=lambda name: "/" not in name)
    assert contents(there) == {"small": "1"}
    fill(there, small="2")
    there.push(token=2)
    assert sorted(there.folder.manifest().files) == ["checkpoints/weights", "small"]
    pull(there)
    assert contents(there) == {"small": "2", "checkpoints/weights": "many"}


def test_a_driver_follows_its_workers_and_keeps_its_own_files(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("driver")
    here = working_copy(bucket)
    fill(here, config="1", gone="x")
    here.push(token=1)
    on_machine("worker")
    there = working_copy(bucket)
    pull(there)
    fill(there, metrics="1", wall="of the worker", checkpoint="2")
    (there.path / "gone").unlink()
    there.push(token=1)
    on_machine("driver")
    fill(here, wall="of the driver")
    here.follow(here.folder.manifest(), lambda name: name != "checkpoint")
    assert contents(here) == {"config": "1", "metrics": "1", "wall": "of the driver"}
    fill(here, config="2")
    here.push(token=1)
    assert sorted(here.folder.manifest().files) == ["checkpoint", "config", "metrics", "wall"]
    # The worker's own metrics are newer than what the driver has of them.
    fill(there, metrics="1 2")
    there.follow(there.folder.manifest(), lambda name: True)
    assert contents(there)["metrics"] == "1 2"
    assert contents(there)["config"] == "2"


def test_a_manifest_that_was_read_before_a_push_takes_nothing_back(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("driver")
    here = working_copy(bucket)
    fill(here, usage="1")
    here.push(token=1)
    before = here.folder.manifest()
    fill(here, usage="1 2", new="x")
    here.push(token=1)
    here.follow(before, lambda name: True)
    assert contents(here) == {"usage": "1 2", "new": "x"}
    here.pull(before)
    assert contents(here) == {"usage": "1 2", "new": "x"}
    assert sorted(here.last_seen().files) == ["new", "usage"]


def test_a_reader_of_an_old_manifest_gets_the_newest_state(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, a="0")
    here.push(token=1)
    old = here.folder.manifest()
    for number in range(1, 6):
        fill(here, a=str(number) * (number + 1))
        here.push(token=1)
    on_machine("two")
    there = working_copy(bucket)
    there.pull(old)
    assert contents(there) == {"a": "555555"}


def test_a_damaged_object_is_refused(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, a="1", b="2")
    here.push(token=1)
    key = here.folder.manifest().files["a"].key
    here.folder.store.write(key, b"rot")
    on_machine("two")
    there = working_copy(bucket)
    with pytest.raises(StorageError, match=f"{URI}/{key} is damaged: its SHA-256 is "):
        pull(there)
    assert "a" not in contents(there)
    # What did arrive is known, and a lost object is named as well.
    here.folder.store.delete([key])
    with pytest.raises(StorageError, match="there is no such object"):
        pull(there)


def test_a_large_download_is_announced(
    bucket: Bucket, on_machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jepawm.storage.mirror._MUCH", 1000)
    on_machine("one")
    here = working_copy(bucket)
    fill(here, a="x" * 600, b="y" * 600)
    here.push(token=1)
    on_machine("two")
    place = fetched(URI)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"   0.00 GiB in 2 files of {URI} are fetched to {place}\n")
    fetched(URI)
    assert capsys.readouterr().err == ""


def test_each_machine_has_its_own_identity(on_machine: Machine) -> None:
    on_machine("one")
    first = mirror_id()
    assert mirror_id() == first
    on_machine("two")
    assert mirror_id() != first


def test_a_file_larger_than_what_is_read_at_once(
    bucket: Bucket, on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepawm.storage.mirror._READ_AT_ONCE", 10)
    on_machine("one")
    here = working_copy(bucket)
    fill(here, large="x" * 1000, small="y")
    here.push(token=1)
    on_machine("two")
    there = working_copy(bucket)
    pull(there)
    assert contents(there) == {"large": "x" * 1000, "small": "y"}


def test_a_large_file_that_grows_all_the_time_is_pushed(
    bucket: Bucket, on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepawm.storage.mirror._READ_AT_ONCE", 10)
    on_machine("one")
    here = working_copy(bucket)
    fill(here, metrics="x" * 1000)
    write_from = FolderStore.write_from

    def write_from_and_grow(self: FolderStore, key: str, path: str) -> None:
        with open(here.path / "metrics", "a") as file:
            file.write("y")
        write_from(self, key, path)

    monkeypatch.setattr("folder_store.FolderStore.write_from", write_from_and_grow)
    assert here.push(token=1)
    assert len(here.folder.store.keys("files/")) == len(here.folder.manifest().files) == 1
    on_machine("two")
    there = working_copy(bucket)
    pull(there)
    assert contents(there) == {"metrics": "x" * 1000 + "y"}


def test_a_damaged_record_says_what_to_delete(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    here = working_copy(bucket)
    fill(here, a="1")
    here.push(token=1)
    (record,) = Path(mirror_of("s3://bucket")).parents[1].glob(".state/**/record.json")
    record.write_text("{")
    with pytest.raises(StorageError, match=r"record.json is damaged .*delete it, and the files are compared anew"):
        here.push(token=1)
    record.unlink()
    pull(here)
    assert contents(here) == {"a": "1"}
