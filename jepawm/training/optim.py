"""The optimizer and its schedule."""

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
