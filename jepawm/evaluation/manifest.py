"""Where a number comes from: code, weights, data, versions, machine."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

_PACKAGES = ("jepawm", "torch", "numpy", "ray", "gymnasium", "pymunk", "opencv-python-headless", "pyarrow", "mlflow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores and accelerator."""
    import torch

    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"cpu": cpu, "cpu_cores": os.cpu_count(), "gpu": gpu, "platform": platform.platform()}


def git_revision() -> str | None:
    """The commit of the source tree and whether it was changed since; None outside a git checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        if head.returncode:
            return None
        return head.stdout.strip() + ("-dirty" if _git("status", "--porcelain").stdout.strip() else "")
    except FileNotFoundError:
        return None


def _git(*words: str) -> "subprocess.CompletedProcess[str]":
    folder = os.path.dirname(os.path.abspath(__file__))
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=False)


def manifest(**facts: Any) -> dict[str, Any]:
    """Facts every result file carries: date, code, versions, hardware, and what the caller adds."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
        "versions": versions(),
        "hardware": hardware(),
        **facts,
    }
