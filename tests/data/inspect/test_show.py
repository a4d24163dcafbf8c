"""The contact sheet of datasets that are large, wide, short or many-jointed."""

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from jepawm.cli import data as data_cli
from jepawm.data import EpisodeWriter, PixelSpec, contact_sheet
from jepawm.data.inspect import show as module
from jepawm.errors import DataError
from jepawm.types import ActionSpec, Episode

pytestmark = pytest.mark.filterwarnings("ignore:.*never change")


@pytest.fixture
def write_one(tmp_path, spec):
    """Writes one episode of frames that say which they are: frame `t` is `10 * t` bright."""

    def build(height: int, width: int, frames: int, actions: np.ndarray) -> Path:
        dim = actions.shape[1]
        action = ActionSpec(dim, (-np.inf,) * dim, (np.inf,) * dim, names=tuple(f"joint_{i}" for i in range(dim)))
        own = replace(spec, pixels=PixelSpec(height, width, 3), action=action, sim_state=None)
        bright = (10 * np.arange(frames)).astype(np.uint8)
        pixels = np.broadcast_to(bright[:, None, None, None], (frames, height, width, 3)).copy()
        proprio = np.random.default_rng(0).normal(size=(frames, 3)).astype(np.float32)
        with EpisodeWriter(tmp_path / "d", own, chunk_frames=4) as writer:
            writer.write(Episode(0, pixels, actions.astype(np.float32), proprio))
        return tmp_path / "d"

    return build


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def bright(sheet: np.ndarray, tile: int) -> list[int]:
    """Brightness of each tile of the first row, read below its caption."""
    row = sheet[module.TITLE_PX + module.CAPTION_PX + 5]
    return [int(row[x, 0]) for x in range(tile // 2, sheet.shape[1], tile)]


def test_large_frames_are_shrunk_in_their_own_proportions(write_one, tmp_path):
    sheet = read(contact_sheet(write_one(480, 640, 20, np.ones((19, 2))), tmp_path / "s.png", frames=5))
    assert sheet.shape == (20 + 16 + 192 + 64 + 15 + 4, 5 * 256, 3)
    assert bright(sheet, 256) == [0, 50, 100, 140, 190]


def test_a_window_shows_what_a_model_sees(write_one, tmp_path):
    path = write_one(96, 96, 20, np.ones((19, 2)))
    sheet = read(contact_sheet(path, tmp_path / "s.png", frames=4, window=3, frameskip=5))
    assert bright(sheet, 96) == [30, 80, 130, 180]
    message = r"episode 0 has frames 0 to 19; a window of 4 frames, 5 apart from 5 on, ends at 20"
    with pytest.raises(DataError, match=message):
        contact_sheet(path, tmp_path / "s.png", frames=4, window=5, frameskip=5)
    with pytest.raises(DataError, match="frameskip must be 1 or more"):
        contact_sheet(path, tmp_path / "s.png", frameskip=0)


def test_a_window_draws_the_actions_between_its_frames(write_one, tmp_path, monkeypatch):
    actions, seen = np.arange(38.0).reshape(19, 2), []
    curves = module._curves
    monkeypatch.setattr(module, "_curves", lambda *args: seen.append(args[0]) or curves(*args))
    contact_sheet(write_one(96, 96, 20, actions), tmp_path / "s.png", frames=3, window=4, frameskip=2)
    np.testing.assert_array_equal(seen[0], actions[4:8])


def test_a_short_episode_shows_each_frame_once(write_one, tmp_path):
    sheet = read(contact_sheet(write_one(96, 96, 3, np.ones((2, 2))), tmp_path / "s.png", frames=8))
    assert bright(sheet, 96) == [0, 10, 20]


def test_many_joints_are_lanes_around_their_mean(write_one, tmp_path):
    actions = np.full((19, 26), 5.0)
    actions[:, 3] += np.where(np.arange(19) < 10, -1, 1)
    actions[:, 4] -= np.where(np.arange(19) < 10, -0.01, 0.01)
    with pytest.warns(UserWarning, match="never change"):
        path = write_one(96, 96, 20, actions)
    sheet = read(contact_sheet(path, tmp_path / "s.png"))
    top = module.TITLE_PX + module.CAPTION_PX + 96
    lane = [sheet[top + i * module.LANE_PX + 2] for i in range(26)]
    left, right = 20, sheet.shape[1] - 20
    # Constant: white. The fourth goes from below (blue) to above (red), the fifth back, each to its own scale.
    assert lane[0][left].tolist() == [255, 255, 255]
    assert lane[3][left, 0] < 40 < 215 < lane[3][left, 2]
    assert lane[3][right, 2] < 40 < 215 < lane[3][right, 0]
    assert lane[4][left, 2] < 40 < 215 < lane[4][left, 0]
    # 26 names take more than one line.
    assert sheet.shape[0] >= top + 26 * module.LANE_PX + 2 * module.LEGEND_PX


def test_command_line(write_one, tmp_path, capsys):
    path, picture = write_one(96, 96, 20, np.ones((19, 2))), tmp_path / "p.png"
    words = ["show", str(path), "--output", str(picture), "--ids", "0", "--window", "3", "--frameskip", "5"]
    assert data_cli.main([*words, "--frames", "4"]) == 0
    assert bright(read(picture), 96) == [30, 80, 130, 180]
    assert data_cli.main([*words, "--frames", "9"]) == 1
    assert re.search(r"error: .* ends at 43", capsys.readouterr().err)
    (tmp_path / "file").write_text("")
    assert data_cli.main(["show", str(path), "--output", str(tmp_path / "file" / "p.png")]) == 1
    assert "the picture cannot be written" in capsys.readouterr().err
