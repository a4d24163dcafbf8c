"""The optimizer, its schedule, and the number format that training computes in."""

import contextlib
import math

import torch
from torch import nn

from jepawm.config import OptimConfig


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters that train."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: OptimConfig, train_step: int, num_train_steps: int) -> float:
    """Linear warm-up to the peak, then a cosine down to `final_fraction` of it at the last step.

    Args:
        config: Peak, warm-up and final fractions.
        train_step: From 0.
        num_train_steps: Steps in all.
    """
    warmup = max(1, round(config.warmup_fraction * num_train_steps))
    if train_step < warmup:
        return config.learning_rate * (train_step + 1) / warmup
    progress = (train_step - warmup) / max(1, num_train_steps - 1 - warmup)
    low = config.final_fraction
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def pick_device(name: str) -> torch.device:
    """`auto` is cuda, else mps, else cpu; any other name is taken as it is."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 autocast, or nothing.

    Args:
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the device multiplies it natively.
        device: Where the model runs.
    """
    if precision == "auto":
        precision = "bfloat16" if _native_bfloat16(device) else "float32"
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        # torch has no public name for this question; where even the private one is missing, float32 is safe.
        check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(check and check())
    return False
