"""World models on encoders of timm and of transformers: on disk, moved, and with other weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hub
import torch
from configs import spec_of
from safetensors.torch import load_file, save_file

import jepawm
from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import ModelSpec, build_world_model, check_buildable, save_world_model
from jepawm.config import EncoderConfig, EnvConfig, ModelConfig, PredictorConfig, RunConfig
from jepawm.encoders.frozen import encoder_sha256
from jepawm.errors import CheckpointError
from jepawm.types import ActionSpec, Statistics

SIDE = 40
STATISTICS = Statistics(*(np.asarray(values, np.float32) for values in ([0, 0], [1, 1], [0, 0], [1, 1])))


def write_model(kind: str, folder: Path) -> EncoderConfig:
    """A file of a tiny model, or a folder, and the encoder that reads it."""
    if kind == "huggingface":
        tiny_hub.write(folder, "siglip")
        return EncoderConfig(name=kind, model=str(folder), trainable=False)
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False)
    save_file(network.state_dict(), folder)
    return EncoderConfig(name=kind, model="test_vit", weights=str(folder), resize_to=32, trainable=False)


def spec_with(encoder: EncoderConfig) -> ModelSpec:
    config = RunConfig(env=EnvConfig(image_size=SIDE), model=ModelConfig(encoder, PredictorConfig(hidden_dim=8)))
    return spec_of(config, STATISTICS, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)))


def other_weights(kind: str, place: Path) -> None:
    """Changes one number of the encoder."""
    file = place / "model.safetensors" if place.is_dir() else place
    tensors = load_file(file)
    name = next(name for name in tensors if "patch_embed" in name and name.endswith("bias"))
    tensors[name][0] += 1
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["timm", "huggingface"])
def test_an_encoder_may_have_moved_but_not_changed(tmp_path: Path, kind: str) -> None:
    spec = spec_with(write_model(kind, tmp_path / "first.safetensors"))
    check_buildable(spec.model, image_size=SIDE, frameskip=1)
    model = build_world_model(spec).eval()
    assert not any(name.startswith("encoder") for name in model.state_dict())
    now: dict[str, Any] = {
        "pixels": np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        "proprio": np.zeros(2, np.float32),
    }
    expected = Agent(model, spec).encode(now).visual
    save_world_model(str(tmp_path / "model"), model, spec)
    assert torch.equal(jepawm.load(tmp_path / "model", device="cpu").encode(now).visual, expected)
    (tmp_path / "first.safetensors").rename(tmp_path / "moved.safetensors")

    def load(place: str | None) -> Agent:
        return jepawm.load(tmp_path / "model", device="cpu", encoder_weights=place and str(tmp_path / place))

    with pytest.raises(CheckpointError, match=r"first.safetensors"):
        load(None).encode(now)
    assert torch.equal(load("moved.safetensors").encode(now).visual, expected)
    other_weights(kind, tmp_path / "moved.safetensors")
    with pytest.raises(CheckpointError, match="are not those this model was trained on"):
        load("moved.safetensors").encode(now)


@pytest.mark.parametrize("kind", ["timm", "huggingface"])
def test_a_fine_tuned_encoder_is_in_the_folder(tmp_path: Path, kind: str) -> None:
    spec = spec_with(replace(write_model(kind, tmp_path / "first.safetensors"), trainable=True))
    model = build_world_model(spec).train()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.01)
    save_world_model(str(tmp_path / "model"), model, spec)
    # What it began with may change.
    other_weights(kind, tmp_path / "first.safetensors")
    read = jepawm.load(tmp_path / "model", device="cpu").model
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in model.state_dict().items())
    assert encoder_sha256(read.encoder) == encoder_sha256(model.encoder)
