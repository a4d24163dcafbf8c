"""`jepawm doctor`: what is installed, what this machine has, whether MuJoCo draws here, and what a cluster lacks."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import tyro

from jepawm.cli.doctor_rendering import BACKENDS, SIZE_PX, examine

Level = Literal["ok", "note", "FAIL"]

CORE = ("torch", "numpy", "pyarrow", "gymnasium", "ray", "mlflow")
NOT_FOR_USERS = ("test", "lint")
SMALL_SHM_GIB = 1.0
# Words for MUJOCO_GL that mean a window on a screen.
WITH_A_SCREEN = ("glfw", "glx")
# Slower than this, collecting waits for pictures; see `quality` of the MuJoCo environments.
SLOW_PICTURE_MS = 50.0


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes:
        level: `FAIL`: installed, and does not work; `note`: absent or slow, with what to do.
        name: What it is.
        text: What was found.
        facts: The same in numbers, for `--json`.
    """

    level: Level
    name: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.level:<5} {self.name}: {self.text}"


@dataclass(frozen=True)
class Doctor:
    """Look at Python, packages, machine and rendering. Exit code 1 if what is installed cannot work.

    On a cluster (`--cluster`), also look at every node: whether it shares `$JEPAWM_HOME` and runs the same code.
    """

    json: bool = False
    """Print JSON."""
    rendering: bool = True
    """Draw with each of MuJoCo's ways to draw without a screen."""
    cluster: bool = False
    """Look at the nodes of the cluster that `$RAY_ADDRESS` names, or that this job was submitted to."""

    def run(self) -> int:
        """Prints one line a finding."""
        lines: list[Line] = []
        for line in look(rendering=self.rendering, cluster=self.cluster):
            lines.append(line)
            if not self.json:
                print(line, flush=True)
        if self.json:
            print(json.dumps([asdict(line) for line in lines], indent=1))
        return int(any(line.level == "FAIL" for line in lines))


def look(*, rendering: bool = True, cluster: bool = False) -> Iterator[Line]:
    """Looks at everything, the quick things first."""
    yield _python()
    yield from _packages()
    yield _device()
    yield from _machine()
    yield from _extras()
    if rendering:
        yield from _rendering()
    if cluster:
        yield from _cluster()


def _python() -> Line:
    version = platform.python_version()
    facts = {"version": version, "executable": sys.executable}
    return Line("ok", "python", f"{version} on {platform.platform()}", facts)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Line]:
    found = {package: _version(package) for package in CORE}
    missing = [package for package, version in found.items() if version is None]
    versions = ", ".join(f"{package} {version}" for package, version in found.items() if version)
    if missing:
        how = f"{', '.join(missing)} not installed; run: pip install {' '.join(missing)}"
        yield Line("FAIL", "packages", f"{how} (found: {versions or 'none of them'})", found)
    else:
        yield Line("ok", "packages", versions, found)


def _device() -> Line:
    try:
        import torch

        from jepawm.device import pick_device

        device = pick_device("auto")
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except (ImportError, OSError, RuntimeError) as error:
        return Line("FAIL", "device", f"torch cannot be used: {error}")
    where = f"{len(gpus)} GPU(s): {', '.join(gpus)}" if gpus else "no CUDA GPU"
    return Line("ok", "device", f"{device.type} ({where})", {"device": device.type, "gpus": gpus})


def _machine() -> Iterator[Line]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Line("ok", "cores", f"{cores} that this process may use", {"cores": cores})
    ram = _memory_gib()
    if ram is not None:
        yield Line("ok", "memory", f"{ram:.1f} GiB", {"gib": ram})
    if os.path.isdir("/dev/shm"):
        usage = shutil.disk_usage("/dev/shm")
        size, free = usage.total / 2**30, usage.free / 2**30
        facts = {"gib": size, "free_gib": free}
        if free < SMALL_SHM_GIB:
            yield Line(
                "note",
                "/dev/shm",
                f"{free:.2f} GiB free of {size:.2f}; Ray keeps its objects there and falls back to slow files: start "
                "the container with --shm-size, or lower scaling.object_store_memory_mib",
                facts,
            )
        else:
            yield Line("ok", "/dev/shm", f"{free:.1f} GiB free of {size:.1f}, where Ray keeps its objects", facts)


def _memory_gib() -> float | None:
    """Memory of this machine, or of this container where that is less."""
    sizes = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.isfile(path):
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
            sizes += [int(text)] if text.isdigit() else []
    return min(sizes) / 2**30 if sizes else None


def extras() -> dict[str, list[str]]:
    """The extras of jepawm and the requirements that each adds, as the installed package says."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("jepawm") or ():
        requirement, _, marker = line.partition(";")
        name = re.search(r"""extra\s*==\s*['"]([^'"]+)""", marker)
        if name and name[1] not in NOT_FOR_USERS:
            found.setdefault(name[1], []).append(requirement.strip())
    return found


def _extras() -> Iterator[Line]:
    from packaging.requirements import Requirement

    try:
        known = extras()
    except importlib.metadata.PackageNotFoundError:
        yield Line(
            "note", "extras", "jepawm itself is not installed (run: pip install -e .), so its extras are unknown"
        )
        return
    for extra, requirements in known.items():
        have, lack = [], []
        for requirement in map(Requirement, requirements):
            version = _version(requirement.name)
            if version is None:
                lack.append(requirement.name)
            elif not requirement.specifier.contains(version, prereleases=True):
                lack.append(f"{requirement.name}{requirement.specifier} (found {version})")
            else:
                have.append(f"{requirement.name} {version}")
        facts = {"installed": have, "missing": lack}
        if lack:
            yield Line("note", f"extra {extra}", f'no {", ".join(lack)}; run: pip install "jepawm[{extra}]"', facts)
        else:
            yield Line("ok", f"extra {extra}", ", ".join(have), facts)


def _rendering() -> Iterator[Line]:
    if _version("mujoco") is None:
        yield Line("note", "rendering", 'mujoco is not installed; run: pip install "jepawm[mujoco]"')
        return
    # MuJoCo reads the variable without regard to case and to blanks around it.
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    wish = f"MUJOCO_GL={chosen}" if chosen else "MUJOCO_GL is not set: jepawm takes egl"
    gpu = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    known = ("", *BACKENDS, *WITH_A_SCREEN)
    device = "" if chosen not in known else f"; MUJOCO_EGL_DEVICE_ID={'not set: the first GPU' if gpu is None else gpu}"
    fault = "" if chosen in known else f", which is no way to draw; expected one of {', '.join(known[1:])}, or unset it"
    yield Line("FAIL" if fault else "ok", "rendering", f"{wish}{fault}{device}")
    found = {backend: examine(backend) for backend in BACKENDS}
    works = [backend for backend in BACKENDS if found[backend]["works"]]
    for backend in BACKENDS:
        # That a way is absent is no fault while another works, unless it is the one that was asked for.
        needed = backend == chosen or not works or bool(found[backend].get("problems"))
        yield _backend_line(backend, found[backend], needed=needed)
    screen = os.environ.get("DISPLAY")
    without = chosen in WITH_A_SCREEN and not screen
    use = "unset MUJOCO_GL" if without else "nothing here uses it"
    level: Level = "FAIL" if without else "note"
    yield Line(level, "glfw", f"needs a screen; DISPLAY is {screen or 'not set'}; {use}")
    if works and (chosen or "egl") not in (*works, *WITH_A_SCREEN):
        yield Line("note", "rendering", f"set MUJOCO_GL={works[0]}, which works")


def _backend_line(backend: str, found: dict[str, Any], *, needed: bool) -> Line:
    if found["works"]:
        who = "the CPU" if found["software"] else "a GPU"
        text = (
            f"{found['renderer']} ({who}); right side up, two at once undisturbed; {SIZE_PX} px: "
            f"{found['fast_ms']:.1f} ms fast, {found['faithful_ms']:.1f} ms faithful"
        )
        if found["fast_ms"] > SLOW_PICTURE_MS:
            return Line("note", backend, f"{text}; slow, fewer pixels (env.image_size) or a GPU would help", found)
        return Line("ok", backend, text, found)
    missing = found["missing"]
    wrong = "; ".join(found.get("problems", ())) or found.get("error", "")
    how = f"; run: apt-get install {' '.join(missing)}" if missing else ""
    return Line("FAIL" if needed else "note", backend, f"does not work: {wrong}{how}", found)


def _cluster() -> Iterator[Line]:
    from jepawm.errors import JepawmError
    from jepawm.runs.preflight.machine import joins_a_cluster
    from jepawm.runs.runtime import examine_cluster, home_folder

    if not joins_a_cluster():
        yield Line(
            "FAIL",
            "cluster",
            "this process belongs to none; set RAY_ADDRESS=HOST:6379, or submit it: ray job submit --working-dir . -- "
            "python -m jepawm doctor --cluster",
        )
        return
    try:
        report = examine_cluster(home_folder())
    except (JepawmError, ConnectionError, RuntimeError) as error:
        yield Line("FAIL", "cluster", f"its nodes cannot be asked: {error}")
        return
    for found in report.nodes:
        level: Level = "FAIL" if found.failure or found.problems else "ok"
        yield Line(level, f"node {found.node.name}", str(found), asdict(found))
    for problem in report.problems():
        yield Line("FAIL", "cluster", problem)
    for problem in report.idle_gpus():
        yield Line("FAIL", "cluster", problem)
    if not report.problems():
        yield Line("ok", "cluster", f"{len(report.nodes)} nodes share $JEPAWM_HOME and run {report.driver.versions}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    command = tyro.cli(Doctor, prog="jepawm doctor", args=None if argv is None else list(argv))
    return command.run()


if __name__ == "__main__":
    sys.exit(main())
