"""Where a model computes, and in which number format."""

import contextlib

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


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast to a format of 16 bits, or nothing.

    Args:
        precision: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the device multiplies it natively.
        device: Where the model runs.
    """
    if precision == "auto":
        precision = "bfloat16" if _native_bfloat16(device) else "float32"
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        # torch has no public name for this question; where even the private one is missing, float32 is safe.
        check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(check and check())
    return False
