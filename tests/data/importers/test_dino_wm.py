"""DINO-WM's folders become datasets: every number where it belongs, and whatever is wrong with them named."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_datasets import (
    PARTICLES,
    PUSHT_LENGTHS,
    SIZE,
    Content,
    dino_wm_deformable,
    dino_wm_pointmaze,
    dino_wm_pusht,
    dino_wm_wall,
    frames_of,
    video_bytes,
)

from jepawm.checkpoints.zoo import ENVS
from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.data.importers.tensors import load_array, load_saved
from jepawm.errors import DataError
from jepawm.types import Statistics

pytest.importorskip("av")


def convert(source: Path, destination: Path, form: str = "auto", **options: Any) -> EpisodeDataset:
    import_episodes(open_source(source, form, ImportOptions(**options)), destination)
    assert check_dataset(destination) == []
    return EpisodeDataset(destination)


def test_pusht(tmp_path):
    content = dino_wm_pusht(tmp_path / "pusht_noise", lambda c: c.update({"shapes.pkl": ["T", "small_tee", "+"]}))
    dataset = convert(tmp_path / "pusht_noise", tmp_path / "d")
    spec = dataset.spec
    assert spec.name == "dino-wm-pusht"
    assert spec.control_hz == 10
    assert spec.pixels.codec == "jpeg"
    assert (spec.action.low, spec.action.high) == ((-5.12, -5.12), (5.12, 5.12))
    assert spec.source["env"] == {"id": "envs:envs/PushT-v1"}
    assert spec.source["split"] == "train"
    published = Statistics.from_dict(spec.source["published_statistics"])
    np.testing.assert_array_equal(published.proprio_std, ENVS["pusht"].statistics.proprio_std)
    for number, (length, shape) in enumerate(zip(PUSHT_LENGTHS, ("T", "small_T", "plus"), strict=True)):
        episode = dataset.read_episode(number)
        state, velocity = content["states.pth"][number, :length], content["velocities.pth"][number, :length]
        np.testing.assert_array_equal(episode.sim_state, np.concatenate([state, velocity], axis=1))
        np.testing.assert_array_equal(episode.proprio, np.concatenate([state[:, :2], velocity], axis=1))
        # The environment multiplies by 100 again. The last action leads nowhere.
        np.testing.assert_allclose(episode.actions * 100, content["rel_actions.pth"][number, : length - 1], rtol=1e-6)
        wrong = np.abs(episode.pixels.astype(int) - frames_of(number, length))
        assert wrong.mean() < 2
        assert episode.info == {"source_episode": number, "variation": {"block.shape": shape}}


def test_pusht_splits_and_bounds(tmp_path):
    root = tmp_path / "pusht_noise"
    dino_wm_pusht(root)
    dino_wm_pusht(root, lambda c: c["rel_actions.pth"].__setitem__((1, 2, 1), -523.0), split="val")
    dataset = convert(root, tmp_path / "val", split="val", image_size=16, codec="zstd")
    assert dataset.spec.source["split"] == "val"
    assert dataset.spec.pixels.shape == (16, 16, 3)
    assert dataset.spec.action.high == (5.12, 5.3)
    # Without a list of shapes all blocks are the published T, which needs no words.
    assert dataset.info(0) == {"source_episode": 0}
    assert convert(root / "val", tmp_path / "direct").spec.source["split"] == "val"
    with pytest.raises(DataError, match="is one split already"):
        open_source(root / "val", options=ImportOptions(split="train"))
    with pytest.raises(DataError, match="--split test: DINO-WM's Push-T has the splits"):
        open_source(root, options=ImportOptions(split="test"))
    with pytest.raises(DataError, match="--control-hz 5: the format 'dino-wm-pusht' has no choice of that"):
        open_source(root, options=ImportOptions(control_hz=5))


def test_pointmaze(tmp_path):
    content = dino_wm_pointmaze(tmp_path / "point_maze")
    dataset = convert(tmp_path / "point_maze", tmp_path / "d")
    assert dataset.spec.control_hz == 20
    assert dataset.spec.source["env"] == {"id": "envs:envs/PointMaze-v1"}
    assert dataset.spec.action.high == (1.0, 1.0)
    assert dataset.num_frames_each.tolist() == [6, 5]
    episode = dataset.read_episode(1)
    np.testing.assert_array_equal(episode.pixels, content["obses/episode_001.pth"])
    np.testing.assert_array_equal(episode.sim_state, content["states.pth"][1, :5].astype(np.float64))
    np.testing.assert_array_equal(episode.proprio, content["states.pth"][1, :5])
    np.testing.assert_array_equal(episode.actions, content["actions.pth"][1, :4])


def test_wall(tmp_path):
    content = dino_wm_wall(tmp_path / "wall_single")
    dataset = convert(tmp_path / "wall_single", tmp_path / "d")
    assert dataset.spec.source["env"] == {"id": "envs:envs/Wall-v1"}
    assert dataset.spec.action.max_norm == 1.8
    episode = dataset.read_episode(1)
    # The sixth frame shows a state that was not recorded.
    assert episode.num_frames == 5
    np.testing.assert_array_equal(
        episode.pixels.transpose(0, 3, 1, 2), content["obses/episode_001.pth"][:5].astype(np.uint8)
    )
    np.testing.assert_array_equal(episode.actions, content["actions.pth"][1, :4])
    assert episode.info["variation"] == {"wall.x": 25, "door.y": 20.5}


@pytest.mark.parametrize("material", ["rope", "granular"])
def test_deformable(tmp_path, material):
    def flat(content: Content) -> None:
        content["states.pth"] = content["states.pth"].reshape(2, 4, -1)

    root = tmp_path / "deformable" / material
    content = dino_wm_deformable(root, flat if material == "rope" else None)
    # Nothing but its name tells one from the other.
    assert open_source(root).name == f"dino-wm-{material}"
    with pytest.warns(UserWarning, match="proprio dimension"):
        dataset = convert(root, tmp_path / "d")
    assert dataset.spec.control_hz == 1
    assert dataset.spec.proprio.dim == 1
    assert dataset.spec.sim_state.dim == 4 * PARTICLES
    assert "env" not in dataset.spec.source
    # Nothing was published: bounds are the next tenth above what was recorded.
    largest = np.abs(content["actions.pth"][:, :3]).max(axis=(0, 1))
    assert (dataset.spec.action.high >= largest).all()
    assert (dataset.spec.action.high < largest + 0.1).all()
    episode = dataset.read_episode(1)
    np.testing.assert_array_equal(episode.sim_state, content["states.pth"][1].reshape(4, -1).astype(np.float64))
    np.testing.assert_array_equal(episode.actions, content["actions.pth"][1, :3])
    assert not episode.proprio.any()


def put(name: str, at: Any, value: float) -> Callable[[Content], None]:
    return lambda content: content[name].__setitem__(at, value)


def cut(name: str, how: Callable[[Any], Any]) -> Callable[[Content], None]:
    return lambda content: content.update({name: how(content[name])})


class Hostile:
    """Runs a command when a careless reader loads it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch hostile_was_here",)


V0, O0 = "obses/episode_000.mp4", "obses/episode_000.pth"
# name: (writer, change of the content, message)
FAULTS: dict[str, tuple[Callable[..., Any], Callable[[Content], Any], str]] = {
    "missing tensor": (dino_wm_pusht, lambda c: c.pop("velocities.pth"), r"velocities\.pth: no such file"),
    "missing lengths": (dino_wm_pusht, lambda c: c.pop("seq_lengths.pkl"), r"seq_lengths\.pkl: no such file"),
    "missing video": (dino_wm_pusht, lambda c: c.pop("obses/episode_001.mp4"), r"episode_001\.mp4: no such file"),
    "ragged episodes": (
        dino_wm_pusht,
        cut("velocities.pth", lambda v: v[:2]),
        r"velocities\.pth: has 2 episodes of 9 rows, rel_actions\.pth has 3 of 9",
    ),
    "no rows": (
        dino_wm_wall,
        lambda c: c.update({name: v[:, :0] for name, v in c.items() if name.endswith("s.pth")}),
        r"actions\.pth: has shape \(2, 0, 2\): 0 rows an episode, which needs 2",
    ),
    "one row": (
        dino_wm_wall,
        lambda c: c.update({name: v[:, :1] for name, v in c.items() if name.endswith("s.pth")}),
        r"actions\.pth: has shape \(2, 1, 2\): 1 rows an episode, which needs 2",
    ),
    "ragged rows": (dino_wm_wall, cut("states.pth", lambda v: v[:, :4]), r"states\.pth: has 2 episodes of 4 rows"),
    "width of states": (
        dino_wm_pusht,
        cut("states.pth", lambda v: v[..., :4]),
        r"states\.pth: has shape \(3, 9, 4\), expected \(N, T, 5\)",
    ),
    "width of actions": (
        dino_wm_pointmaze,
        cut("actions.pth", lambda v: np.concatenate([v, v], axis=2)),
        r"actions\.pth: has shape \(2, 6, 4\), expected \(N, T, 2\)",
    ),
    "particles": (
        dino_wm_deformable,
        cut("states.pth", lambda v: v[..., :3]),
        r"states\.pth: has shape .*, expected \(N, T, particles, 4\)",
    ),
    "door": (
        dino_wm_wall,
        cut("door_locations.pth", lambda v: v[:, :2]),
        r"door_locations\.pth: has shape \(2, 2, 1\), expected \(2, 5, 1\)",
    ),
    "NaN in actions": (
        dino_wm_pusht,
        put("rel_actions.pth", (1, 2, 0), np.nan),
        r"rel_actions\.pth: episode 1: row 2 holds NaN",
    ),
    "NaN in states": (dino_wm_pusht, put("states.pth", (2, 8, 4), np.inf), r"states\.pth: episode 2: row 8 holds NaN"),
    "NaN in frames": (dino_wm_wall, put("obses/episode_001.pth", (3, 0, 0, 0), np.nan), "001.pth: frame 3 holds NaN"),
    "range of frames": (dino_wm_wall, put(O0, (2, 0, 0, 0), 256), "000.pth: frame 2 holds NaN or values outside"),
    "scale of frames": (dino_wm_wall, cut(O0, lambda v: v / 255), "seem to be scaled to 0-1; expected 0-255"),
    "layout of frames": (dino_wm_wall, cut(O0, lambda v: v[:, :2]), r"000\.pth: has shape .*, expected frames"),
    "sizes of frames": (
        dino_wm_wall,
        cut("obses/episode_001.pth", lambda v: np.repeat(v, 2, axis=3)),
        r"001\.pth: frames are \(32, 64, 3\), expected \(32, 32, 3\)",
    ),
    "count of frames": (
        dino_wm_wall,
        cut("obses/episode_001.pth", lambda v: v[:4].copy()),
        r"001\.pth: holds 4 frames, its episode has 5 states",
    ),
    "count in video": (dino_wm_pusht, cut(V0, lambda v: v[:-1]), r"000\.mp4: holds 6 frames, its episode has 7 states"),
    "sizes of videos": (
        dino_wm_pusht,
        cut("obses/episode_002.mp4", lambda v: np.repeat(v, 2, axis=1)),
        r"002\.mp4: frames are \(64, 32\) px, those of the first episode \(32, 32\)",
    ),
    "not a video": (dino_wm_pusht, cut("obses/episode_001.mp4", lambda v: b"junk" * 99), "001.mp4: not a video that"),
    "unknown codec": (
        dino_wm_pusht,
        cut(V0, lambda v: video_bytes(v).replace(b"avc1", b"zzzz")),
        r"000\.mp4: PyAV has no decoder for its codec",
    ),
    "truncated video": (
        dino_wm_pusht,
        cut("obses/episode_001.mp4", lambda v: video_bytes(v)[:-300]),
        r"001\.mp4: not a video that can be read, or a damaged one",
    ),
    "lengths too long": (dino_wm_pusht, cut("seq_lengths.pkl", lambda v: [7, 5, 12]), "episode 2 has length 12, exp"),
    "lengths too short": (dino_wm_pointmaze, put("seq_lengths.pth", 0, 1), "episode 0 has length 1, expected 2 to 6"),
    "number of lengths": (
        dino_wm_pusht,
        cut("seq_lengths.pkl", lambda v: v[:2]),
        r"seq_lengths\.pkl: has shape \(2,\), rel_actions\.pth holds 3 episodes",
    ),
    "kind of lengths": (dino_wm_pusht, cut("seq_lengths.pkl", lambda v: ["a", "b", "c"]), "found an array of <U1"),
    "unknown shape": (
        dino_wm_pusht,
        lambda c: c.update({"shapes.pkl": ["T", "T", "small_te"]}),
        r"shapes\.pkl: episode 2: unknown shape 'small_te' \(did you mean 'small_tee'",
    ),
    "number of shapes": (
        dino_wm_pusht,
        lambda c: c.update({"shapes.pkl": ["T"]}),
        "expected a list of 3 shapes, found 1 shapes",
    ),
    "hostile lengths": (
        dino_wm_pusht,
        lambda c: c.update({"seq_lengths.pkl": pickle.dumps(Hostile())}),
        r"seq_lengths\.pkl: its pickle asks for '(posix|nt)\.system'.* refusing to load it",
    ),
    "hostile tensor": (
        dino_wm_pointmaze,
        lambda c: c.update({"states.pth": Hostile()}),
        r"states\.pth: its pickle asks for '(posix|nt)\.system'",
    ),
    "not a tensor": (dino_wm_wall, lambda c: c.update({"actions.pth": "text"}), "expected a tensor .*, found str"),
    "junk tensor": (dino_wm_wall, lambda c: c.update({"actions.pth": b"junk" * 20}), "truncated or damaged pickle"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(fault, tmp_path, monkeypatch):
    write, change, message = FAULTS[fault]
    monkeypatch.chdir(tmp_path)
    form = write.__name__.replace("_", "-").replace("deformable", "rope")
    write(tmp_path / "rope", change)
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "rope", tmp_path / "d", form)
    assert [path.name for path in tmp_path.iterdir()] == ["rope"]


def test_a_truncated_tensor_is_named(tmp_path):
    dino_wm_wall(tmp_path / "wall_single")
    with open(tmp_path / "wall_single" / "obses" / "episode_001.pth", "r+b") as file:
        file.truncate(9000)
    with pytest.raises(DataError, match=r"episode_001\.pth: a truncated or damaged archive.*copy it again"):
        convert(tmp_path / "wall_single", tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["wall_single"]


def test_what_is_no_dino_wm_folder(tmp_path):
    with pytest.raises(DataError, match="there is nothing to convert"):
        open_source(tmp_path / "none", "dino-wm-pusht")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="looks like no known format"):
        open_source(tmp_path / "empty")
    with pytest.raises(DataError, match=r"train.rel_actions\.pth: no such file; expected pusht_noise"):
        open_source(tmp_path / "empty", "dino-wm-pusht")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"expected a folder with actions\.pth"):
        open_source(tmp_path / "file", "dino-wm-wall")


TENSORS = {
    "float": torch.arange(24.0).reshape(2, 3, 4),
    "transposed": torch.arange(6).reshape(2, 3).T,
    "part": torch.arange(10, dtype=torch.int16)[3:7],
    "uint8": torch.arange(12, dtype=torch.uint8).reshape(3, 4),
    "bool": torch.tensor([True, False]),
    "half": torch.tensor([0.5, 2.0]).half(),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "parameter": torch.ones(2, requires_grad=True),
    "expanded": torch.ones(1).expand(4),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_read_as_torch_reads_them(name, tmp_path):
    tensor = TENSORS[name]
    torch.save(tensor, tmp_path / "t.pth")
    found = load_array(tmp_path / "t.pth")
    assert found.dtype == tensor.detach().numpy().dtype
    np.testing.assert_array_equal(found, tensor.detach().numpy())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_of_numbers(protocol, tmp_path):
    for value, expected in (
        ([1, 2, 3], [1, 2, 3]),
        ((np.int64(4), np.float32(0.5)), [4, 0.5]),
        (np.arange(3), [0, 1, 2]),
    ):
        (tmp_path / "p.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
        np.testing.assert_array_equal(load_array(tmp_path / "p.pkl"), expected)
    nested = {"a": [torch.ones(2), "text"], "b": np.arange(2)}
    torch.save(nested, tmp_path / "n.pth")
    assert load_saved(tmp_path / "n.pth")["a"][1] == "text"


def test_old_and_foreign_tensor_files(tmp_path):
    path = tmp_path / "t.pth"
    torch.save(torch.ones(2), path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"format of torch before 1\.6; load it with torch\.load"):
        load_array(path)
    torch.save(torch.ones(2).bfloat16(), path)
    with pytest.raises(DataError, match=r"asks for 'torch\.BFloat16Storage'"):
        load_array(path)
    torch.save(np.array([{}], dtype=object), path)
    with pytest.raises(DataError, match="array of Python objects"):
        load_array(path)
    shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path, "t.pth")
    with pytest.raises(DataError, match=r"a zip, but not one that torch\.save wrote"):
        load_array(tmp_path / "z.zip")


def test_an_array_of_records_is_refused(tmp_path):
    # numpy would take such a state at its word, and follow whatever the bytes say as if they were pointers.
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(np.zeros(2, dtype=[("a", "f8")]), protocol=2))
    with pytest.raises(DataError, match=r"p\.pkl: an array of 'V8'; expected numbers"):
        load_array(path)
    path.write_bytes(pickle.dumps(np.array(["a", "b"]), protocol=2))
    with pytest.raises(DataError, match=r"p\.pkl: an array of 'U1'; expected numbers"):
        load_array(path)
    big = np.arange(6, dtype=">i4").reshape(2, 3).T
    path.write_bytes(pickle.dumps(big, protocol=2))
    np.testing.assert_array_equal(load_array(path), big)


def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path):
    from pickle_files import packed, unpacked

    torch.save(torch.arange(6.0).reshape(2, 3), tmp_path / "t.pth")
    records = unpacked(str(tmp_path / "t.pth"))
    # Their sizes are pickled as one byte each: 2 and 3 become 2 and 9.
    program = records["t/data.pkl"]
    assert program.count(b"K\x02K\x03\x86") == 1
    records["t/data.pkl"] = program.replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86")
    packed(tmp_path / "far.pth", records)
    with pytest.raises(DataError, match=r"a tensor of size \(2, 9\) reaches out of its 6 numbers"):
        load_array(tmp_path / "far.pth")
    records["t/data.pkl"], records["t/data/0"] = program, records["t/data/0"][:-4]
    packed(tmp_path / "short.pth", records)
    with pytest.raises(DataError, match="has 20 bytes, expected 6 numbers of 4 bytes"):
        load_array(tmp_path / "short.pth")


def test_frames_hold_their_size(tmp_path):
    dino_wm_pusht(tmp_path / "pusht_noise")
    source = open_source(tmp_path / "pusht_noise")
    assert source.spec().pixels.shape == (SIZE, SIZE, 3)
    # A source travels to other processes without its mapped files.
    assert len(pickle.dumps(source)) < 4000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(1).actions, source.read(1).actions)
