"""Encoders of the published kinds, small enough for tests."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepawm.config import EncoderConfig
from jepawm.encoders import EncoderStack, build_encoder

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# Tiny DINOs: the class they test is the published one.
TINY: dict[str, dict[str, Any]] = {
    "timm": {"model": "test_vit", "weights": None},
    "dinov2": {"latent_dim": 24, "depth": 2, "num_heads": 2, "position_grid": 5},
    "dinov3": {"latent_dim": 24, "depth": 2, "num_heads": 2},
    "vit": {"latent_dim": 24, "depth": 2, "num_heads": 2},
    "vjepa2": {"latent_dim": 24, "depth": 2, "num_heads": 2},
}
SIDES = {"conv": 32, "vit": 28, "dinov2": 28, "dinov3": 32, "vjepa2": 32, "timm": 32, "resnet18": 32, "r3m": 32}


def make(name: Any, image_size: int | None = None, **keys: Any) -> Any:
    if name not in ("conv",):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name=name, **(TINY.get(name, {}) | keys)), image_size or SIDES[name])


def frames(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def bare(encoder: nn.Module) -> Any:
    return encoder.encoder if isinstance(encoder, EncoderStack) else encoder


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def stir(module: nn.Module) -> None:
    """Weights that are not zero, one or tiny anywhere, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
