"""Files and folders appear whole, or not at all."""

import json
import os
from pathlib import Path

import pytest

from jepawm.files import atomic_file, atomic_folder, write_json


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_folder_appears_when_it_is_whole_and_replaces_an_older_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "weights").write_text(text)
            before = (tmp_path / "model" / "weights").read_text() if text == "second" else None
            assert before == (None if text == "first" else "first")
        assert (tmp_path / "model" / "weights").read_text() == text
    assert names(tmp_path) == ["model"]


def test_an_error_leaves_the_older_folder_and_nothing_else(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("good")

    def fill_the_disk() -> None:
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "weights").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill_the_disk()
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "good"


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    def stop_half_way() -> None:
        with atomic_file(tmp_path / "a.txt") as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert names(tmp_path) == []
    with atomic_file(tmp_path / "a.txt") as path:
        path.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_json_has_null_for_what_it_cannot_say(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [1.0, float("inf")], "z": {"w": (1, 2)}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [1.0, None], "z": {"w": [1, 2]}}
