"""The folder of caches: its limit, who goes first, and who stays."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

import jepawm.data.loading.cache_folder as module
from jepawm.cli.main import main as jepawm_command
from jepawm.data import CacheReader, FrameCache
from jepawm.data.loading.cache_folder import LIMIT_VARIABLE, CacheFolder
from jepawm.errors import ConfigError, DataError

GIB = 2**30


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


def used_at(cache, second):
    os.utime(cache.path / "cache.json", (second, second))


def names(folder):
    return [entry.path.name for entry in folder.entries()]


def test_the_least_recently_used_copy_goes_first_and_one_in_use_stays(write, root, monkeypatch):
    dataset = write()
    ids = dataset.episode_ids.tolist()
    caches = [FrameCache(dataset, keep=ids[: n + 2]) for n in range(3)]
    for second, cache in enumerate(caches):
        used_at(cache, 1000 + second)
    folder = CacheFolder()
    assert names(folder) == [cache.path.name for cache in caches]
    assert all(entry.in_use and entry.dataset == dataset.spec.name for entry in folder.entries())
    # The oldest is read again, which makes it the newest; the second one stays in use.
    keys = [cache.path.name for cache in caches]
    sizes = [entry.nbytes for entry in folder.entries()]
    second = caches[1]
    del cache, caches
    gc.collect()
    del_me = FrameCache(dataset, keep=ids[:2])
    del del_me
    gc.collect()
    assert names(folder) == [keys[1], keys[2], keys[0]]
    assert [entry.in_use for entry in folder.entries()] == [True, False, False]
    monkeypatch.setenv(LIMIT_VARIABLE, str((sum(sizes) + 1) / GIB))
    folder.make_room(1, "something small")
    assert names(folder) == [keys[1], keys[2], keys[0]]
    # Too much by a byte: of the two that nobody uses the third one was used longer ago.
    folder.make_room(2, "something larger")
    assert names(folder) == [keys[1], keys[0]]
    # Its reader goes on, for its copy was not touched.
    window = CacheReader(second, frameskip=1, num_frames_in_window=2).read(np.array(ids[:1]), np.array([0]))
    np.testing.assert_array_equal(window.pixels[0], dataset.read_episode(ids[0]).pixels[:2])
    with pytest.raises(DataError, match=rf"frame cache of big needs .* in use; .*raise {LIMIT_VARIABLE}, keep fewer"):
        folder.make_room(sum(sizes), "big")
    assert names(folder) == [keys[1]]
    with pytest.raises(DataError, match=rf"needs .* GiB, the limit is .* GiB; raise {LIMIT_VARIABLE}, keep fewer"):
        folder.make_room(sum(sizes) + 2, "larger than the limit")


def test_a_new_copy_makes_room_for_itself(write, root, monkeypatch):
    dataset = write()
    ids = dataset.episode_ids.tolist()
    first = FrameCache(dataset, keep=ids[:2])
    key, nbytes = first.path.name, first.nbytes
    del first
    gc.collect()
    monkeypatch.setenv(LIMIT_VARIABLE, str(1.5 * nbytes / GIB))
    other = FrameCache(dataset, keep=ids[1:3])
    assert names(CacheFolder()) == [other.path.name] != [key]


def test_a_copy_that_another_process_uses_stays(write, root):
    dataset = write()
    cache = FrameCache(dataset)
    key = cache.path.name
    del cache
    gc.collect()
    code = (
        "import sys; from pathlib import Path; from jepawm.data.loading.cache_folder import hold\n"
        f"held = hold(Path({str(root / key)!r})); print('held', flush=True); sys.stdin.read()"
    )
    user = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert user.stdout.readline() == "held\n"
        gone, kept = CacheFolder().clear()
        assert (gone, [entry.path.name for entry in kept]) == ([], [key])
    finally:
        user.communicate("")
    gone, kept = CacheFolder().clear()
    assert ([entry.path.name for entry in gone], kept) == ([key], [])


def test_a_fill_that_was_killed_is_listed_and_cleared_and_one_that_runs_is_not(root):
    (root / "abc.tmp").mkdir(parents=True)
    (root / "abc.tmp" / "pixels.npy").write_bytes(b"half")
    (root / "notes").mkdir()
    folder = CacheFolder()
    with folder.lock_to_fill("abc"):
        assert [entry.in_use for entry in folder.entries()] == [True]
        assert folder.clear()[0] == []
    assert [entry.in_use for entry in folder.entries()] == [False]
    assert [entry.path.name for entry in folder.clear()[0]] == ["abc.tmp"]
    # A folder of somebody else is no copy of ours.
    assert (root / "notes").is_dir()


def test_a_copy_that_goes_while_it_is_opened_is_made_again(write, root, monkeypatch):
    dataset = write()
    FrameCache(dataset)
    gc.collect()
    opened, open_once = [], module.hold

    def hold(path):
        opened.append(path)
        if len(opened) == 1:
            CacheFolder().clear()
        return open_once(path)

    monkeypatch.setattr("jepawm.data.loading.frame_cache.hold", hold)
    cache = FrameCache(dataset)
    assert len(opened) == 2
    assert cache.path.is_dir()


@pytest.mark.parametrize("limit", ["much", "-1", "0", "nan"])
def test_a_wrong_limit_is_named(limit, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    with pytest.raises(ConfigError, match=f"{LIMIT_VARIABLE} is '{limit}', expected a number of GiB above 0"):
        CacheFolder().make_room(1, "x")


def test_the_command_lists_and_clears(write, root, capsys):
    dataset = write()
    ids = dataset.episode_ids.tolist()
    caches = [FrameCache(dataset, keep=ids[:n]) for n in (2, 3)]
    keys = [cache.path.name for cache in caches]
    assert jepawm_command(["data", "cache", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{keys[0]}  {dataset.spec.name}  ")
    assert lines[0].endswith("in use")
    assert lines[2].startswith(f"{root}: 2 copies, ")
    del caches
    gc.collect()
    assert jepawm_command(["data", "cache", "clear", "nonsense"]) == 1
    assert "there is no copy nonsense" in capsys.readouterr().err
    assert jepawm_command(["data", "cache", "clear", keys[0]]) == 0
    assert capsys.readouterr().out.startswith(f"{root}: removed 1 copies, ")
    assert names(CacheFolder()) == [keys[1]]
    assert jepawm_command(["data", "cache", "list", keys[1]]) == 2
