"""`jepawm env python`: this interpreter's packages, and others before them."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from jepawm.cli.env_python import make_python
from jepawm.cli.main import main
from jepawm.config import EnvConfig, RunConfig
from jepawm.errors import ConfigError
from jepawm.runs.early import check_names
from jepawm.runs.preflight.environment import check_environment


def wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel of one module that says its version."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"version = '{version}'\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


def test_the_new_python_has_this_ones_packages_and_its_own_come_first(tmp_path, capsys):
    # `wrapt` is installed here: the new Python gets another one of the same name.
    assert main(["env", "python", str(tmp_path / "other"), str(wheel(tmp_path, "wrapt", "99.0"))]) == 0
    python = str(tmp_path / "other" / "bin" / "python")
    assert f"--env.python {python}" in capsys.readouterr().out
    code = "import wrapt, numpy, ray, importlib.metadata; print(wrapt.version, importlib.metadata.version('wrapt'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["99.0", "99.0"], done.stderr
    config = EnvConfig(id="module_that_is_only_there:Env", python=python)
    check_names(RunConfig(env=config))
    assert check_environment(config) is None


def test_what_cannot_be_made_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match="cannot be installed: "):
        make_python(str(tmp_path / "other"), (str(tmp_path / "missing-1.0-py3-none-any.whl"),))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="there is something at"):
        make_python(str(tmp_path / "taken"), ("x",))
    assert main(["env", "python", str(tmp_path / "other")]) == 2


def test_a_python_of_its_own_is_checked_and_does_not_go_with_one_process(tmp_path):
    with pytest.raises(ConfigError, match=r"env\.python .* is no program; make a Python with: jepawm env python"):
        check_environment(EnvConfig(python=str(tmp_path / "python")))
    with pytest.raises(ConfigError, match=r"env\.python is /x, and with --local"):
        RunConfig(local=True, env=EnvConfig(python="/x"))


def test_the_interpreter_is_no_part_of_what_a_model_is():
    other = RunConfig(env=EnvConfig(python="/x"))
    assert other.training_identity() == RunConfig().training_identity()
