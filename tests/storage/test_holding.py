"""Holding a folder, and reading folders that others hold."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from folder_store import Bucket, FolderStore

from jepawm.config.places import home, mirror_of
from jepawm.errors import StorageError
from jepawm.storage import holding
from jepawm.storage.folder import StoredFolder
from jepawm.storage.holding import held, holder_above, joined, permit_for, remove_stored, where
from jepawm.storage.lease import LEASES, FolderBusyError, LeaseLostError, holder_of
from jepawm.storage.mirror import Mirror
from jepawm.storage.reading import fetched, fetched_results, overview, refresh, refresh_home, stored_names, stored_root

Machine = Callable[[str], None]


def run_dir(name: str = "run") -> Path:
    return Path(home(), name)


def store_run(name: str, **files: str) -> None:
    """A finished session on the machine of now."""
    with held(str(run_dir(name))):
        for path, text in files.items():
            place = run_dir(name) / path.replace("__", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_a_plain_path_costs_nothing(tmp_path: Path, bucket: Bucket) -> None:
    path = str(tmp_path / "runs" / "run")
    with held(path) as folder:
        assert folder is None
        assert permit_for(path) is None
    refresh(path)
    refresh_home()
    assert fetched(path) == stored_root(path) == where(path) == path
    assert stored_names(path) == set()
    assert not bucket.requests
    assert not os.path.exists(path)


def test_what_one_machine_leaves_another_goes_on_with(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    store_run("run", a="1")
    on_machine("two")
    with held(str(run_dir())) as folder:
        assert folder is not None
        assert (run_dir() / "a").read_text() == "1"
        (run_dir() / "a").write_text("2")
        assert holder_above(str(run_dir() / "a")) is folder
        # A folder inside belongs to it.
        with held(str(run_dir() / "inside")) as inner:
            assert inner is folder
    on_machine("one")
    with held(str(run_dir())):
        assert (run_dir() / "a").read_text() == "2"
    assert holder_of(bucket.store("home/run")) is None


def test_two_processes_of_a_machine_are_kept_apart_by_its_lock(on_machine: Machine) -> None:
    on_machine("one")
    refused = []

    def other_process() -> None:
        try:
            with held(str(run_dir())):
                pass
        except FolderBusyError as error:
            refused.append(str(error))

    with held(str(run_dir())) as folder:
        assert folder is not None
        # Another process knows nothing of what this one holds.
        holding._held.clear()
        thread = threading.Thread(target=other_process)
        thread.start()
        thread.join()
    assert refused == [
        "s3://bucket/home/run is in use by another process on this machine; wait for it, stop it, or choose another "
        "folder"
    ]


def test_an_error_goes_first_and_the_state_is_stored_all_the_same(on_machine: Machine) -> None:
    on_machine("one")

    def fail() -> None:
        with held(str(run_dir())):
            (run_dir() / "a").write_text("1")
            raise ValueError("of the training")

    with pytest.raises(ValueError, match="of the training"):
        fail()
    on_machine("two")
    assert Path(fetched(str(run_dir())), "a").read_text() == "1"


def test_a_driver_that_was_followed_cannot_push(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")

    def sleep_too_long() -> None:
        with held(str(run_dir())):
            (run_dir() / "a").write_text("1")
            bucket.clock.move(1000.0)
            on_machine("two")
            store_run("run", b="2")
            on_machine("one")

    with pytest.raises(LeaseLostError, match="taken over"):
        sleep_too_long()
    assert holder_of(bucket.store("home/run")) is None
    on_machine("three")
    assert sorted(path.name for path in Path(fetched(str(run_dir()))).iterdir()) == ["b"]


def test_leftovers_of_a_killed_driver_are_removed(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    store_run("run", a="1")
    # It took the lease, uploaded an object, and was killed.
    bucket.store("home/run").write("files/b/x/b", b"never committed")
    lease = bucket.store("home/run")
    lease.write(".jepawm/leases/00000001.json", lease.read(".jepawm/leases/00000001.json").replace(b"true", b"false"))
    bucket.clock.move(1000.0)
    on_machine("two")
    store_run("run", c="3")
    assert sorted(key.rpartition("/")[2] for key in bucket.store("home/run").keys("files/")) == ["a", "c"]


def test_a_push_without_an_answer_says_where_the_files_are(
    bucket: Bucket, on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine("one")

    def no_answer(*_: object) -> None:
        raise StorageError("s3://bucket/home/run: the store does not answer")

    told: list[str] = []

    def lose_the_network() -> None:
        with held(str(run_dir()), told.append):
            (run_dir() / "a").write_text("1")
            monkeypatch.setattr("folder_store.FolderStore.write", no_answer)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lose_the_network()
    assert any("the last changes are not stored" in line and str(run_dir()) in line for line in told)


def test_a_store_that_answers_again_gets_what_was_missed(
    on_machine: Machine,
) -> None:
    on_machine("one")

    def no_answer(*_: object) -> None:
        raise StorageError("s3://bucket/home/run: the store does not answer")

    told: list[str] = []

    def work() -> None:
        with held(str(run_dir()), told.append) as folder:
            assert folder is not None
            (run_dir() / "a").write_text("1")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("folder_store.FolderStore.write", no_answer)
                folder.push_if_possible()
                folder.push_if_possible()
            folder.push_if_possible()
            assert list(folder.mirror.folder.manifest().files) == ["a"]
            # A driver that was followed is told at once.
            folder.mirror.folder.fence(folder.token + 1)
            (run_dir() / "a").write_text("2")
            folder.push_if_possible()

    with pytest.raises(LeaseLostError):
        work()
    assert told[0] == "   WARNING: s3://bucket/home/run: the store does not answer; trying again every 15 s"
    assert sum("does not answer" in line for line in told) == 1


def test_changes_are_pushed_while_the_folder_is_held(
    bucket: Bucket, on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPAWM_PUSH_EVERY_S", "0.01")
    on_machine("one")
    folder = StoredFolder(bucket.store("home/run"))
    with held(str(run_dir())):
        (run_dir() / "a").write_text("1")
        wait_for(lambda: "a" in folder.manifest().files)


def test_the_lease_is_renewed_while_files_are_pulled_and_pushed(
    bucket: Bucket, on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPAWM_PUSH_EVERY_S", "0.01")
    on_machine("one")
    store_run("run", a="1")
    on_machine("two")
    store = bucket.store("home/run")
    read_to, write = FolderStore.read_to, FolderStore.write

    def wait_for_a_renewal() -> None:
        lease = store.keys(f"{LEASES}/")[-1]
        before = store.read(lease)
        wait_for(lambda: store.read(lease) != before)

    def slow_read_to(self: FolderStore, key: str, path: str) -> None:
        wait_for_a_renewal()
        read_to(self, key, path)

    def slow_write(self: FolderStore, key: str, data: bytes) -> None:
        if key.startswith("files/"):
            wait_for_a_renewal()
        write(self, key, data)

    monkeypatch.setattr("folder_store.FolderStore.read_to", slow_read_to)
    monkeypatch.setattr("folder_store.FolderStore.write", slow_write)
    with held(str(run_dir())) as folder:
        assert folder is not None
        # The last push alone sends the file.
        folder.stop_pushing()
        (run_dir() / "b").write_text("2")
    assert sorted(folder.mirror.folder.manifest().files) == ["a", "b"]


def test_a_deleted_working_copy_that_is_used_in_part_deletes_nothing(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    store_run("run", config="1", checkpoints__weights="many", model__weights="m")
    shutil.rmtree(run_dir())
    with held(str(run_dir()), wanted=lambda name: name.startswith("model/")):
        (run_dir() / "model" / "head").write_text("h")
    files = sorted(StoredFolder(bucket.store("home/run")).manifest().files)
    assert files == ["checkpoints/weights", "config", "model/head", "model/weights"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StorageError("s3://bucket/home/run: no answer")])
def test_a_pull_that_fails_changes_nothing_in_the_store(
    error: BaseException, bucket: Bucket, on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    on_machine("one")
    store_run("run", metrics="1", checkpoints__weights="many")
    (run_dir() / "metrics").write_text("1 2 of a branch that ended")
    shutil.rmtree(run_dir() / "checkpoints")
    on_machine("two")
    store_run("run", metrics="1 3")
    on_machine("one")
    with monkeypatch.context() as patch:
        patch.setattr("folder_store.FolderStore.read_to", fail)
        with pytest.raises(type(error)), held(str(run_dir())):
            pass
    on_machine("three")
    assert Path(fetched(str(run_dir())), "metrics").read_text() == "1 3"
    assert (run_dir() / "checkpoints" / "weights").read_text() == "many"


def test_what_was_written_here_outlives_a_pull_that_fails(on_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageError("s3://bucket/home/run: no answer")

    on_machine("one")
    store_run("run", metrics="1", other="x")
    (run_dir() / "metrics").write_text("1 2")
    (run_dir() / "other").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("folder_store.FolderStore.read_to", fail)
        with pytest.raises(StorageError), held(str(run_dir())):
            pass
    with held(str(run_dir())):
        assert (run_dir() / "metrics").read_text() == "1 2"
        assert (run_dir() / "other").read_text() == "x"


def test_a_reader_does_not_wait_for_a_process_that_works_in_the_copy(on_machine: Machine) -> None:
    on_machine("one")
    with held(str(run_dir())):
        (run_dir() / "a").write_text("newer than the store's")
        # Another process knows nothing of what this one holds.
        holding._held.clear()
        reader = threading.Thread(target=fetched, args=(str(run_dir()),), daemon=True)
        reader.start()
        reader.join(timeout=60)
        assert not reader.is_alive()
        assert (run_dir() / "a").read_text() == "newer than the store's"


def test_a_driver_waits_for_a_reader_that_pulls(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    store_run("run", a="1")
    mirror = Mirror(str(run_dir()), StoredFolder(bucket.store("home/run")))
    pulls, driver_waits = threading.Event(), threading.Event()

    def read() -> None:
        with mirror.file_lock():
            pulls.set()
            wait_for(mirror.is_worked_in)
            driver_waits.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert pulls.wait(timeout=60)
    with held(str(run_dir())) as folder:
        assert folder is not None
        assert driver_waits.is_set()


def test_a_worker_elsewhere_pushes_under_the_drivers_lease(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("driver")
    with held(str(run_dir())) as folder:
        permit = permit_for(str(run_dir() / "checkpoints"))
        with joined(permit) as same_machine:
            assert same_machine is None
        on_machine("worker")
        with joined(permit) as there:
            assert there is not None
            (run_dir() / "metrics").write_text("1")
        on_machine("driver")
        assert folder is not None
        assert sorted(folder.mirror.folder.manifest().files) == ["metrics"]
        (run_dir() / "config").write_text("2")
    assert sorted(folder.mirror.folder.manifest().files) == ["config", "metrics"]
    with joined(None) as plain:
        assert plain is None


def test_a_home_is_read_without_being_held(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    store_run("run-a", **{"config.yaml": "x: 1", "checkpoints__step-1__weights": "many", "report.html": "page"})
    store_run("run-b", **{"config.yaml": "x: 2"})
    with held(str(run_dir("datasets") / "walks")):
        (run_dir("datasets") / "walks" / "meta.json").write_text("{}")
    on_machine("two")
    refresh_home()
    assert (run_dir("run-a") / "config.yaml").read_text() == "x: 1"
    assert not (run_dir("run-a") / "report.html").exists()
    assert stored_names(str(run_dir("run-a") / "checkpoints")) == {"step-1"}
    assert not (run_dir("datasets") / "walks").exists()
    assert Path(fetched_results(str(run_dir("run-a"))), "report.html").read_text() == "page"
    assert not (run_dir("run-a") / "checkpoints").exists()
    (run_dir("run-a") / "report.html").unlink()
    # One file, a folder, or all.
    assert Path(fetched("s3://bucket/home/run-a/report.html")).read_text() == "page"
    assert not (run_dir("run-a") / "checkpoints").exists()
    assert Path(fetched(str(run_dir("run-a") / "checkpoints")), "step-1", "weights").read_text() == "many"
    assert Path(fetched("s3://bucket/home/datasets/walks"), "meta.json").read_text() == "{}"
    assert stored_root(str(run_dir("run-a") / "checkpoints" / "step-1")) == str(run_dir("run-a"))
    assert fetched("s3://bucket/home/run-c") == str(run_dir("run-c"))
    assert not run_dir("run-c").exists()
    # A run that another machine removes is gone here as well.
    on_machine("one")
    with held(str(run_dir("run-b"))):
        remove_stored(str(run_dir("run-b")))
    assert bucket.store("home/run-b").keys("files/") == []
    on_machine("two")
    refresh_home()
    assert not run_dir("run-b").exists()
    assert (run_dir("run-a") / "config.yaml").is_file()


def test_what_the_store_has_lost_a_working_copy_brings_back(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    store_run("run", a="1", b__c="2")
    store = bucket.store("home/run")
    store.delete(store.keys(""))
    refresh_home()
    refresh(str(run_dir()))
    assert (run_dir() / "a").read_text() == "1"
    store_run("run", d="3")
    on_machine("two")
    assert sorted(os.listdir(fetched(str(run_dir())))) == ["a", "b", "d"]


def test_a_home_that_a_process_here_works_in_is_left_alone(on_machine: Machine) -> None:
    on_machine("one")
    with held(str(run_dir())):
        (run_dir() / "config.yaml").write_text("newer than the store's")
        refresh(str(run_dir()))
        refresh_home()
        assert (run_dir() / "config.yaml").read_text() == "newer than the store's"


@pytest.mark.parametrize(
    ("name", "is_small"),
    [
        ("config.yaml", True),
        ("recipe", True),
        ("finished", True),
        ("eval.json", True),
        ("report.html", False),
        ("model/config.yaml", False),
    ],
)
def test_an_overview_is_made_of_small_files(name: str, is_small: bool) -> None:
    assert overview(name) == is_small


def test_messages_name_uris(on_machine: Machine) -> None:
    on_machine("one")
    assert where(mirror_of("s3://bucket/home/run/model")) == "s3://bucket/home/run/model"
