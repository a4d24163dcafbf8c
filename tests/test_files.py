"""Files and folders appear whole, or not at all."""

import json
import os
import signal
import subprocess
import sys
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


def test_the_older_folder_returns_when_the_new_one_cannot_take_its_name(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("good")

    def lose_the_new_folder() -> None:
        with atomic_folder(tmp_path / "model") as folder:
            folder.rmdir()

    with pytest.raises(FileNotFoundError):
        lose_the_new_folder()
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "good"


# A process that replaces a folder and is killed just before the given call of os.replace (0: before any, 2: after all).
KILLED = """
import os, signal, sys
from jepawm.files import atomic_folder
replace, calls = os.replace, []
def replace_until_killed(source, target):
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(target)
    replace(source, target)
os.replace = replace_until_killed
with atomic_folder(sys.argv[1]) as folder:
    (folder / "weights").write_text("new")
"""


@pytest.mark.parametrize(("calls", "under_its_name"), [(0, "old"), (1, None), (2, "new")])
def test_a_kill_leaves_no_half_folder_and_never_destroys_the_older_one(
    tmp_path: Path, calls: int, under_its_name: str | None
) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "model"), str(calls)])
    assert killed.returncode == (0 if calls == 2 else -signal.SIGKILL)
    found = {path.name.rstrip("0123456789"): (path / "weights").read_text() for path in sorted(tmp_path.iterdir())}
    assert found.get("model") == under_its_name
    assert set(found.values()) == ({"new"} if calls == 2 else {"old", "new"})


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
