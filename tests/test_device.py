"""Where a process computes, on machines with GPUs and without."""

import pytest
import torch

from jepawm.device import device_of_claim, pick_driver_device
from jepawm.errors import ConfigError


@pytest.fixture
def machine(monkeypatch):
    """Sets how many GPUs torch finds; no Apple processor."""

    def has(gpus: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return has


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [
        ("auto", 1.0, "cuda"),
        ("auto", 0.25, "cuda"),
        # Ray numbers the GPUs that a process claims from 0, whatever the run calls them.
        ("cuda:3", 1.0, "cuda"),
        ("auto", 0.0, "cpu"),
        ("cuda", 0.0, "cpu"),
        # A GPU that is claimed and not computed on.
        ("cpu", 1.0, "cpu"),
    ],
)
def test_a_process_on_ray_computes_on_what_it_claims(machine, name, gpus, device):
    # It may see GPUs that others have claimed.
    machine(8)
    assert device_of_claim(name, gpus) == device


def test_a_driver_needs_no_gpu_where_the_work_is_done_elsewhere(machine):
    machine(0)
    for name in ("auto", "cuda", "cuda:1", "cpu"):
        assert pick_driver_device(name).type == "cpu"
    machine(2)
    assert pick_driver_device("auto").type == "cuda"
    assert pick_driver_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="torch finds 2 GPU"):
        pick_driver_device("cuda:2")
    with pytest.raises(ConfigError, match="found 'gpu'"):
        pick_driver_device("gpu")


def test_without_a_gpu_an_apple_processor_computes_on_its_own(machine, monkeypatch):
    machine(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of_claim("auto", 0.0) == "mps"
    assert device_of_claim("cuda", 0.0) == "cpu"
