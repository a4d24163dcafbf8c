"""Pictures from files as the frames that a model sees."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepawm.errors import DataError
from jepawm.pictures import read_pictures, square


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_frame_becomes_the_square_in_its_middle() -> None:
    wide = picture(20, 30)
    np.testing.assert_array_equal(square(wide[None], 20)[0], wide[:, 5:25])
    # Each pixel of the half is the mean of four.
    mean = wide[:, 5:25].reshape(10, 2, 10, 2, 3).mean(axis=(1, 3))
    assert np.abs(square(wide[None], 10)[0] - mean).max() <= 0.5


def test_files_folders_and_arrays_give_the_same_frames(tmp_path: Path) -> None:
    frames = [picture(24, 32, seed) for seed in (1, 2)]
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    np.savez(tmp_path / "both.npz", pixels=np.stack(frames), sim_state=np.arange(4.0).reshape(2, 2))
    expected = square(np.stack(frames), 16)
    from_folder = read_pictures(folder, 16)
    assert [Path(name).name for name in from_folder.names] == ["0.png", "1.png"]
    np.testing.assert_array_equal(from_folder.pixels, expected)
    from_arrays = read_pictures(tmp_path / "both.npz", 16)
    np.testing.assert_array_equal(from_arrays.pixels, expected)
    assert from_arrays.others["sim_state"].tolist() == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(read_pictures(folder / "1.png", 16).pixels, expected[1:])


def test_a_photograph_stands_upright_as_its_camera_noted(tmp_path: Path) -> None:
    upright = picture(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise to show it.
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_pictures(tmp_path / "turned.png", 16).pixels[0], upright)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "depth.png")
    np.savez(tmp_path / "other.npz", frames=picture(8, 8))
    np.savez(tmp_path / "float.npz", pixels=np.zeros((8, 8, 3)))
    for name, message in (
        ("nothing.png", "there is no such picture, folder or .npz"),
        ("text.png", "not a picture that can be read"),
        ("text.npz", "not a .npz that can be read"),
        ("empty", "the folder holds no picture"),
        ("depth.png", "more than 8 bits a number"),
        ("other.npz", "there is no array 'pixels', found frames"),
        ("float.npz", r"'pixels' must be uint8 .* found float64 \[8, 8, 3\]"),
    ):
        with pytest.raises(DataError, match=message):
            read_pictures(tmp_path / name, 8)
