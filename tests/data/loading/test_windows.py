"""Splits, window numbers, samplers, and three readers that give equal windows."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import jepawm
from jepawm.data import (
    CacheReader,
    EpisodeDataset,
    FrameCache,
    ShardReader,
    WindowIndex,
    WindowReader,
    WindowSampler,
    decode_window_batch,
    split_episodes,
    windows_of_groups,
)
from jepawm.data.loading.cache_folder import default_cache_root
from jepawm.data.loading.stream_plan import StreamPlan
from jepawm.errors import DataError
from jepawm.types import WindowBatch


def assert_windows_equal(left: WindowBatch, right: WindowBatch) -> None:
    for name in WindowBatch.__dataclass_fields__:
        a, b = getattr(left, name), getattr(right, name)
        if a is None or b is None:
            assert a is b, name
        else:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


def index_of(dataset: EpisodeDataset, frameskip: int, frames: int) -> WindowIndex:
    return WindowIndex(dataset.episode_ids, dataset.num_frames_each, frameskip=frameskip, num_frames_in_window=frames)


# ---- splits


def test_split_is_a_partition_that_ignores_order():
    ids = np.arange(100) * 7 + 3
    train, held_out = split_episodes(ids, 0.1, seed=5)
    assert len(held_out) == 10
    assert sorted([*train, *held_out]) == sorted(ids)
    again = split_episodes(np.random.default_rng(0).permutation(ids), 0.1, seed=5)
    np.testing.assert_array_equal(again[1], held_out)
    assert not np.array_equal(split_episodes(ids, 0.1, seed=6)[1], held_out)
    grown = split_episodes(np.arange(110) * 7 + 3, 0.1, seed=5)[1]
    assert len(np.intersect1d(grown, held_out)) >= 9


def test_split_edges():
    assert len(split_episodes([1, 2, 3], 0.0, seed=0)[1]) == 0
    assert len(split_episodes([1, 2, 3], 0.001, seed=0)[1]) == 1
    with pytest.raises(DataError, match="holding out 1 of 1 episodes leaves none to train on"):
        split_episodes([1], 0.1, seed=0)
    with pytest.raises(DataError, match=r"held_out_fraction must lie in \[0, 1\), found 1.0"):
        split_episodes([1, 2], 1.0, seed=0)
    with pytest.raises(DataError, match="must be distinct"):
        split_episodes([1, 1], 0.5, seed=0)


# ---- window numbers


@pytest.mark.parametrize(("frameskip", "frames"), [(1, 1), (1, 2), (3, 4), (5, 4)])
def test_locate_lists_every_window_once(frameskip, frames):
    ids, lengths = [4, 9, 2, 30], [3, 17, 1, 40]
    index = WindowIndex(ids, lengths, frameskip=frameskip, num_frames_in_window=frames)
    span = (frames - 1) * frameskip + 1
    expected = [(i, s) for i, n in zip(ids, lengths, strict=True) for s in range(n - span + 1)]
    assert len(index) == len(expected)
    order = np.random.default_rng(0).permutation(len(index))
    found = list(zip(*index.locate(order), strict=True))
    assert found == [expected[k] for k in order]


def test_window_index_errors():
    with pytest.raises(
        DataError,
        match=r"no windows: 4 frames at frameskip 5 span 16 frames, the longest of 2 episodes has 15",
    ):
        WindowIndex([0, 1], [15, 3], frameskip=5, num_frames_in_window=4)
    with pytest.raises(DataError, match="must be 1 or more, found 0 and 4"):
        WindowIndex([0], [15], frameskip=0, num_frames_in_window=4)
    index = WindowIndex([0], [15], frameskip=1, num_frames_in_window=4)
    for wrong in ([-1], [12]):
        with pytest.raises(DataError, match=r"window ids must lie in \[0, 12\)"):
            index.locate(wrong)
    with pytest.raises(DataError, match="expected one each"):
        WindowIndex([0, 1], [15], frameskip=1, num_frames_in_window=4)


# ---- samplers


@pytest.mark.parametrize("num_windows", [64, 100, 37])
def test_every_window_once_per_epoch(num_windows):
    sampler = WindowSampler(num_windows, 16, seed=3)
    stream = np.concatenate([sampler.ids(step) for step in range(3 * num_windows)])
    for epoch in range(3):
        part = stream[epoch * num_windows : (epoch + 1) * num_windows]
        np.testing.assert_array_equal(np.sort(part), np.arange(num_windows))
    assert not np.array_equal(stream[:num_windows], stream[num_windows : 2 * num_windows])


def test_batches_are_a_pure_function_of_seed_and_step():
    sampler = WindowSampler(50, 8, seed=1)
    forward = [sampler.ids(step) for step in range(30)]
    for step in (29, 0, 17, 6, 7, 5):
        # Any order, a fresh object, and after the caller scribbled on an earlier answer.
        sampler.ids(step)[:] = -1
        np.testing.assert_array_equal(sampler.ids(step), forward[step])
        np.testing.assert_array_equal(WindowSampler(50, 8, seed=1).ids(step), forward[step])
    assert not np.array_equal(WindowSampler(50, 8, seed=2).ids(0), forward[0])
    assert forward[0].dtype == np.int64


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_together_are_the_batch_of_one_worker(world_size):
    one = WindowSampler(35, 12, seed=9)
    ranks = [WindowSampler(35, 12, seed=9, rank=r, world_size=world_size) for r in range(world_size)]
    for step in range(20):
        np.testing.assert_array_equal(np.concatenate([r.ids(step) for r in ranks]), one.ids(step))


def test_sampler_errors():
    with pytest.raises(DataError, match=r"batch_size 10 cannot be split over 4 workers; .* such as 8 or 12"):
        WindowSampler(100, 10, seed=0, world_size=4)
    with pytest.raises(DataError, match="batch_size 128 is larger than the number of windows 100"):
        WindowSampler(100, 128, seed=0)
    with pytest.raises(DataError, match=r"rank 2 does not lie in \[0, 2\)"):
        WindowSampler(100, 10, seed=0, rank=2, world_size=2)
    with pytest.raises(DataError, match="train_step must be 0 or larger"):
        WindowSampler(100, 10, seed=0).ids(-1)


# ---- readers


@pytest.mark.parametrize("codec", ["zstd", "jpeg", "raw"])
@pytest.mark.parametrize(("frameskip", "frames"), [(1, 1), (2, 3), (5, 4), (9, 3)])
def test_three_readers_one_truth(codec, frameskip, frames, write, tmp_path):
    dataset = write(codec=codec)
    index = index_of(dataset, frameskip, frames)
    ids, starts = index.locate(np.random.default_rng(0).permutation(len(index)))
    options = {"frameskip": frameskip, "num_frames_in_window": frames}
    cache = FrameCache(dataset, root=tmp_path / "cache")
    readers = [
        ShardReader(dataset, **options),
        ShardReader(dataset, **options, cache_bytes=0, num_threads=2),
        CacheReader(cache, **options),
    ]
    assert all(isinstance(reader, WindowReader) for reader in readers)
    batches = [reader.read(ids, starts) for reader in readers]
    for batch in batches[1:]:
        assert_windows_equal(batch, batches[0])
    for b in range(0, len(ids), 7):
        # Against the definition: frames `start + k * frameskip`, and all the actions in between.
        episode, start = dataset.read_episode(ids[b]), int(starts[b])
        steps = start + np.arange(frames) * frameskip
        np.testing.assert_array_equal(batches[0].pixels[b], episode.pixels[steps])
        np.testing.assert_array_equal(batches[0].proprio[b], episode.proprio[steps])
        np.testing.assert_array_equal(batches[0].sim_state[b], episode.sim_state[steps])
        for k in range(frames - 1):
            chunk = episode.actions[start + k * frameskip : start + (k + 1) * frameskip]
            np.testing.assert_array_equal(batches[0].actions[b, k], chunk.reshape(-1))
    streamed = {}
    for shard in range(dataset.num_shards):
        for table in windows_of_groups(dataset.path, groups_of(dataset, shard), **options, batch_size=5, seed=0):
            decoded = decode_window_batch(table, dataset.spec)
            as_lists = decode_window_batch({n: table[n].to_pylist() for n in table.column_names}, dataset.spec)
            assert_windows_equal(decoded, as_lists)
            assert_windows_equal(decoded, readers[0].read(decoded.episode_ids, decoded.starts))
            for key in zip(decoded.episode_ids.tolist(), decoded.starts.tolist(), strict=True):
                assert key not in streamed
                streamed[key] = True
    assert streamed.keys() == set(zip(ids.tolist(), starts.tolist(), strict=True))


def test_reader_errors(write, tmp_path):
    dataset = write()
    options = {"frameskip": 2, "num_frames_in_window": 3}
    keep = FrameCache(dataset, root=tmp_path, keep=[10, 13])
    for reader in (ShardReader(dataset, **options), CacheReader(keep, **options)):
        with pytest.raises(DataError, match="episode 10: a window of 5 frames from frame 5 does not lie within its 9"):
            reader.read(np.array([13, 10]), np.array([0, 5]))
        with pytest.raises(DataError, match="does not lie within"):
            reader.read(np.array([10]), np.array([-1]))
    with pytest.raises(DataError, match="there is no episode 11"):
        ShardReader(dataset, **options).read(np.array([11]), np.array([0]))
    for absent in (16, 9999, 0):
        with pytest.raises(DataError, match=f"episode {absent} is not in this frame cache"):
            CacheReader(keep, **options).read(np.array([absent]), np.array([0]))


# ---- the frame cache


def test_cache_holds_the_decoded_bytes_and_is_filled_once(write, tmp_path):
    dataset = write(codec="jpeg")
    calls = []
    cache = FrameCache(dataset, root=tmp_path / "c", progress=lambda done, total: calls.append((done, total)))
    total = int(dataset.num_frames_each.sum())
    assert calls[-1] == (total, total)
    for i, episode_id in enumerate(cache.episode_ids):
        rows = slice(cache.first_row[i], cache.first_row[i] + cache.num_frames_each[i])
        episode = dataset.read_episode(episode_id)
        np.testing.assert_array_equal(cache.pixels[rows], episode.pixels)
        np.testing.assert_array_equal(cache.actions[rows][:-1], episode.actions)
    count = len(calls)
    again = FrameCache(dataset, root=tmp_path / "c", progress=lambda *a: calls.append(a))
    assert len(calls) == count
    assert again.path == cache.path
    assert not cache.pixels.flags.writeable
    kept = FrameCache(dataset, root=tmp_path / "c", keep=[31, 10])
    assert kept.path != cache.path
    assert kept.episode_ids.tolist() == [10, 31]
    with pytest.raises(DataError, match="there is no episode 5"):
        FrameCache(dataset, root=tmp_path / "c", keep=[5])


def test_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path / "x"))
    assert default_cache_root() == tmp_path / "x"
    monkeypatch.delenv("JEPAWM_CACHE")
    assert default_cache_root() == Path.home() / ".cache" / "jepawm" / "frames"


def test_cache_checks_the_disk_first(write, tmp_path, monkeypatch):
    import jepawm.data.loading.frame_cache as module

    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(DataError, match=r"needs 0.00 GiB, 0.00 GiB are free and .*; set JEPAWM_CACHE to a larger"):
        FrameCache(write(), root=tmp_path / "c")
    assert [p.suffix for p in (tmp_path / "c").iterdir()] in ([], [".lock"])


def test_a_damaged_dataset_or_cache_is_named(write, tmp_path):
    dataset = write()
    cache = FrameCache(dataset, root=tmp_path / "c")
    pixels = cache.path / "pixels.npy"
    pixels.write_bytes(pixels.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"the frame cache is damaged.*delete this folder"):
        FrameCache(dataset, root=tmp_path / "c")
    shard = dataset.shard_path(0)
    content = bytearray(shard.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00000\.parquet: row"):
        FrameCache(EpisodeDataset(dataset.path), root=tmp_path / "other")
    assert not [p for p in (tmp_path / "other").iterdir() if p.is_dir()]


FILL = """
import pathlib, sys, time
import jepawm.data.loading.frame_cache as module
from jepawm.data import EpisodeDataset
fill = module._fill
def held_up(*arguments):
    print("filling", flush=True)
    while not pathlib.Path(sys.argv[3]).exists():
        time.sleep(0.01)
    fill(*arguments)
module._fill = held_up
cache = module.FrameCache(EpisodeDataset(sys.argv[1]), root=sys.argv[2])
print(int(cache.pixels.sum()))
"""


def test_one_process_fills_the_others_wait(write, tmp_path):
    dataset, go_on = write(), tmp_path / "go_on"
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", FILL, str(dataset.path), str(tmp_path / "c"), str(go_on)]
        root = Path(jepawm.__file__).parents[1]
        process = subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    try:
        first = start()
        assert first.stdout.readline() == "filling\n"
        second = start()
        # The line comes when the second process waits; it comes never if that process fills as well.
        assert "another process of this node is filling" in second.stderr.readline()
        go_on.touch()
        answers = [process.communicate() for process in (first, second)]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0], answers
    assert "filling" not in answers[1][0]
    assert answers[0][0] == answers[1][0]


def test_a_killed_fill_leaves_no_cache_behind(write, tmp_path):
    dataset = write()
    folder = tmp_path / "c"
    leftover = folder / (dataset.fingerprint + ".tmp")
    leftover.mkdir(parents=True)
    (leftover / "pixels.npy").write_bytes(b"half")
    cache = FrameCache(dataset, root=folder)
    assert not leftover.exists()
    assert json.loads((cache.path / "cache.json").read_text())["fingerprint"] == dataset.fingerprint


# ---- the stream


def groups_of(dataset: EpisodeDataset, *shards: int) -> list[tuple[int, int]]:
    return [(shard, group) for shard in shards for group in range(dataset.shard(shard).num_groups)]


def keys_of(tables: Iterable[pa.Table]) -> list[tuple[int, int]]:
    return [
        key for table in tables for key in zip(*(table[n].to_pylist() for n in ("episode_id", "start")), strict=True)
    ]


@pytest.mark.parametrize("spread", [False, True])
def test_stream_order_depends_on_seed_and_groups_only(write, spread):
    dataset = write()
    options = {"frameskip": 1, "num_frames_in_window": 3, "batch_size": 4, "spread": spread}
    groups = groups_of(dataset, 0)

    def keys(seed: int, **more: object) -> list[tuple[int, int]]:
        tables = list(windows_of_groups(dataset, groups, **options, seed=seed, **more))
        assert all(t.num_rows == 4 for t in tables[:-1])
        return keys_of(tables)

    assert keys(0) == keys(0)
    assert keys(0) != keys(1)
    assert sorted(keys(0)) == sorted(keys(1))
    assert keys(0, skip=5) == keys(0)[5:]
    only = int(dataset.episodes_of_shard(0)[1])
    assert {i for i, _ in keys(0, episode_ids=[only])} == {only}
    assert list(windows_of_groups(dataset, groups, **options, seed=0, episode_ids=[])) == []


def write_small_episodes(path: Path, lengths: Sequence[int], shard_frames: int = 200) -> EpisodeDataset:
    """Episodes of tiny frames that carry their frame number, a shard for every few and a row for every 8 frames."""
    from jepawm.data import DatasetSpec, EpisodeWriter, PixelSpec
    from jepawm.types import ActionSpec, Episode, VectorSpec

    pixels = PixelSpec(4, 4, codec="raw")
    spec = DatasetSpec("small", 10.0, pixels, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)), VectorSpec(2))
    with EpisodeWriter(path, spec, shard_frames=shard_frames, chunk_frames=8) as writer:
        for episode_id, length in enumerate(lengths):
            numbers = np.arange(length, dtype=np.float32)
            vectors = np.stack([numbers, np.full(length, episode_id, np.float32)], axis=1)
            frames = np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (length, 4, 4, 3)).copy()
            writer.write(Episode(episode_id, frames, vectors[:-1].copy(), vectors))
    return EpisodeDataset(path)


def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of a shard is a row group of its own, as with large frames."""
    monkeypatch.setattr("jepawm.data.writer.ROW_GROUP_BYTES", 1)


def test_parts_of_a_stream_hold_each_window_once_an_epoch_and_a_restart_finds_its_place(tmp_path, monkeypatch):
    small_row_groups(monkeypatch)
    dataset = write_small_episodes(tmp_path / "d", [3, 30, 17, 40, 9, 25] * 4)
    options = {"frameskip": 2, "num_frames_in_window": 4}
    allowed = dataset.episode_ids[::2]
    index = WindowIndex(allowed, [dataset.num_frames(i) for i in allowed.tolist()], **options)
    whole = sorted(zip(*(a.tolist() for a in index.locate(np.arange(len(index)))), strict=True))
    assert dataset.num_shards > 1
    sizes = sum(dataset.shard(s).nbytes_of(g) for s, g in groups_of(dataset, *range(dataset.num_shards)))
    plan = StreamPlan(dataset, allowed, **options, seed=3, part_bytes=sizes // 20)
    assert plan.num_windows == len(index)
    reader = ShardReader(dataset, **options)

    def stream(first: int, last: int) -> list[tuple[int, int]]:
        found = []
        for part in plan.between(first, last):
            seed = 100 * part.epoch + part.number
            more = {"seed": seed, "episode_ids": allowed, "skip": part.skip, "spread": not part.is_whole}
            tables = list(windows_of_groups(dataset, part.groups, **options, batch_size=9, **more))
            assert sum(table.num_rows for table in tables) == part.num_windows - part.skip
            for table in tables[:2]:
                # Windows end in other rows, row groups and shards than they start in.
                batch = decode_window_batch(table, dataset.spec)
                assert_windows_equal(batch, reader.read(batch.episode_ids, batch.starts))
            found += keys_of(tables)
        return found

    epochs = stream(0, 2 * len(index) - 1)
    first, second = epochs[: len(index)], epochs[len(index) : 2 * len(index)]
    assert len(plan.parts(0)) > 3
    assert sorted(first) == sorted(second) == whole
    assert first != second
    for done in (1, len(index) // 2, len(index), len(index) + 7):
        assert stream(done, 2 * len(index) - 1) == epochs[done:]
    with pytest.raises(DataError, match="no episode is long enough for a window of 41 frames"):
        StreamPlan(dataset, allowed, frameskip=10, num_frames_in_window=5, seed=0)


def test_a_batch_of_a_part_mixes_as_many_episodes_as_one_of_the_whole_dataset(tmp_path, monkeypatch):
    # 600 episodes of one row in 5 shards; a part holds a quarter of them.
    small_row_groups(monkeypatch)
    dataset = write_small_episodes(tmp_path / "d", [8] * 600, shard_frames=1000)
    options = {"frameskip": 1, "num_frames_in_window": 2}
    groups = groups_of(dataset, *range(dataset.num_shards))
    sizes = sum(dataset.shard(s).nbytes_of(g) for s, g in groups)
    plan = StreamPlan(dataset, dataset.episode_ids, **options, seed=0, part_bytes=-(-sizes // 4))
    (part, *others) = plan.parts(0)
    assert len(others) == 3
    tables = windows_of_groups(dataset, part.groups, **options, batch_size=64, seed=0, spread=True)
    distinct = [len(np.unique(table["episode_id"].to_numpy())) for table in tables if table.num_rows == 64]
    # 64 windows drawn from 600 equal episodes.
    uniform = 600 * (1 - (1 - 1 / 600) ** 64)
    assert len(distinct) == 16
    assert abs(np.mean(distinct) / uniform - 1) < 0.05


def test_stream_errors(write):
    dataset = write()
    options = {"frameskip": 1, "num_frames_in_window": 3, "seed": 0}
    with pytest.raises(DataError, match="there is no shard 9, the dataset has"):
        next(windows_of_groups(dataset, [(9, 0)], **options, batch_size=4))
    with pytest.raises(DataError, match="there is no row group 99, the shard has"):
        next(windows_of_groups(dataset, [(0, 99)], **options, batch_size=4))
    with pytest.raises(DataError, match="batch_size must be 1 or more, found 0"):
        next(windows_of_groups(dataset, [(0, 0)], **options, batch_size=0))
    table = next(windows_of_groups(dataset, groups_of(dataset, 0), **options, batch_size=4))
    with pytest.raises(DataError, match=r"columns \['proprio'\] are missing"):
        decode_window_batch(table.drop_columns(["proprio"]), dataset.spec)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    columns["frames"][1][2] = b"junk"
    with pytest.raises(DataError, match=r"episode \d+, window from frame \d+, its frame 2: 4 bytes are not"):
        decode_window_batch(columns, dataset.spec)
    columns["frames"][1].pop()
    with pytest.raises(DataError, match="11 frames in 4 windows; windows must be equally long"):
        decode_window_batch(columns, dataset.spec)


@pytest.mark.skipif(os.environ.get("CI") == "true", reason="a time limit means little on a shared CI machine")
def test_gather_is_not_accidentally_slow(tmp_path):
    """128 windows of 4 frames 64x64x3: about 1 ms; the limit catches a Python loop or a copy too many."""
    import time

    from jepawm.data import DatasetSpec, EpisodeWriter, PixelSpec
    from jepawm.types import ActionSpec, Episode, VectorSpec

    spec = DatasetSpec("g", 10.0, PixelSpec(64, 64), ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)), VectorSpec(2))
    rng = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / "d", spec) as writer:
        for i in range(40):
            vectors = rng.normal(size=(51, 4)).astype(np.float32)
            pixels = np.full((51, 64, 64, 3), i, np.uint8)
            writer.write(Episode(i, pixels, vectors[1:, :2].copy(), vectors[:, 2:].copy()))
    dataset = EpisodeDataset(tmp_path / "d")
    cache = FrameCache(dataset, root=tmp_path / "c")
    reader = CacheReader(cache, frameskip=5, num_frames_in_window=4)
    index = index_of(dataset, 5, 4)
    sampler = WindowSampler(len(index), 128, seed=0)
    times = []
    for step in range(15):
        begin = time.perf_counter()
        reader.read(*index.locate(sampler.ids(step)))
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.01
