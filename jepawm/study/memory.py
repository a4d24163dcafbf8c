"""The most memory that a process held while something ran."""

import re
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# What the kernel takes as the wish to forget the peak so far.
_FORGET_PEAK = "5"


class PeakMemory:
    """From its making on: of the process on the host, and of torch on a GPU.

    A process may run several trials, so the peak before is forgotten first. Only Linux can do that; elsewhere the peak
    on the host is not known.

    Args:
        device: Where the work happens.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_reset = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            _CLEAR.write_text(_FORGET_PEAK)
            self._is_reset = True
        except OSError:
            # Not Linux, or a sandbox that forbids it.
            return

    def mib(self) -> dict[str, float]:
        """`peak_host_mib` where it can be known, and `peak_gpu_mib` on a GPU."""
        found = {}
        if self._is_reset:
            match = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
            if match:
                found["peak_host_mib"] = int(match[1]) / 1024
        if self._device.type == "cuda":
            found["peak_gpu_mib"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        return found
