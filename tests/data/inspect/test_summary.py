"""`jepawm data stats`: numbers that can be counted by hand."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from jepawm.cli import data as data_cli
from jepawm.data import EpisodeWriter
from jepawm.data.inspect.summary import plot_summary, summarise
from jepawm.errors import DataError
from jepawm.types import Episode


@pytest.fixture
def still_dataset(tmp_path, spec):
    """Two episodes of 5 and 12 frames, chunks of 4; the first one stands still after its third frame."""
    spec = replace(spec, sim_state=None)
    rng = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / "still", spec, chunk_frames=4) as writer:
        for number, frames in enumerate((5, 12)):
            pixels = rng.integers(0, 256, size=(frames, 16, 20, 3)).astype(np.uint8)
            proprio = rng.normal(size=(frames, 3)).astype(np.float32)
            # A number that never moves says nothing about stillness.
            proprio[:, 2] = 7
            if number == 0:
                pixels[3:], proprio[3:] = pixels[2], proprio[2]
                last = pixels[-1], proprio[-1]
            else:
                # Between two episodes there is no step.
                pixels[0], proprio[0] = last
            actions = np.stack([np.arange(frames - 1), np.full(frames - 1, -2.0)], axis=1).astype(np.float32)
            writer.write(Episode(number, pixels, actions, proprio))
    return tmp_path / "still"


@pytest.mark.filterwarnings("ignore:.*never change")
def test_numbers(still_dataset):
    found = summarise(still_dataset)
    assert (found.episodes, found.frames, found.shards) == (2, 17, 1)
    assert found.hours == pytest.approx(15 / 10 / 3600)
    assert found.length == {"min": 5, "p05": 5.35, "median": 8.5, "p95": 11.65, "mean": 8.5, "max": 12}
    assert found.pixels == (16, 20, 3)
    assert found.codec == "zstd"
    assert found.disk_bytes == sum(file.stat().st_size for file in still_dataset.rglob("*") if file.is_file())
    assert found.sim_state_dim is None
    assert found.source == {"made_by": "test"}
    steps = np.concatenate([np.arange(4), np.arange(11)])
    first, second = found.actions
    assert (first.name, first.min, first.max) == ("dx", 0, 10)
    assert first.mean == pytest.approx(steps.mean())
    assert first.std == pytest.approx(steps.std())
    assert (second.name, second.mean, second.std, second.min, second.max) == ("dy", -2, 0, -2, -2)
    assert [item.name for item in found.proprio] == ["x", "y", "z"]
    # Two of fifteen steps, one of them between two chunks.
    assert found.still_proprio == pytest.approx(2 / 15)
    assert found.still_pixels == pytest.approx(2 / 15)


@pytest.mark.filterwarnings("ignore:.*never change")
def test_a_robot_that_never_moves(tmp_path, spec):
    spec = replace(spec, sim_state=None)
    with EpisodeWriter(tmp_path / "d", spec) as writer:
        pixels = np.zeros((5, 16, 20, 3), np.uint8)
        writer.write(Episode(0, pixels, np.zeros((4, 2), np.float32), np.ones((5, 3), np.float32)))
    found = summarise(tmp_path / "d")
    assert found.still_proprio is None
    assert found.still_pixels == 1


def test_the_whole_toy_dataset(write):
    dataset = write()
    found = summarise(dataset.path)
    actions = np.concatenate([dataset.read_column("actions", number) for number in dataset.episode_ids])
    proprio = np.concatenate([dataset.read_column("proprio", number) for number in dataset.episode_ids])
    for items, values in ((found.actions, actions), (found.proprio, proprio)):
        np.testing.assert_allclose([item.mean for item in items], values.mean(0, dtype=np.float64))
        np.testing.assert_allclose([item.std for item in items], values.std(0, dtype=np.float64))
        assert [item.min for item in items] == values.min(0).tolist()
        assert [item.max for item in items] == values.max(0).tolist()
    assert found.still_proprio == found.still_pixels == 0
    assert found.frames == int(dataset.num_frames_each.sum())
    assert found.sim_state_dim == 4


@pytest.mark.filterwarnings("ignore:.*never change")
def test_command_line(still_dataset, tmp_path, capsys):
    assert data_cli.main(["stats", str(still_dataset)]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines if re.match(r"\w[\w ]*\s{2,}\S", line))
    assert told["episodes"] == "2"
    assert told["length"] == "min 5, p05 5.35, median 8.5, p95 11.65, max 12, mean 8.5 frames"
    assert told["stands still"] == "proprio 13.3% of steps, pixels 13.3% of steps"
    assert "bytes a frame" in told["on disk"]
    assert told["source"] == 'made_by "test"'
    assert any(re.fullmatch(r"dy\s+-2\s+0\s+-2\s+-2", line.strip()) for line in lines)
    assert any("action (px)" in line for line in lines)
    picture = tmp_path / "deep" / "plot.png"
    assert data_cli.main(["stats", str(still_dataset), "--json", "--plot", str(picture)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(summarise(still_dataset).to_dict()))
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert data_cli.main(["stats", str(tmp_path / "none")]) == 1
    assert "no such dataset folder" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*never change")
def test_a_plot_of_many_dimensions_and_of_a_constant_one(write, spec, still_dataset, tmp_path):
    import cv2

    small = cv2.imread(str(plot_summary(summarise(still_dataset), tmp_path / "a.png")))
    assert small.std() > 10
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the picture cannot be written"):
        plot_summary(summarise(still_dataset), tmp_path / "file" / "a.png")
