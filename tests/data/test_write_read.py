"""Round trips, the writer's promises, and every error of writer and reader by its message."""

import dataclasses
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import jepawm
from jepawm.data import (
    DatasetSpec,
    EpisodeDataset,
    EpisodeWriter,
    PixelSpec,
    RunningMoments,
    check_dataset,
    compute_statistics,
    finish_dataset,
)
from jepawm.data.codecs import CODECS, FrameError, decode_frames, encode_frames
from jepawm.data.statistics import statistics_of
from jepawm.errors import DataError
from jepawm.types import ActionSpec, Episode, VectorSpec

REPOSITORY = Path(jepawm.__file__).parents[1]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )


def assert_episodes_equal(left: Episode, right: Episode, *, pixels: bool = True) -> None:
    assert left.episode_id == right.episode_id
    assert left.info == right.info
    for name in ("pixels", "actions", "proprio", "sim_state")[0 if pixels else 1 :]:
        a, b = getattr(left, name), getattr(right, name)
        if a is None or b is None:
            assert a is b
        else:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_importing_the_room_is_cheap():
    code = (
        "import sys, jepawm.data; heavy = {'pyarrow', 'cv2', 'torch', 'ray', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    assert run_python(code).returncode == 0, run_python(code).stderr


def test_the_room_never_imports_torch_or_ray():
    code = (
        "import sys, jepawm.data as d; [getattr(d, n) for n in d.__all__]; import jepawm.cli.data; "
        "import jepawm.data.importers.pusht_zarr; heavy = {'torch', 'ray', 'zarr'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("codec", CODECS)
def test_round_trip(codec, write, spec, make_episode):
    dataset = write(codec=codec)
    assert dataset.num_shards > 1
    assert dataset.spec == dataclasses.replace(spec, pixels=PixelSpec(16, 20, 3, codec))
    for episode_id, frames in zip(dataset.episode_ids, dataset.num_frames_each, strict=True):
        expected, found = make_episode(int(episode_id), int(frames), spec), dataset.read_episode(episode_id)
        assert_episodes_equal(found, expected, pixels=codec != "jpeg")
        error = np.abs(found.pixels.astype(int) - expected.pixels)
        assert error.mean() < 2
        assert error.max() <= 12
        for name in ("actions", "proprio", "sim_state"):
            np.testing.assert_array_equal(dataset.read_column(name, episode_id), getattr(expected, name))
    assert check_dataset(dataset.path) == []


@pytest.mark.parametrize(("codec", "channels"), [("zstd", 1), ("zstd", 5), ("jpeg", 1), ("png", 1), ("raw", 2)])
def test_round_trip_of_other_channel_counts(codec, channels):
    pixels = np.full((2, 8, 9, channels), 40, dtype=np.uint8)
    pixels[:, 4:] = 90
    found = decode_frames(encode_frames(pixels, codec), codec, (8, 9, channels))
    assert np.abs(found.astype(int) - pixels).max() <= (6 if codec == "jpeg" else 0)


def test_jpeg_keeps_colours_in_order():
    pixels = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    assert decode_frames(encode_frames(pixels, "jpeg"), "jpeg", (16, 16, 3))[0, 8, 8, 0] > 190


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", ["empty", "half", "other size"])
def test_undecodable_frames(codec, damage):
    frame = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 3), dtype=np.uint8)
    data = encode_frames(frame[:, :8] if damage == "other size" else frame, codec)[0]
    data = {"empty": b"", "half": data[: len(data) // 2], "other size": data}[damage]
    with pytest.raises(FrameError, match="frame 1: "):
        decode_frames([encode_frames(frame, codec)[0], data], codec, (16, 16, 3))


def test_codec_errors():
    with pytest.raises(DataError, match=r"unknown codec 'jpg'.*jpeg"):
        PixelSpec(4, 4, 3, "jpg")
    with pytest.raises(DataError, match="holds 1 or 3 channels, the frames have 4"):
        PixelSpec(4, 4, 4, "png")


def test_without_sim_state(write, spec, make_episode):
    plain = dataclasses.replace(spec, sim_state=None)
    dataset = write(of=plain)
    assert dataset.read_episode(10).sim_state is None
    with pytest.raises(DataError, match="has no column 'sim_state'"):
        dataset.read_column("sim_state", 10)
    assert check_dataset(dataset.path) == []


def test_statistics_match_numpy(write, spec):
    dataset = write()
    for ids in (None, [10, 16, 31]):
        chosen = dataset.episode_ids if ids is None else ids
        statistics = compute_statistics(dataset, ids)
        for column, prefix in (("actions", "action"), ("proprio", "proprio")):
            values = np.concatenate([dataset.read_column(column, i) for i in chosen]).astype(np.float64)
            np.testing.assert_allclose(getattr(statistics, f"{prefix}_mean"), values.mean(0), rtol=1e-6)
            np.testing.assert_allclose(getattr(statistics, f"{prefix}_std"), values.std(0), rtol=1e-6)
    # Same episodes in the same order, but merged chunk by chunk instead of episode by episode.
    for key, values in compute_statistics(dataset).to_dict().items():
        assert values == pytest.approx(getattr(dataset.statistics, key), rel=1e-6)


def test_moments_do_not_lose_digits_far_from_zero():
    values = 1e6 + np.random.default_rng(0).normal(size=(1000, 1))
    moments = RunningMoments(1)
    for part in np.array_split(values, 7):
        moments.update(part)
    np.testing.assert_allclose(moments.mean_std()[1], values.std(0), rtol=1e-9)


def test_a_constant_dimension_is_named_and_gets_std_1(tmp_path, spec, make_episode):
    writer = EpisodeWriter(tmp_path / "d", spec)
    for number in range(2):
        episode = make_episode(number, 12, spec)
        episode.actions[:, 1] = 0.1
        writer.write(episode)
    with pytest.warns(UserWarning, match=r"action dimension\(s\) 1.* never change"):
        writer.close()
    assert EpisodeDataset(tmp_path / "d").statistics.action_std[1] == 1.0


BROKEN = {
    r"pixels: expected uint8 \[F,Y,X,C\], found float32": lambda e: {"pixels": e.pixels.astype(np.float32)},
    r"pixels: expected shape \(6, 16, 20, 3\)": lambda e: {"pixels": e.pixels[:, :8]},
    r"actions: expected shape \(5, 2\) \(6 frames\), found \(6, 2\)": lambda e: {
        "actions": np.zeros((6, 2), np.float32)
    },
    "actions: expected float32, found float64": lambda e: {"actions": e.actions.astype(np.float64)},
    "actions: expected float32, found list": lambda e: {"actions": e.actions.tolist()},
    "proprio: holds NaN or infinity, first at row 2": lambda e: {
        "proprio": np.where(np.arange(6)[:, None] == 2, np.float32(np.nan), e.proprio)
    },
    "actions: holds NaN or infinity, first at row 0": lambda e: {"actions": e.actions * np.float32(np.inf)},
    "sim_state: expected float64, found float32": lambda e: {"sim_state": e.sim_state.astype(np.float32)},
    "sim_state: is None": lambda e: {"sim_state": None},
    "pixels: an episode needs at least 2 frames, found 1": lambda e: {"pixels": e.pixels[:1]},
    "episode_id: expected 0 or larger": lambda e: {"episode_id": -1},
    "episode_id: expected an integer, found '3'": lambda e: {"episode_id": "3"},
    "info: cannot be stored as JSON": lambda e: {"info": {"a": np.zeros(2)}},
}


@pytest.mark.parametrize("message", BROKEN)
def test_writer_refuses_a_broken_episode_and_goes_on(message, tmp_path, spec, make_episode):
    episode = make_episode(4, 6, spec)
    with EpisodeWriter(tmp_path / "d", spec) as writer:
        with pytest.raises(DataError, match=r"episode (4|-1|3): " + message):
            writer.write(dataclasses.replace(episode, **BROKEN[message](episode)))
        writer.write(episode)
        with pytest.raises(DataError, match="episode 4: episode_id: was written before"):
            writer.write(episode)
    assert EpisodeDataset(tmp_path / "d").episode_ids.tolist() == [4]


def test_sim_state_that_the_spec_does_not_have(tmp_path, spec, make_episode):
    writer = EpisodeWriter(tmp_path / "d", dataclasses.replace(spec, sim_state=None))
    with pytest.raises(DataError, match="sim_state: is given, the dataset's spec has none"):
        writer.write(make_episode(4, 6, spec))


def test_writer_refusals(tmp_path, write, spec, make_episode):
    dataset = write()
    with pytest.raises(DataError, match="already exists; pass resume=True"):
        EpisodeWriter(dataset.path, spec)
    other = dataclasses.replace(spec, action=ActionSpec(3, (-1.0,) * 3, (1.0,) * 3))
    with pytest.raises(DataError, match="cannot resume, 'action' is"):
        EpisodeWriter(dataset.path, other, chunk_frames=8, resume=True)
    with pytest.raises(DataError, match="cannot resume, 'chunk_frames' is 8 on disk and 64 here"):
        EpisodeWriter(dataset.path, spec, resume=True)
    with pytest.raises(DataError, match="no episode was written"):
        EpisodeWriter(tmp_path / "empty", spec).close()
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.tmp").write_text("precious")
    with pytest.raises(DataError, match=r"is not a dataset .* not empty"):
        EpisodeWriter(stranger, spec, resume=True)
    assert [p.name for p in stranger.iterdir()] == ["thesis.tmp"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="already exists"):
        EpisodeWriter(tmp_path / "file", spec, resume=True)
    writer = EpisodeWriter(tmp_path / "closed", spec)
    writer.write(make_episode(0, 5, spec))
    with pytest.raises(DataError, match="another process is writing this dataset"):
        EpisodeWriter(tmp_path / "closed", spec, resume=True)
    writer.close()
    with pytest.raises(DataError, match="this writer is closed"):
        writer.write(make_episode(1, 5, spec))


def test_exception_leaves_it_unfinished_and_keeps_what_was_written(tmp_path, spec, make_episode):
    with pytest.raises(KeyboardInterrupt), EpisodeWriter(tmp_path / "d", spec) as writer:  # noqa: PT012
        writer.write(make_episode(3, 12, spec))
        raise KeyboardInterrupt
    with pytest.raises(
        DataError, match=r"not finished; its shards hold 1 complete episodes \(12 frames\).*resume=True"
    ):
        EpisodeDataset(tmp_path / "d")
    assert any("not finished" in v.message for v in check_dataset(tmp_path / "d"))
    finish_dataset(tmp_path / "d")
    assert_episodes_equal(EpisodeDataset(tmp_path / "d").read_episode(3), make_episode(3, 12, spec))
    assert check_dataset(tmp_path / "d") == []


def test_a_place_where_nothing_can_be_written_is_one_clear_error(tmp_path, spec):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/d: no dataset can be written here: .*; choose another path"):
        EpisodeWriter(tmp_path / "file" / "d", spec)
    assert (tmp_path / "file").read_text() == "x"


def test_resume_of_a_complete_dataset_appends(write, spec, make_episode):
    dataset = write()
    before = dataset.fingerprint
    with EpisodeWriter(dataset.path, spec, chunk_frames=8, resume=True) as writer:
        assert writer.finished_episode_ids == set(dataset.episode_ids.tolist())
    assert EpisodeDataset(dataset.path).fingerprint == before
    with EpisodeWriter(dataset.path, spec, chunk_frames=8, resume=True) as writer:
        writer.write(make_episode(999, 20, spec))
        with pytest.raises(DataError, match="not finished"):
            EpisodeDataset(dataset.path)
    grown = EpisodeDataset(dataset.path)
    assert grown.episode_ids.tolist() == [*dataset.episode_ids.tolist(), 999]
    assert grown.fingerprint != before
    assert check_dataset(dataset.path) == []


def write_until(path, spec, episodes, fatal):
    """Writes what is missing; the process ends without a farewell before episode number `fatal`."""
    with EpisodeWriter(path, spec, shard_frames=60, chunk_frames=8, resume=True) as writer:
        for number, episode in enumerate(episodes):
            if episode.episode_id not in writer.finished_episode_ids:
                if number == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                writer.write(episode)


def test_kill_at_any_moment_then_resume_gives_the_same_dataset(tmp_path, write, spec, make_episode):
    whole = write("whole")
    episodes = [
        make_episode(int(i), int(n), spec) for i, n in zip(whole.episode_ids, whole.num_frames_each, strict=True)
    ]
    path = tmp_path / "killed"
    for fatal in (0, 3, 7, None):
        process = multiprocessing.get_context("fork").Process(target=write_until, args=(path, spec, episodes, fatal))
        process.start()
        process.join()
        assert process.exitcode == (0 if fatal is None else -signal.SIGKILL)
        if fatal is not None:
            with pytest.raises(DataError, match="not finished"):
                EpisodeDataset(path)
        if fatal == 7:
            assert list((path / "shards").glob("*.tmp"))
    resumed = EpisodeDataset(path)
    assert resumed.fingerprint == whole.fingerprint
    assert (path / "meta.json").read_text() == (whole.path / "meta.json").read_text()
    for episode in episodes:
        assert_episodes_equal(resumed.read_episode(episode.episode_id), episode)
    assert check_dataset(path) == []


def test_a_failing_disk_never_publishes_half_an_episode(tmp_path, spec, make_episode, monkeypatch):
    import jepawm.data.writer as module

    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), EpisodeWriter(tmp_path / "d", spec) as writer:  # noqa: PT012
        writer.write(make_episode(0, 12, spec))
        monkeypatch.setattr(module, "chunk_table", fail)
        writer.write(make_episode(1, 12, spec))
    assert list((tmp_path / "d" / "shards").iterdir()) == []
    monkeypatch.undo()
    with EpisodeWriter(tmp_path / "d", spec, resume=True) as writer:
        assert writer.finished_episode_ids == frozenset()
        writer.write(make_episode(1, 12, spec))
        writer.close()


def test_reader_errors(tmp_path, write, spec):
    dataset = write()
    with pytest.raises(DataError, match="no such dataset folder"):
        EpisodeDataset(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"not a jepawm-episodes dataset, it has no meta\.json"):
        EpisodeDataset(tmp_path / "folder")
    with pytest.raises(DataError, match="there is no episode 11; the dataset holds 8 episodes with ids 10 to 31"):
        dataset.read_episode(11)
    with pytest.raises(DataError, match=r"unknown column 'action' \(did you mean 'actions'"):
        dataset.read_column("action", 10)
    meta_path = dataset.path / "meta.json"
    good = meta_path.read_text()
    for change, message in (
        ({"format_version": 2}, "format_version 2 is newer than this jepawm reads"),
        ({"format": "lerobot"}, "key 'format' is 'lerobot'"),
        ({"control_hz": "10"}, "key 'control_hz' is '10', expected int or float"),
        ({"pixels": {"height": 3}}, "key 'pixels' cannot be read"),
        ({"staus": 1}, r"unknown key 'staus' \(did you mean 'status'"),
        ({"chunk_frames": True}, "key 'chunk_frames' is True"),
    ):
        meta_path.write_text(json.dumps({**json.loads(good), **change}))
        with pytest.raises(DataError, match=message):
            EpisodeDataset(dataset.path)
    meta_path.write_text(good[:-20])
    with pytest.raises(DataError, match=r"meta\.json: not valid JSON"):
        EpisodeDataset(dataset.path)
    meta_path.write_text(good)
    (dataset.path / "episodes.parquet").unlink()
    with pytest.raises(DataError, match=r"the episode index is missing; rebuild it with .*finish_dataset"):
        EpisodeDataset(dataset.path)
    finish_dataset(dataset.path)
    assert EpisodeDataset(dataset.path).fingerprint == dataset.fingerprint


def test_missing_and_truncated_shards(write):
    dataset = write()
    shard = dataset.shard_path(1)
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    victim = int(EpisodeDataset(dataset.path).episodes_of_shard(1)[0])
    with pytest.raises(DataError, match=r"shard-00001\.parquet: shard is truncated or not Parquet"):
        EpisodeDataset(dataset.path).read_episode(victim)
    shard.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(DataError, match=r"shard-00001\.parquet: rows? \d+ .*cannot be read"):
        EpisodeDataset(dataset.path).read_episode(victim)
    shutil.copy(dataset.shard_path(0), shard)
    with pytest.raises(DataError, match=r"shard-00001\.parquet: row \d+ belongs to episode 10, the index says"):
        EpisodeDataset(dataset.path).read_episode(victim)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00001\.parquet: shard is missing \(1 missing in all, with \d of 8"):
        EpisodeDataset(dataset.path)


def test_fingerprint_survives_copying_and_notices_pixels(tmp_path, write, spec, make_episode):
    dataset = write(codec="raw")
    shutil.copytree(dataset.path, tmp_path / "copy")
    assert EpisodeDataset(tmp_path / "copy").fingerprint == dataset.fingerprint
    with EpisodeWriter(tmp_path / "other", spec, codec="raw", shard_frames=60, chunk_frames=8) as writer:
        for episode_id in dataset.episode_ids.tolist():
            episode = dataset.read_episode(episode_id)
            episode.pixels[0, 0, 0, 0] ^= 1
            writer.write(episode)
    assert EpisodeDataset(tmp_path / "other").fingerprint != dataset.fingerprint


def test_dataset_travels_to_workers(write):
    dataset = write()
    assert pickle.loads(pickle.dumps(dataset)).fingerprint == dataset.fingerprint


def test_spec_round_trip(spec):
    assert DatasetSpec.from_meta(json.loads(json.dumps(spec.to_meta()))) == spec


@pytest.mark.parametrize(
    ("high", "spread", "counts"),
    # Bounds that are equal fix a dimension; what moves there is noise.
    [(1.0, 1e-3, True), (1.0, 1e-5, False), (np.inf, 1e-5, True), (0.0, 1e-9, False)],
)
def test_a_dimension_that_hardly_moves_is_not_divided_by_its_noise(high: float, spread: float, counts: bool) -> None:
    spec = DatasetSpec(
        name="arm",
        control_hz=10.0,
        pixels=PixelSpec(8, 8, 3),
        action=ActionSpec(2, (-high, -1.0), (high, 1.0), names=("slide", "lift")),
        proprio=VectorSpec(1, ("x",)),
    )
    random = np.random.default_rng(0)
    actions, proprio = RunningMoments(2), RunningMoments(1)
    actions.update(np.stack([spread * random.normal(size=99), random.uniform(-1, 1, 99)], axis=1))
    proprio.update(random.normal(size=(99, 1)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        statistics = statistics_of(actions, proprio, spec, "mine")
    assert (statistics.action_std[0] < 0.1) == counts
    assert statistics.action_std[0] == 1.0 or counts
    assert (
        [str(each.message) for each in caught] == [] if counts else "0 (slide) never change" in str(caught[0].message)
    )


@pytest.mark.filterwarnings("ignore:.*never change, or hardly")
def test_a_dataset_with_a_dimension_that_hardly_moves_keeps_the_contract(tmp_path):
    action = ActionSpec(2, (-1.0, -1.0), (1.0, 1.0), names=("slide", "lift"))
    spec = DatasetSpec("arm", 10.0, PixelSpec(8, 8, 3), action, VectorSpec(1, ("x",)), source={})
    random = np.random.default_rng(0)
    actions = np.stack([1e-6 * random.normal(size=9), random.uniform(-1, 1, 9)], axis=1).astype(np.float32)
    with EpisodeWriter(tmp_path / "arm", spec) as writer:
        writer.write(Episode(0, np.zeros((10, 8, 8, 3), np.uint8), actions, random.normal(size=(10, 1)).astype("f4")))
    assert check_dataset(tmp_path / "arm") == []
