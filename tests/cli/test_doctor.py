"""`jepawm doctor`: what it sees in a picture, and what it says of a machine."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepawm.cli import doctor, doctor_rendering
from jepawm.cli.doctor import Line, look
from jepawm.cli.doctor_rendering import examine, has_library, missing_packages, problems_of
from jepawm.cli.main import main

WORKS = {"works": True, "renderer": "llvmpipe", "software": True, "fast_ms": 1.5, "faithful_ms": 60.0, "problems": []}
ABSENT = {"works": False, "error": "OSError: no library", "missing": ["libegl1", "libgl1"]}


def picture() -> np.ndarray:
    """As the scene should look."""
    pixels = np.full((40, 40, 3), 120, np.uint8)
    pixels[28:36, 4:12] = (220, 20, 20)
    pixels[4:12, 26:34] = (20, 220, 20)
    return pixels


def test_a_good_picture_has_no_problems() -> None:
    assert problems_of(picture()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: p[::-1], ["it is upside down"]),
        (lambda p: p[:, ::-1], ["left and right are swapped"]),
        (lambda p: p[::-1, ::-1], ["it is upside down", "left and right are swapped"]),
        (lambda p: p[..., ::-1], ["red and blue are swapped"]),
        (np.zeros_like, ["the picture is all of one colour, [0, 0, 0]"]),
        (lambda p: np.where(np.arange(40)[:, None, None] < 20, 120, p), ["the red box or the green ball is not to be"]),
    ],
)
def test_a_wrong_picture_is_told(change: Any, expected: list[str]) -> None:
    found = problems_of(change(picture()).astype(np.uint8))
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("here", "egl", "osmesa"),
    [
        (set(), ["libegl1", "libgl1", "libegl-mesa0", "libgl1-mesa-dri"], ["libosmesa6"]),
        ({"libEGL.so.1", "libGL.so.1"}, ["libegl-mesa0", "libgl1-mesa-dri"], ["libosmesa6"]),
        ({"libEGL.so.1", "libOpenGL.so.0", "libEGL_mesa.so.0", "swrast_dri.so"}, [], ["libosmesa6"]),
        # A GPU's own driver needs nothing of Mesa.
        ({"libEGL.so.1", "libGL.so.1", "libEGL_nvidia.so.0", "libOSMesa.so.8"}, [], []),
    ],
)
def test_missing_libraries_name_their_packages(here: set[str], egl: list[str], osmesa: list[str]) -> None:
    assert missing_packages("egl", here.__contains__) == egl
    assert missing_packages("osmesa", here.__contains__) == osmesa


def test_libraries_are_looked_for() -> None:
    assert has_library("libc.so.6")
    assert not has_library("libno_such_thing.so.1")
    assert not has_library("no_such_dri.so")


@pytest.mark.parametrize("backend", doctor_rendering.BACKENDS)
def test_the_scene_is_drawn_where_the_libraries_are_here(backend: str) -> None:
    pytest.importorskip("mujoco")
    found = examine(backend)
    if found["works"]:
        assert found["problems"] == found["missing"] == []
        assert found["renderer"]
        assert found["fast_ms"] > 0
        assert found["faithful_ms"] > 0
    else:
        assert found["missing"], found["error"]


def test_a_renderer_that_ends_its_process_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho '  deep in a driver' >&2\necho 'Fatal: no display' >&2\necho >&2\nexit 139\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    found = examine("egl")
    assert not found["works"]
    assert found["error"] == "Fatal: no display"
    broken.write_text("#!/bin/sh\nexit 3\n")
    assert examine("egl")["error"] == "ended with exit code 3"


def rendering_lines(monkeypatch: pytest.MonkeyPatch, egl: dict[str, Any], osmesa: dict[str, Any]) -> dict[str, Line]:
    monkeypatch.setattr(doctor, "_version", lambda _package: "3.3")
    monkeypatch.setattr(doctor, "examine", {"egl": egl, "osmesa": osmesa}.get)
    return {line.name if line.level != "note" else f"{line.name} note": line for line in doctor._rendering()}


def test_one_way_to_draw_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    lines = rendering_lines(monkeypatch, WORKS, ABSENT)
    assert "llvmpipe (the CPU); right side up" in lines["egl"].text
    assert "1.5 ms fast, 60.0 ms faithful" in lines["egl"].text
    assert "run: apt-get install libegl1 libgl1" in lines["osmesa note"].text
    lines = rendering_lines(monkeypatch, ABSENT, WORKS)
    assert lines["egl note"].text.startswith("does not work: OSError: no library; run: apt-get")
    assert lines["rendering note"].text == "set MUJOCO_GL=osmesa, which works"
    assert lines["osmesa"].level == "ok"


def test_no_way_to_draw_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    lines = rendering_lines(monkeypatch, ABSENT, ABSENT)
    assert lines["egl"].level == lines["osmesa"].level == "FAIL"


def test_the_way_that_was_asked_for_must_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    lines = rendering_lines(monkeypatch, WORKS, ABSENT)
    assert lines["osmesa"].level == "FAIL"
    assert lines["rendering note"].text == "set MUJOCO_GL=egl, which works"
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert rendering_lines(monkeypatch, WORKS, ABSENT)["glfw"].level == "FAIL"


@pytest.mark.parametrize("value", ["nonsense", "disabled", "0"])
def test_a_word_that_draws_nothing_is_a_failure(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    line = rendering_lines(monkeypatch, WORKS, ABSENT)["rendering"]
    assert line.level == "FAIL"
    assert f"MUJOCO_GL={value}, which is no way to draw; expected one of egl, osmesa" in line.text
    monkeypatch.setenv("MUJOCO_GL", "")
    line = rendering_lines(monkeypatch, WORKS, ABSENT)["rendering"]
    assert (line.level, "is not set" in line.text) == ("ok", True)


def test_wrong_pictures_are_a_failure_even_where_another_way_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    wrong = WORKS | {"works": False, "problems": ["fast: it is upside down"], "missing": []}
    lines = rendering_lines(monkeypatch, WORKS, wrong)
    assert (lines["osmesa"].level, lines["osmesa"].text) == ("FAIL", "does not work: fast: it is upside down")
    slow = WORKS | {"fast_ms": 80.0}
    assert "slow, fewer pixels" in rendering_lines(monkeypatch, slow, WORKS)["egl note"].text


def test_without_mujoco_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "mujoco" else real(package))
    lines = [line for line in look() if line.name == "rendering"]
    assert [(line.level, line.text) for line in lines] == [
        ("note", 'mujoco is not installed; run: pip install "jepawm[mujoco]"')
    ]


def test_a_missing_core_package_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "ray" else real(package))
    assert main(["doctor", "--no-rendering"]) == 1
    said = capsys.readouterr().out
    assert "FAIL  packages: ray not installed; run: pip install ray (found: torch" in said


def test_extras_are_those_of_the_package(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tomllib.loads((repo / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    requires = [f'{line}; extra == "{extra}"' for extra, lines in written.items() for line in lines]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _name: ["torch>=2.6", *requires])
    expected = {extra: lines for extra, lines in written.items() if extra not in ("test", "lint")}
    assert doctor.extras() == expected
    versions = {"pymunk": "6.0", "mujoco": None}
    monkeypatch.setattr(doctor, "_version", lambda package: versions.get(package, "1000"))
    lines = {line.name: line for line in doctor._extras()}
    assert lines["extra pusht"].text == 'no pymunk>=7 (found 6.0); run: pip install "jepawm[pusht]"'
    assert lines["extra mujoco"].text == 'no mujoco; run: pip install "jepawm[mujoco]"'
    assert lines["extra zarr"].level == "ok"


def test_a_package_that_is_not_installed_has_unknown_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "requires", requires)
    (line,) = doctor._extras()
    assert (line.level, "pip install -e ." in line.text) == ("note", True)


def test_little_shared_memory_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"total": 64 * 2**20, "free": 60 * 2**20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    monkeypatch.setattr(doctor.os.path, "isdir", lambda _path: True)
    (line,) = (line for line in doctor._machine() if line.name == "/dev/shm")
    assert line.level == "note"
    assert "0.06 GiB free of 0.06" in line.text
    assert "--shm-size" in line.text


def test_json_has_the_same_in_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--no-rendering"]) == 0
    told = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert told["cores"]["facts"]["cores"] >= 1
    assert told["memory"]["facts"]["gib"] > 0.1
    assert told["packages"]["level"] == "ok"
    assert set(told["packages"]["facts"]) == set(doctor.CORE)
    assert told["device"]["facts"]["device"] in ("cpu", "cuda", "mps")


def test_without_a_cluster_the_doctor_says_how_to_reach_one(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    assert main(["doctor", "--cluster", "--no-rendering"]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "cluster:" in line)
    assert line.startswith("FAIL  cluster: this process belongs to none; set RAY_ADDRESS=HOST:6379, or submit it: ray")
