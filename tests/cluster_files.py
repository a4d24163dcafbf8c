"""What the tests of cluster files share: the files, pinned versions, and programs that stand for others."""

import re
import stat
from pathlib import Path
from typing import Any

import yaml

LAUNCHERS = ["cluster.yaml", "docs/clusters/gcp.yaml", "docs/clusters/on_premise.yaml"]
CLOUDS = LAUNCHERS[:2]
KUBERNETES = ["docs/clusters/kuberay_cluster.yaml", "docs/clusters/kuberay_job.yaml"]


def read(repo: Path, name: str) -> Any:
    """A YAML file of the source tree."""
    return yaml.safe_load((repo / name).read_text("utf-8"))


def pinned(repo: Path, package: str) -> str:
    """The version of a package in constraints.txt."""
    (version,) = re.findall(rf"^{package}==(\S+)$", (repo / "constraints.txt").read_text(), flags=re.MULTILINE)
    return version


def program(folder: Path, name: str, text: str) -> None:
    """Writes a program."""
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
