"""stable-worldmodel's four layouts become the same dataset, and what is wrong with one is named."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_datasets import (
    SWM_LENGTHS,
    Content,
    frames_of,
    jpeg,
    stable_worldmodel_columns,
    swm_folder,
    swm_hdf5,
    swm_lance,
    video_bytes,
)

from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.errors import DataError

h5py = pytest.importorskip("h5py")
pytest.importorskip("lance")
pytest.importorskip("av")


def convert(source: Path, destination: Path, form: str = "auto", **options: Any) -> EpisodeDataset:
    chosen = ImportOptions(**{"control_hz": 10, **options})
    import_episodes(open_source(source, form, chosen), destination)
    assert check_dataset(destination) == []
    return EpisodeDataset(destination)


def swm_video(path: Path, change: Callable[[Content], Any] | None = None) -> Content:
    return swm_folder(path, change, video=True)


@pytest.mark.parametrize(
    ("write", "name", "codec", "error"),
    [
        (swm_hdf5, "push.h5", "zstd", 0.0),
        (swm_lance, "push.lance", "jpeg", 2.5),
        (swm_folder, "push", "jpeg", 2.5),
        (swm_video, "push", "jpeg", 2.5),
    ],
)
def test_every_layout_gives_the_same_dataset(write, name, codec, error, tmp_path):
    write(tmp_path / "in" / name if write is swm_lance else tmp_path / name)
    source = tmp_path / "in" if write is swm_lance else tmp_path / name
    dataset, content = convert(source, tmp_path / "d"), stable_worldmodel_columns()
    spec = dataset.spec
    assert (spec.name, spec.control_hz, spec.pixels.codec) == ("push", 10, codec)
    assert spec.source["left_out"] == ["reward"]
    assert "env" not in spec.source
    leads_on = np.isfinite(content["action"]).all(axis=1)
    assert (spec.action.low <= content["action"][leads_on].min(axis=0)).all()
    assert (spec.action.high >= content["action"][leads_on].max(axis=0)).all()
    assert max(spec.action.high) <= 1
    start = 0
    for number, length in enumerate(SWM_LENGTHS):
        episode = dataset.read_episode(number)
        rows = slice(start, start + length)
        np.testing.assert_array_equal(episode.actions, content["action"][start : start + length - 1])
        np.testing.assert_array_equal(episode.proprio, content["proprio"][rows])
        np.testing.assert_array_equal(episode.sim_state, content["state"][rows].astype(np.float64))
        assert np.abs(episode.pixels.astype(int) - frames_of(number, length)).mean() <= error
        assert episode.info["source_episode"] == number
        (colour,) = episode.info["source_variation"].values()
        np.testing.assert_allclose(colour, content["variation.agent.color"][start])
        start += length


def test_views_sizes_texts_and_readings(tmp_path):
    def change(content: Content) -> None:
        frames = content.pop("pixels")
        content["pixels_wrist"] = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
        content["pixels_front"] = 255 - frames
        content["action"] = np.arange(len(frames))
        content["observation"] = content.pop("proprio")
        del content["state"]
        content["task"] = ["push the block"] * len(frames)

    content = swm_hdf5(tmp_path / "x.h5", change)
    dataset = convert(tmp_path / "x.h5", tmp_path / "d", camera="pixels_wrist", image_size=16)
    assert dataset.spec.source["camera"] == "pixels_wrist"
    assert dataset.spec.source["proprio"] == "observation"
    assert dataset.spec.source["left_out"] == ["pixels_front", "reward"]
    assert dataset.spec.pixels.shape == (16, 16, 3)
    assert dataset.spec.sim_state is None
    episode = dataset.read_episode(1)
    assert episode.actions.tolist() == [[6.0], [7.0], [8.0]]
    np.testing.assert_array_equal(episode.proprio, content["observation"][6:10])
    assert episode.info["task"] == "push the block"
    first = convert(tmp_path / "x.h5", tmp_path / "e").read_episode(0).pixels
    np.testing.assert_array_equal(first, content["pixels_front"][:6])
    with pytest.raises(DataError, match=r"no column of frames 'pixels'.*pixels_front, pixels_wrist"):
        convert(tmp_path / "x.h5", tmp_path / "f", camera="pixels")


def test_a_rate_must_be_said_and_a_source_travels(tmp_path):
    swm_lance(tmp_path / "x.lance")
    with pytest.raises(DataError, match=r"'stable-worldmodel' records no rate; say it, e.g. --control-hz 10"):
        open_source(tmp_path / "x.lance")
    source = open_source(tmp_path / "x.lance", options=ImportOptions(control_hz=5))
    expected = source.read(1)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(1).pixels, expected.pixels)


def put(name: str, at: Any, value: Any) -> Callable[[Content], None]:
    return lambda content: content[name].__setitem__(at, value)


def cut(name: str, how: Callable[[Any], Any]) -> Callable[[Content], None]:
    return lambda content: content.update({name: how(content[name])})


def virtual(content: Content) -> None:
    layout = h5py.VirtualLayout(shape=(17, 7), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "state", shape=(17, 7))
    content["state"] = layout


E3 = "pixels/ep_1_step_3.jpeg"
FAULTS: dict[str, tuple[Callable[..., Any], Callable[[Content], Any], str]] = {
    "no action": (swm_hdf5, lambda c: c.pop("action"), "column 'action' is missing; there are: proprio, reward"),
    "action of text": (swm_hdf5, cut("action", lambda v: np.full(17, b"x")), "column 'action' is missing; there are"),
    "complex action": (swm_hdf5, cut("action", lambda v: v.astype("c8")), "column 'action' is missing; there are"),
    "readings of structs": (
        swm_hdf5,
        lambda c: [c.pop("state"), c.update(proprio=np.zeros(17, dtype=[("x", "f4")]))],
        "no column proprio, observation, state",
    ),
    "no readings": (swm_hdf5, lambda c: [c.pop("proprio"), c.pop("state")], "no column proprio, observation, state"),
    "no frames": (swm_lance, lambda c: c.pop("pixels"), "there is no column of frames"),
    "no lengths": (swm_hdf5, lambda c: c.pop("ep_len"), "column 'ep_len' is missing, found action"),
    "no episodes": (swm_lance, lambda c: c.pop("episode_idx"), "column 'episode_idx' is missing"),
    "no offsets": (swm_folder, lambda c: c.pop("ep_offset"), r"ep_offset\.npz: no such file"),
    "NaN in action": (swm_lance, put("action", 8, np.nan), "column 'action': row 8 holds NaN"),
    "actions of before": (swm_hdf5, put("action", 6, np.nan), "row 6 holds NaN or infinity, the first of its episode"),
    "NaN in readings": (swm_lance, put("proprio", (11, 1), np.inf), "column 'proprio': row 11 holds NaN"),
    "NaN in state": (swm_folder, put("state", 2, np.nan), "column 'state': row 2 holds NaN"),
    "ragged column": (swm_hdf5, cut("proprio", lambda v: v[:-1]), "column 'proprio' has 16 rows, the episodes have 17"),
    "ragged file": (swm_folder, cut("action", lambda v: v[:-2]), "column 'action' has 15 rows, the episodes have 17"),
    "ragged frames": (swm_hdf5, cut("pixels", lambda v: v[:9]), "column 'pixels' has 9 rows, the episodes have 17"),
    "overlap": (swm_hdf5, put("ep_offset", 1, 5), "episode 1 has 4 rows from row 5 on; expected 2 or more, from row 6"),
    "one row": (
        swm_hdf5,
        lambda c: [c["ep_len"].__setitem__(2, 1), *(c.update({k: c[k][:11]}) for k in list(c) if len(c[k]) == 17)],
        "episode 2 has 1 rows from row 10 on; expected 2 or more",
    ),
    "kind of lengths": (swm_folder, cut("ep_len", lambda v: v / 2), "ep_len is float64"),
    "mixed episodes": (swm_lance, put("episode_idx", 5, 1), "column 'step_idx': row 5 holds step 5, expected 0"),
    "episodes go back": (swm_lance, put("episode_idx", 12, 0), "row 12 holds episode 0 after 2"),
    "steps": (swm_lance, put("step_idx", 3, 7), "column 'step_idx': row 3 holds step 7, expected 3"),
    "not an image": (swm_lance, put("pixels", 7, b"junk"), "column 'pixels': row 7: 4 bytes that are no image"),
    "empty cell": (swm_lance, put("pixels", 7, None), "column 'pixels': row 7: 0 bytes that are no image"),
    "size of an image": (
        swm_lance,
        put("pixels", 7, jpeg(frames_of(0, 1, 48)[0])),
        r"column 'pixels': row 7 is \(48, 48, 3\), the first frame is \(32, 32, 3\)",
    ),
    "shape of frames": (swm_hdf5, cut("pixels", lambda v: v[..., :2]), r"'pixels': has shape \(17, 32, 32, 2\)"),
    "missing image": (swm_folder, lambda c: c.pop(E3), r"ep_1_step_3\.jpeg: no such file, and no video ep_1\.mp4"),
    "broken image": (swm_folder, cut(E3, lambda v: v[:10]), r"ep_1_step_3\.jpeg: .*10 bytes that are no image"),
    "frames of a video": (
        swm_video,
        cut("pixels/ep_1.mp4", lambda v: v[:-1]),
        r"ep_1\.mp4: holds 3 frames, its episode has 4 rows",
    ),
    "codec of a video": (
        swm_video,
        cut("pixels/ep_2.mp4", lambda v: video_bytes(v).replace(b"avc1", b"zzzz")),
        r"ep_2\.mp4: PyAV has no decoder for its codec",
    ),
    "size of a video": (
        swm_video,
        cut("pixels/ep_2.mp4", lambda v: np.repeat(v, 2, axis=1)),
        r"frames of episode 2 are \(64, 32\) px, those of the first episode \(32, 32\)",
    ),
    "link outside": (
        swm_hdf5,
        lambda c: c.update(state=h5py.ExternalLink("/etc/passwd", "/")),
        "column 'state' is a link to the file '/etc/passwd'; refusing to follow it",
    ),
    "data outside": (swm_hdf5, virtual, "column 'state' keeps its data in other files; refusing to follow them"),
    "pickled column": (
        swm_folder,
        cut("reward", lambda v: np.array([{}] * 17, dtype=object)),
        r"reward\.npz: cannot be read: Object arrays cannot be loaded",
    ),
}
NAMES = {swm_hdf5: "x.h5", swm_lance: "x.lance"}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(fault, tmp_path):
    write, change, message = FAULTS[fault]
    name = NAMES.get(write, "x")
    write(tmp_path / name, change)
    with pytest.raises(DataError, match=message):
        convert(tmp_path / name, tmp_path / "d", "stable-worldmodel")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_datasets_of_a_file_that_have_no_rows(tmp_path):
    swm_hdf5(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["note"] = h5py.Empty("f")
    assert len(convert(tmp_path / "x.h5", tmp_path / "d")) == 3
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["ep_len"]
        file["ep_len"] = 17
    with pytest.raises(DataError, match="column 'ep_len': rows cannot be read: "):
        convert(tmp_path / "x.h5", tmp_path / "e")


def test_truncated_files(tmp_path):
    swm_hdf5(tmp_path / "x.h5")
    with open(tmp_path / "x.h5", "r+b") as file:
        file.truncate(3000)
    with pytest.raises(DataError, match=r"x\.h5: not an HDF5 file, or a truncated one"):
        convert(tmp_path / "x.h5", tmp_path / "d")
    swm_lance(tmp_path / "x.lance")
    (part,) = (tmp_path / "x.lance" / "data").iterdir()
    with open(part, "r+b") as file:
        file.truncate(2000)
    with pytest.raises(DataError, match=r"x\.lance: column '.*': rows .* cannot be read"):
        convert(tmp_path / "x.lance", tmp_path / "d")
    (tmp_path / "y.lance").mkdir()
    with pytest.raises(DataError, match=r"y\.lance: not a Lance table, or a damaged one"):
        convert(tmp_path / "y.lance", tmp_path / "d")
    swm_folder(tmp_path / "f")
    (tmp_path / "f" / "action.npz").write_bytes(b"PK junk")
    with pytest.raises(DataError, match=r"action\.npz: cannot be read"):
        convert(tmp_path / "f", tmp_path / "d")
    with pytest.raises(DataError, match=r"expected one \.lance, \.h5 or \.hdf5 in it, .*found: .*x\.h5, x\.lance"):
        convert(tmp_path, tmp_path / "d", "stable-worldmodel")
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / ".d.importing").exists()
