"""Leases: one driver at a time, and a dead one is followed."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from folder_store import Bucket

from jepawm.errors import ConfigError, StorageError
from jepawm.storage.lease import (
    INTERVALS,
    LEASES,
    FolderBusyError,
    Lease,
    LeaseLostError,
    holder_of,
    interval_s,
    this_process,
)


def test_a_released_lease_is_followed_at_once(bucket: Bucket) -> None:
    store = bucket.store("run")
    assert holder_of(store) is None
    first = Lease.take(store, "machine a")
    held = holder_of(store)
    assert held is not None
    assert held.lives
    assert held.owner.split(", since")[0] == this_process().split(", since")[0]
    first.release()
    assert holder_of(store) is None
    second = Lease.take(store, "machine b")
    assert (first.token, second.token) == (1, 2)
    assert not second.took_over


def test_a_holder_that_lives_refuses_the_next_by_name(bucket: Bucket) -> None:
    store = bucket.store("run")
    first = Lease.take(store, "machine a")
    waited, told = [], []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        bucket.clock.move(seconds)
        first.renew()

    with pytest.raises(FolderBusyError, match=r"s3://bucket/run is in use by process "):
        Lease.take(store, "machine b", wait=wait, say=told.append)
    # The first renewal that is seen decides.
    assert waited == [interval_s() / 2]
    assert "asked for a sign of life, for at most 60 s" in told[0]
    assert len(told) == 1


def test_a_holder_that_died_is_followed_after_its_intervals(bucket: Bucket) -> None:
    store = bucket.store("run")
    first = Lease.take(store, "machine a")
    bucket.clock.move(10.0)
    second = Lease.take(store, "machine b", wait=bucket.clock.move)
    assert bucket.clock.now_s == pytest.approx(1_700_000_000.0 + INTERVALS * interval_s())
    assert (second.token, second.took_over) == (2, True)
    # It slept, and wakes up.
    with pytest.raises(LeaseLostError, match=r"was taken over by process .* must not go on"):
        first.renew()
    second.renew()
    first.release()
    held = holder_of(store)
    assert held is not None
    assert held.lives


def test_a_holder_in_the_same_working_copies_is_dead_at_once(bucket: Bucket) -> None:
    store = bucket.store("run")
    Lease.take(store, "machine a")

    def wait(seconds: float) -> None:
        raise AssertionError("nothing is waited for")

    assert Lease.take(store, "machine a", wait=wait).took_over


def test_of_many_that_take_at_once_one_succeeds(bucket: Bucket) -> None:
    def take(number: int) -> bool:
        try:
            Lease.take(bucket.store("run"), f"machine {number}", wait=lambda seconds: first_holder_renews())
        except FolderBusyError:
            return False
        return True

    def first_holder_renews() -> None:
        # Any process that holds the lease says that it lives: a new beat in its record.
        store = bucket.store("run")
        key = store.keys(f"{LEASES}/")[-1]
        store.write(key, re.sub(rb'"beat": (\d+)', lambda found: b'"beat": %d' % (int(found[1]) + 1), store.read(key)))

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(take, range(8))) == [False] * 7 + [True]


def test_a_damaged_lease_and_a_wrong_interval_are_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket.store("run")
    store.write(f"{LEASES}/00000001.json", b"{")
    with pytest.raises(StorageError, match=r"s3://bucket/run/.jepawm/leases/00000001.json holds no lease"):
        Lease.take(store, "machine a")
    for text in ("0", "soon"):
        monkeypatch.setenv("JEPAWM_PUSH_EVERY_S", text)
        with pytest.raises(ConfigError, match=f"JEPAWM_PUSH_EVERY_S is '{text}', expected"):
            interval_s()
