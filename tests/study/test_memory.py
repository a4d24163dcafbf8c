"""The peak of memory is that of the block, and not of what the process did before."""

import numpy as np
import pytest
import torch

from jepawm.study.memory import PeakMemory

MIB = 2**20


def filled(mib: int) -> int:
    """Holds so much memory, and lets it go."""
    return int(np.ones(mib * MIB, np.uint8)[-1])


def test_the_peak_is_of_what_ran_since_and_forgets_what_was_before() -> None:
    large = PeakMemory(torch.device("cpu"))
    if not large.mib():
        pytest.skip("this kernel forgets no peak")
    idle = large.mib()["peak_host_mib"]
    filled(256)
    peak = large.mib()
    assert set(peak) == {"peak_host_mib"}
    # Arrays of this size are mapped on their own; the rest of the process may have returned some pages meanwhile.
    assert peak["peak_host_mib"] > idle + 128
    small = PeakMemory(torch.device("cpu"))
    filled(16)
    assert small.mib()["peak_host_mib"] < peak["peak_host_mib"] - 64
