"""`jepawm env python`: a Python that has other packages than this one, for an environment with conflicting ones."""

import importlib.util
import os
import shutil
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from jepawm.errors import ConfigError, MissingDependencyError


@dataclass(frozen=True)
class MakePython:
    """Make a Python that has this one's packages, and other versions of some; for the setting env.python."""

    folder: Positional[str]
    """Where it is made; on a cluster, a folder that every node sees."""
    packages: Positional[tuple[str, ...]]
    """What is installed there on top, as pip takes it: `mujoco==3.4.0`."""

    def run(self) -> int:
        """Prints how to use it."""
        if not self.packages:
            raise ConfigError("jepawm env python FOLDER PACKAGE==VERSION ...: no package is named")
        print(f"made; use it with: --env.python {make_python(self.folder, self.packages)}")
        return 0


def make_python(folder: str, packages: tuple[str, ...]) -> str:
    """Makes a virtual environment whose own packages come before those of this interpreter.

    Args:
        folder: Where; nothing may be there.
        packages: What is installed into it.

    Returns:
        Path of its interpreter.

    Raises:
        ConfigError: Something is in the folder, or the packages cannot be installed; then nothing is left there.
        MissingDependencyError: Neither pip nor uv is here.
    """
    if os.path.exists(folder):
        raise ConfigError(f"there is something at {folder} already; choose another folder")
    place = Path(folder).absolute()
    try:
        venv.EnvBuilder(symlinks=True).create(place)
        python = place / "bin" / "python"
        own = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        # Reads the .pth files of the inherited folders as well, such as those of packages in development.
        inherited = [f"import site; site.addsitedir({each!r})\n" for each in site.getsitepackages()]
        (own / "inherited.pth").write_text("".join(inherited), encoding="utf-8")
        done = subprocess.run([*_installer(str(python)), *packages], capture_output=True, text=True)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    if done.returncode:
        shutil.rmtree(place)
        lines = (done.stderr.strip() or done.stdout.strip() or "no reason was given").splitlines()
        reasons = [line for line in lines if line.lower().startswith("error")]
        raise ConfigError(f"{' '.join(packages)} cannot be installed: {(reasons or lines)[-1]}")
    return str(python)


def _installer(python: str) -> list[str]:
    """The command that installs packages for an interpreter."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", python]
    raise MissingDependencyError("neither pip nor uv is installed here; one of them installs the packages")
