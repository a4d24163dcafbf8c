"""How a model computes while it trains: with less memory, or compiled. The numbers stay the same."""

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jepawm.config.training import TrainConfig
from jepawm.nn.transformer import AdaptiveBlock, Block
from jepawm.world_model import WorldModel


def prepare_compute_(model: WorldModel, train: TrainConfig) -> None:
    """Sets up activation checkpointing and compilation, as configured; parameters keep their names."""
    if train.activation_checkpointing:
        checkpoint_activations_(model)
    if train.compile:
        _compile_(model.predictor)
        if model.config.encoder.trainable:
            _compile_(model.encoder)


def checkpoint_activations_(model: nn.Module) -> None:
    """Lets the blocks that train compute their inside again in the backward pass."""
    for module in model.modules():
        if isinstance(module, Block | AdaptiveBlock) and any(part.requires_grad for part in module.parameters()):
            # The module's own attribute: hooks, names and checkpoints do not notice. `forward` calls `extend`.
            module.extend = functools.partial(_recomputed, module.extend)  # type: ignore[method-assign]


def _recomputed(work: Any, *inputs: Any, **settings: Any) -> Any:
    if not torch.is_grad_enabled():
        return work(*inputs, **settings)
    return checkpoint(work, *inputs, use_reentrant=False, **settings)


def _compile_(module: nn.Module) -> None:
    module.compile()
