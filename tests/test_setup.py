"""What `make setup` decides before it installs: the Python, the extras, and the key of the kept environment."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

PYTHONS = ("python3", "python3.11", "python3.12", "python3.13")
# Stands for an interpreter: prints its version when it is asked, and lets every other line of Python succeed.
FAKE = '#!/bin/sh\ncase "$2" in *print*) echo {version};; esac\n'


@pytest.fixture
def make(repo: Path, tmp_path: Path):
    """`make(*words, python3_12="3.12", uv=...)`: runs make where only the named interpreters work."""

    def run(*words: str, **programs: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        scripts = dict.fromkeys(PYTHONS, "#!/bin/sh\nexit 127\n")
        for name, version in programs.items():
            scripts[name.replace("_", ".")] = FAKE.format(version=version)
        for name, script in scripts.items():
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        environment = {"PATH": f"{folder}:/usr/bin:/bin", "VENV": str(tmp_path / "venv")}
        return subprocess.run(
            ["make", *words], cwd=repo, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_the_first_python_that_works_makes_the_environment(make) -> None:
    # python3.11 is a version manager's stub here: it is on the PATH and fails.
    planned = make("-n", "setup", python3_12="3.12", python3_13="3.13").stdout
    assert "python3.12 -m venv" in planned
    assert "python3.13 -m venv" not in planned
    assert "Python 3.12 in" in planned


def test_a_python_that_is_named_comes_before_the_others(make) -> None:
    assert "python3.13 -m venv" in make("-n", "setup", "PYTHON=python3.13", python3_11="3.11", python3_13="3.13").stdout
    refused = make("setup", "PYTHON=python3.9", python3_11="3.11")
    assert refused.returncode
    assert "PYTHON=python3.9 is no Python from 3.11 to 3.13" in refused.stdout


@pytest.mark.skipif(os.path.exists("/usr/bin/uv"), reason="uv is installed where this test looks for it")
def test_without_a_python_uv_makes_the_environment_and_without_uv_there_is_a_message(make, tmp_path: Path) -> None:
    refused = make("setup")
    assert refused.returncode
    assert "found no Python from 3.11 to 3.13" in refused.stdout
    assert "apt-get install python3.12 python3.12-venv" in refused.stdout
    assert not (tmp_path / "venv").exists()
    planned = make("-n", "setup", uv="0").stdout
    assert "uv venv --quiet  --python 3.12" in planned
    assert "-m pip" not in planned
    assert planned.count("uv pip install") == planned.count("-c constraints.txt") + 1 >= 3
    # A Python that fits stays the interpreter where uv is asked for.
    planned = make("-n", "setup", "UV=uv", uv="0", python3_13="3.13").stdout
    assert "uv venv --quiet  --python python3.13" in planned
    assert "-m pip" not in planned


def test_the_key_changes_with_the_python_and_with_the_extras(make) -> None:
    keys = [
        make("-s", "venv-key", python3_11="3.11").stdout,
        make("-s", "venv-key", python3_11="3.12").stdout,
        make("-s", "venv-key", "EXTRAS=pusht", python3_11="3.11").stdout,
    ]
    assert all(len(key.strip()) == 16 for key in keys)
    assert len(set(keys)) == 3
    assert make("-s", "venv-key", python3_11="3.11").stdout == keys[0]


def test_an_environment_keeps_its_python_and_its_extras(make, tmp_path: Path) -> None:
    own = tmp_path / "venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text(FAKE.format(version="3.13"))
    own.chmod(0o755)
    (tmp_path / "venv" / ".jepawm-extras").write_text("pusht\n")
    planned = make("-n", "setup", python3_11="3.11").stdout
    assert "Python 3.13 in" in planned
    assert '".[pusht]"' in planned


def test_a_target_says_which_extra_it_lacks_before_it_installs(make, tmp_path: Path) -> None:
    for target, extra in (("test", "test"), ("lint", "lint")):
        refused = make(target, "EXTRAS=pusht", python3_11="3.11")
        assert refused.returncode
        assert f"make {target} needs the extra '{extra}': make {target} EXTRAS=pusht,{extra}" in refused.stdout
    assert not (tmp_path / "venv").exists()


def test_all_extras_of_the_makefile_are_those_of_the_package_and_each_has_its_size_in_the_docs(repo: Path) -> None:
    (listed,) = re.findall(r"^ALL_EXTRAS := (.*)$", (repo / "Makefile").read_text(), flags=re.MULTILINE)
    extras = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(listed.split(",")) == set(extras)
    page = (repo / "docs" / "installation.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    assert set(extras) <= set(re.findall(r"`(\w+)`", " ".join(rows)))
