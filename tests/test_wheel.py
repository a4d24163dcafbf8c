"""The wheel: what `pip install jepawm` lays down works without the source tree."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("envs", "jepawm", "ray_jobs", "tune_spaces")


@pytest.fixture(scope="module")
def unpacked(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel, as pip lays them into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # A copy, because a build leaves folders in the source tree.
    for package in PACKAGES:
        shutil.copytree(repo / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(source)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def _files(root: Path) -> set[str]:
    found = (path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_wheel_holds_every_file_of_the_four_packages_and_nothing_else(repo: Path, unpacked: Path) -> None:
    assert {"jepawm/recipes/demo.yaml", "jepawm/data/download/public_sources.yaml", "jepawm/py.typed"} <= _files(repo)
    assert _files(unpacked) == _files(repo)
    about = {path.name for path in unpacked.iterdir()} - set(PACKAGES)
    assert [name.endswith(".dist-info") for name in about] == [True]


@pytest.fixture
def installed(unpacked: Path, tmp_path: Path):
    """`installed(*words)`: runs Python in an empty folder, with the wheel's packages before all others."""

    def run(*words: str) -> str:
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *words], cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not list(empty.iterdir())
        return done.stdout

    return run


def test_the_command_line_runs_in_an_empty_folder(installed, unpacked: Path) -> None:
    assert installed("-c", "import jepawm; print(jepawm.__file__)").startswith(str(unpacked))
    (entry,) = (
        line
        for line in next(unpacked.glob("*.dist-info")).joinpath("entry_points.txt").read_text().splitlines()
        if line.startswith("jepawm =")
    )
    module, function = entry.removeprefix("jepawm = ").split(":")
    call = f"import sys; sys.argv[0] = 'jepawm'; from {module} import {function}; sys.exit({function}())"
    assert "usage: jepawm" in installed("-c", call, "--help")
    listed = installed("-c", call, "recipes")
    for recipe in sorted((unpacked / "jepawm" / "recipes").rglob("*.yaml")):
        assert recipe.stem in listed


def test_a_job_and_an_environment_of_the_wheel_run_in_an_empty_folder(installed) -> None:
    assert "image_size: 64" in installed("-m", "ray_jobs.train", "--recipe", "demo", "--print-config")
    play = (
        "import gymnasium; wall = gymnasium.make('envs:envs/Wall-v1', image_size=64); wall.reset(seed=0); print(wall)"
    )
    assert "envs/Wall-v1" in installed("-c", play)
