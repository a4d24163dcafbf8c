"""Where a model computes, and in which number format."""

import contextlib
import os
from pathlib import Path
from typing import Literal

import torch

from jepawm.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """`auto` is cuda, else mps, else cpu; any other name is taken as it is.

    Raises:
        ConfigError: No such device, or none here.
    """
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(f"device must be auto, cpu, mps, cuda or cuda:N, found '{name}'") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"device '{name}': torch finds {torch.cuda.device_count()} GPU(s) here; use auto or cpu")
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_without_gpu(name: str) -> str:
    """Where a process computes that claimed no GPU of Ray's: it may see GPUs that others have claimed."""
    return "mps" if name in ("auto", "mps") and torch.backends.mps.is_available() else "cpu"


def device_of_claim(name: str, gpus: float) -> str:
    """Where a process of a run on Ray computes.

    Args:
        name: Device of the run.
        gpus: GPUs that the process claims; Ray shows it no others, so they are numbered from 0.
    """
    return "cuda" if gpus and name.startswith(("auto", "cuda")) else device_without_gpu(name)


def pick_driver_device(name: str) -> torch.device:
    """Where the driver of a run computes: a GPU that the run asks for is needed where its work is done, not here.

    Raises:
        ConfigError: No such device.
    """
    return pick_device("cpu" if name.startswith("cuda") and not torch.cuda.is_available() else name)


def resolve_precision(precision: str, device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """The number format that `auto` stands for on a device.

    Args:
        precision: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the device multiplies it natively.
        device: Where the model runs.
    """
    if precision == "auto":
        return "bfloat16" if _native_bfloat16(device) else "float32"
    if precision == "float16":
        return "float16"
    return "float32" if precision == "float32" else "bfloat16"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast to a format of 16 bits, or nothing; see `resolve_precision`."""
    found = resolve_precision(precision, device)
    if found == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, found))


def free_memory_bytes(device: torch.device) -> int:
    """Memory that tensors on a device can still take.

    On a GPU this is what the driver has left and what torch holds without using it. On the host it is what the kernel
    can hand out without swapping, and no more than the container's limit leaves.

    Args:
        device: Where the tensors live.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    found = []
    if (meminfo := Path("/proc/meminfo")).is_file():
        available = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        found.append(1024 * int(available.split()[1]))
    else:
        # Without Linux's own estimate, half of the machine's memory is taken to be free.
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        found.append(max(0, int(most) - int(used.read_text())))
    return min(found)


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        # torch has no public name for this question; where even the private one is missing, float32 is safe.
        check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(check and check())
    return False
