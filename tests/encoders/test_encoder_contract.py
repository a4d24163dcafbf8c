"""What every encoder promises. A new encoder joins `ENCODERS` and gets all of it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from jepawm.config import EncoderConfig, ModelConfig, PredictorConfig, from_dict, to_dict
from jepawm.encoders import Encoder, build_encoder
from jepawm.errors import ConfigError
from jepawm.types import Statistics
from jepawm.world_model import WorldModel


class Case(NamedTuple):
    """A small encoder and the side of the frames it takes, pixels; `needs` is a package it is built from."""

    settings: dict[str, Any]
    side: int
    needs: str | None = None


# Its configuration without weights.
TINY_SIGLIP = Path(__file__).parent / "tiny_siglip"
SMALL = {"latent_dim": 24, "depth": 1, "num_heads": 2}
# Every kind that encodes. A new encoder joins here and gets all of these tests.
ENCODERS: dict[str, Case] = {
    "conv": Case({"latent_dim": 12, "channels": (4, 8), "kernel_sizes": (5, 3), "strides": (4, 2)}, 32),
    "conv_map": Case({"channels": (4, 8, 6), "kernel_sizes": (6, 3, 3), "strides": (4, 2, 1)}, 32),
    "vit": Case({**SMALL, "patch_size": 8}, 32),
    "dinov2": Case({**SMALL, "position_grid": 2}, 28, "timm"),
    "dinov3": Case(SMALL, 32, "timm"),
    "vjepa1": Case({**SMALL, "position_grid": 2}, 32),
    "vjepa2": Case(SMALL, 32),
    "vjepa2_1": Case({**SMALL, "depth": 4}, 32),
    "resnet18": Case({}, 64, "timm"),
    "r3m": Case({}, 64, "timm"),
    "timm": Case({"model": "test_vit", "weights": None}, 48, "timm"),
    "huggingface": Case({"model": str(TINY_SIGLIP), "weights": None}, 40, "transformers"),
    "pixel_statistics": Case({"cells": 4}, 32),
}
B, T = 2, 3
every = pytest.mark.parametrize("name", ENCODERS)


def test_every_kind_that_encodes_is_put_to_the_test() -> None:
    # Of a compact encoder a part is always frozen; test_compact.py has what it promises.
    assert {*ENCODERS, "none", "compact"} == {*EncoderConfig.kinds}


def config_of(name: str, **changes: Any) -> EncoderConfig:
    return EncoderConfig(name=name, **{**ENCODERS[name].settings, **changes})


def build(name: str, **changes: Any) -> Encoder:
    needs = ENCODERS[name].needs
    if needs is not None:
        pytest.importorskip(needs)
    torch.manual_seed(0)
    return build_encoder(config_of(name, **changes), ENCODERS[name].side)


def frames(name: str, side: int | None = None) -> Tensor:
    side = side or ENCODERS[name].side
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (B, T, 3, side, side), generator=generator, dtype=torch.uint8)


@every
def test_frames_become_tokens_of_the_stated_shape(name: str) -> None:
    encoder = build(name).eval()
    latents = encoder(frames(name))
    assert latents.shape == (B, T, encoder.grid[0] * encoder.grid[1], encoder.latent_dim)
    assert latents.dtype == torch.float32
    assert encoder.num_patches == latents.shape[2]
    assert torch.isfinite(latents).all()
    assert not torch.allclose(latents[0, 0], latents[1, 0])


@every
def test_a_frame_does_not_depend_on_those_beside_it(name: str) -> None:
    encoder, pixels = build(name).eval().double(), frames(name)
    whole = encoder(pixels)
    alone = torch.cat([encoder(pixels[row : row + 1, at : at + 1]) for row in range(B) for at in range(T)])
    # float64 through at most a few thousand products a token; a batch of another size may add them in another order.
    torch.testing.assert_close(alone.view_as(whole), whole, rtol=1e-5, atol=1e-5)


@every
def test_frames_of_another_size_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        build(name)(frames(name, 2 * ENCODERS[name].side))


@every
def test_gradients_reach_an_encoder_that_trains_and_no_frozen_one(name: str) -> None:
    if config_of(name).has_weights:
        encoder = build(name)
        encoder(frames(name)).square().mean().backward()
        # vjepa2_1 leaves alone what its tokenization never uses, e.g. the embedding of images where it sees videos.
        assert name == "vjepa2_1" or all(parameter.requires_grad for parameter in encoder.parameters())
        assert all(parameter.grad is not None for parameter in encoder.parameters() if parameter.requires_grad)
    frozen = build(name, trainable=False)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not frozen(frames(name)).requires_grad


@every
def test_its_settings_survive_plain_data(name: str) -> None:
    config = config_of(name, trainable=False)
    assert from_dict(EncoderConfig, to_dict(config)) == config


@every
def test_a_world_model_encodes_and_unrolls_with_it(name: str) -> None:
    needs = ENCODERS[name].needs
    if needs is not None:
        pytest.importorskip(needs)
    zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    config = ModelConfig(config_of(name), PredictorConfig(hidden_dim=8))
    model = WorldModel(
        config, image_size=ENCODERS[name].side, frameskip=2, statistics=Statistics(zeros, ones, zeros, ones)
    )
    latents = model.encode(frames(name))
    unrolled = model.unroll(latents[:, :1], torch.zeros(B, 4, 4))
    assert unrolled.visual.shape == (B, 4, model.num_patches, model.latent_dim)
