"""Whether the nodes of a cluster share a run's folders and run the same code; without Ray.

The driver leaves a token in each folder. Every node reads the driver's token and writes its own, and the driver reads
what the nodes wrote. A folder of the same name on a node's own disk is found out before anything is collected into it.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import runpy
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jepawm.errors import ConfigError, FolderGoneError, JepawmError, first_line
from jepawm.storage.store import check_store, open_store

MOUNTS = "/proc/self/mountinfo"
# Nodes that an error names; the others are counted.
MOST_NAMED = 5


@dataclass(frozen=True)
class ClusterNode:
    """What a cluster says of a node.

    Attributes:
        id: Unique in the cluster; `driver` for the process that asks.
        name: Host name and address, for people.
        num_cpus: Logical CPUs that it offers.
        num_gpus: GPUs that it offers.
        labels: Such as `ray.io/market-type`.
    """

    id: str
    name: str
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Folders:
    """The folders that all nodes must share, each with the setting that names it.

    Attributes:
        written: Setting -> folder that the driver and the workers write to and read from.
        read: Setting -> file or folder that workers only read.
        stores: Setting -> URI of an object store in place of a folder; each node must be able to write there.
    """

    written: Mapping[str, str]
    read: Mapping[str, str] = field(default_factory=dict)
    stores: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CodeVersions:
    """What code a process runs.

    Attributes:
        python: Version of the interpreter.
        jepawm: Version of the installed package; empty where it is not installed but found in a working directory.
        sources: The first digits of a hash of jepawm's source files, as they are imported.
        torch: Version, with the build behind a `+` where its wheel says it; empty where it is not installed.
        cuda: CUDA version that torch was built for; None: a build without.
    """

    python: str
    jepawm: str
    sources: str
    torch: str
    cuda: str | None

    @property
    def torch_release(self) -> str:
        """The version without the build: `2.15.0` of `2.15.0+cpu`."""
        return self.torch.partition("+")[0]

    def __str__(self) -> str:
        build = "no CUDA" if self.cuda is None else f"CUDA {self.cuda}"
        return f"jepawm {self.jepawm or 'not installed'} (sources {self.sources}), torch {self.torch} ({build})"


@dataclass(frozen=True)
class NodeReport:
    """What a node found.

    Attributes:
        node: Which node.
        mounts: Folder -> file system below it, such as `nfs4 10.0.0.2:/ at /mnt/jepawm`.
        problems: Setting -> what is wrong with its folder there.
        versions: Its code; None where the node gave no answer.
        failure: Why there is no answer; empty where there is one.
    """

    node: ClusterNode
    mounts: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    versions: CodeVersions | None = None
    failure: str = ""

    def __str__(self) -> str:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(self.node.labels.items()) if "node-id" not in key)
        offers = f"{self.node.num_cpus:g} CPUs, {self.node.num_gpus:g} GPUs{', ' if labels else ''}{labels}"
        places = ", ".join(f"{place} is {mount}" for place, mount in self.mounts.items())
        wrong = "; ".join(f"{setting}: {problem}" for setting, problem in self.problems.items())
        return "; ".join(text for text in (offers, self.failure, str(self.versions or ""), places, wrong) if text)


@dataclass(frozen=True)
class ClusterReport:
    """What all nodes found.

    Attributes:
        folders: What they were asked for.
        driver: The process that asked.
        nodes: Each node of the cluster.
    """

    folders: Folders
    driver: NodeReport
    nodes: tuple[NodeReport, ...]

    def check(self) -> None:
        """Refuses a cluster whose nodes do not share the folders, do not answer, or run other code than the driver.

        Raises:
            ConfigError: Names the nodes, what they see there, and the remedy.
        """
        problems = self.problems()
        if problems:
            raise ConfigError("; ".join(problems))

    def problems(self) -> list[str]:
        """One sentence for each thing that is wrong; empty where nothing is."""
        found = [f"{name}: {report.failure}" for name, report in self._named() if report.failure]
        if found:
            found = [f"nodes of the cluster did not answer ({_some(found)}); see their logs, or take them away"]
        for setting, folder in {**self.folders.written, **self.folders.read}.items():
            wrong = [
                f"{name}: {report.problems[setting]} ({report.mounts.get(folder, 'mount unknown')})"
                for name, report in self._named()
                if setting in report.problems
            ]
            if wrong:
                here = self.driver.mounts.get(folder, "mount unknown")
                found.append(
                    f"{setting} ({folder}) is not the same folder on all nodes. The driver on {self.driver.node.name} "
                    f"has {here}; {_some(wrong)}. Mount one file system there on every node (docs/clusters.md)"
                )
        for setting, uri in self.folders.stores.items():
            wrong = [
                f"{name}: {report.problems[setting]}" for name, report in self._named() if setting in report.problems
            ]
            if wrong:
                found.append(
                    f"{setting} ({uri}) cannot be used on all nodes ({_some(wrong)}). Each node needs the extra, "
                    "credentials or a role of its own, and the way to the store (docs/storage.md)"
                )
        return found + self._other_code()

    def idle_gpus(self) -> list[str]:
        """Nodes whose GPUs their torch cannot use; a run that computes on CPUs alone does not mind."""
        found = [
            f"{name}: torch {report.versions.torch}"
            for name, report in self._named()
            if report.versions is not None and report.node.num_gpus and report.versions.cuda is None
        ]
        return [f"nodes have GPUs, and a torch that is built without CUDA ({_some(found)})"] if found else []

    def _named(self) -> list[tuple[str, NodeReport]]:
        return [(f"node {report.node.name}", report) for report in self.nodes]

    def _other_code(self) -> list[str]:
        ours = self.driver.versions
        assert ours is not None, "the driver knows its own versions"
        others = [(name, report.versions) for name, report in self._named() if report.versions is not None]
        found = []
        sources = [f"{name}: {theirs}" for name, theirs in others if theirs.sources != ours.sources]
        if sources:
            found.append(
                f"nodes run another jepawm than the driver (sources {ours.sources}; {_some(sources)}); submit the job "
                "with `ray job submit --working-dir .`, or install the same version on every node"
            )
        torch = [
            f"{name}: torch {theirs.torch or 'not installed'}"
            for name, theirs in others
            if theirs.torch_release != ours.torch_release
        ]
        if torch:
            found.append(
                f"nodes have another torch than the driver ({ours.torch}; {_some(torch)}); install one version on "
                "every node (constraints.txt has the one that is tested)"
            )
        return found


@contextlib.contextmanager
def tokens_left(folders: Folders) -> Iterator[str]:
    """The driver's token lies in each folder that is written to while the context lasts.

    Args:
        folders: They are made where they are missing.

    Yields:
        The token, which names the folder of all tokens.

    Raises:
        ConfigError: The driver itself cannot write there.
    """
    token = f".nodes-{uuid.uuid4().hex[:12]}"
    places = [Path(folder, token) for folder in folders.written.values()]
    try:
        for setting, folder in folders.written.items():
            try:
                Path(folder, token).mkdir(parents=True)
                _write(Path(folder, token, "driver"), token)
            except OSError as error:
                raise ConfigError(f"{setting} ({folder}) cannot be written to: {error.strerror}") from error
        yield token
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


def examine(node: ClusterNode, folders: Folders, token: str) -> NodeReport:
    """Looks, on a node, for the driver's token in each folder, leaves the node's own beside it, and says what is there.

    Args:
        node: The node that this process runs on.
        folders: What must be shared.
        token: From `tokens_left`.
    """
    problems = {}
    for setting, folder in folders.written.items():
        problem = _problem_of(folder, token, node.id)
        if problem:
            problems[setting] = problem
    for setting, path in folders.read.items():
        if not os.path.exists(path):
            problems[setting] = "it is not there"
    for setting, uri in folders.stores.items():
        try:
            check_store(open_store(uri))
        except JepawmError as error:
            problems[setting] = first_line(error)
    places = [*folders.written.values(), *folders.read.values()]
    return NodeReport(node, {place: mount_of(place) for place in places}, problems, code_versions())


def with_answers_read(folders: Folders, token: str, reports: Sequence[NodeReport]) -> tuple[NodeReport, ...]:
    """The reports, with those folders marked where the driver does not find what the node says it wrote."""
    marked = []
    for report in reports:
        problems = dict(report.problems)
        for setting, folder in folders.written.items():
            if not report.failure and setting not in problems and _read(Path(folder, token, report.node.id)) != token:
                problems[setting] = "the driver does not see what the node wrote there"
        marked.append(NodeReport(report.node, report.mounts, problems, report.versions, report.failure))
    return tuple(marked)


def check_sees(folder: str, what: str) -> None:
    """Refuses, on a node that joined later, to work in a folder that the driver made and this node does not see.

    Args:
        folder: Made by the driver.
        what: What it is, for the error.

    Raises:
        ConfigError: Names the node and its mount.
    """
    if not os.path.isdir(folder):
        raise ConfigError(
            f"{what} {folder} is not there on node {socket.gethostname()} ({mount_of(folder)}), where a worker runs: "
            "mount one file system there on every node (docs/clusters.md)"
        )


@contextlib.contextmanager
def told_if_gone(folder: str) -> Iterator[None]:
    """Work in a folder; where the folder goes away meanwhile, that is the error, whatever failed first because of it.

    A folder that the work itself removes is not gone: the folder above it is still the same one.

    Args:
        folder: A folder that exists.

    Raises:
        FolderGoneError: Names the folder, and what lies there now.
    """
    above = os.path.dirname(os.path.abspath(folder))
    before, own = _identity(above), _identity(folder)
    try:
        yield
    except Exception as error:
        # A library may have made the folder anew where it was; Ray Tune does.
        now = _identity(folder)
        is_there = now is not None and own in (None, now)
        if is_there or (_identity(above) == before and (now is not None or not isinstance(error, OSError))):
            raise
        raise FolderGoneError(
            f"{folder} went away while this command worked in it (now there: {mount_of(folder)}; {first_line(error)}). "
            "Bring the folder back as it was, on every node, and then give the same command again: it goes on from "
            "what the folder holds. As long as the folder is away, the command would begin anew"
        ) from error


def _identity(folder: str) -> tuple[int, int] | None:
    """Device and inode; None where there is no folder, or its file system does not answer."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def mount_of(path: str) -> str:
    """The file system that a path lies on, or would lie on: type, source and mount point."""
    try:
        lines = Path(MOUNTS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return "mount unknown"
    real = os.path.realpath(path)
    found, where = "mount unknown", ""
    for line in lines:
        place, _, device = line.partition(" - ")
        point = _unescaped(place.split()[4])
        kind, source = device.split()[:2]
        # A later mount hides an earlier one on the same point.
        if os.path.commonpath((point, real)) == point and len(point) >= len(where):
            found, where = f"{kind} {_unescaped(source)} at {point}", point
    return found


@cache
def code_versions() -> CodeVersions:
    """The code of this process; torch is not imported for it."""
    return CodeVersions(platform.python_version(), _installed("jepawm"), _hash_of_sources(), *_torch())


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _hash_of_sources() -> str:
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.yaml")]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _torch() -> tuple[str, str | None]:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "", None
    # Imports nothing of torch, whose own import takes seconds.
    facts = runpy.run_path(os.path.join(os.path.dirname(spec.origin), "version.py"))
    return str(facts["__version__"]), facts.get("cuda")


def _problem_of(folder: str, token: str, node_id: str) -> str:
    if not os.path.isdir(folder):
        return "it is not there"
    if _read(Path(folder, token, "driver")) != token:
        return "another folder of that name, without the driver's token"
    try:
        _write(Path(folder, token, node_id), token)
    except OSError as error:
        return f"it cannot be written to ({error.strerror})"
    return ""


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def _unescaped(text: str) -> str:
    """A field of `/proc/self/mountinfo`, where blanks are written as octal numbers."""
    return text.encode("utf-8").decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return "; ".join(texts[:MOST_NAMED]) + more
