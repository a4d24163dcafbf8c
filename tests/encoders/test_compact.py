"""Convolutions without a head, normalisation by the data, and a compact latent on a frozen encoder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import unit_spec

from jepawm.checkpoints.model_folder import build_world_model, load_world_model, save_world_model
from jepawm.config import (
    DataConfig,
    EncoderConfig,
    EnvConfig,
    ModelConfig,
    PredictorConfig,
    RunConfig,
    from_dict,
    to_dict,
)
from jepawm.config.compact import CompactEncoderConfig
from jepawm.encoders import build_encoder
from jepawm.errors import CheckpointError, ConfigError
from jepawm.types import ActionSpec

BASE = EncoderConfig(name="conv_map", channels=(4, 8), kernel_sizes=(6, 3), strides=(4, 2), normalization="data")
SMALL = {"latent_dim": 5, "hidden_dim": 12, "base": BASE}
SIDE = 16
ACTION = ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))


def frames(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def compact(**changes: object) -> CompactEncoderConfig:
    made = EncoderConfig(name="compact", **{**SMALL, **changes})
    assert isinstance(made, CompactEncoderConfig)
    return made


def spec_with(encoder: EncoderConfig):
    features = "stored" if encoder.reads_features else "encode"
    config = RunConfig(
        env=EnvConfig(image_size=SIDE),
        data=DataConfig(frameskip=2, features=features),
        model=ModelConfig(encoder, PredictorConfig(hidden_dim=8)),
    )
    return unit_spec(config, ACTION)


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A model folder whose encoder is a base that saw some data."""
    torch.manual_seed(3)
    spec = spec_with(BASE)
    model = build_world_model(spec)
    model.encoder.preprocess.set_picture(torch.full((3, SIDE, SIDE), 100.0), 40.0)
    save_world_model(tmp_path / "base", model, spec)
    return tmp_path / "base"


def test_a_map_keeps_the_place_of_each_token():
    torch.manual_seed(0)
    encoder = build_encoder(replace(BASE, normalization="symmetric"), SIDE)
    assert encoder.grid == (2, 2)
    plain = torch.zeros(1, 1, 3, SIDE, SIDE, dtype=torch.uint8)
    touched = plain.clone()
    # Convolutions of side 6 and 3 see 6 + 2 * 4 px around a place; the last corner's tokens see this pixel alone.
    touched[..., -1, -1] = 255
    changed = (encoder(plain) != encoder(touched)).any(dim=-1)[0, 0]
    assert changed.tolist() == [False, False, False, True]


def test_a_map_begins_as_he_et_al_draw_it_and_needs_sides_that_divide():
    torch.manual_seed(0)
    config = EncoderConfig(name="conv_map")
    encoder = build_encoder(config, 64)
    assert (encoder.grid, encoder.latent_dim) == ((4, 4), 16)
    layers = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(list(encoder.convolutions)) == 7, "ReLU between the four layers, none after the last"
    for layer in layers:
        fan_in = layer.weight[0].numel()
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
        assert not layer.bias.any()
    with pytest.raises(ConfigError, match=r"divide a frame's side by 16; frames of 60 px leave a remainder"):
        build_encoder(config, 60)
    with pytest.raises(ConfigError, match=r"kernel_sizes \[2\] must be at least .* \[4\]: a smaller kernel skips"):
        EncoderConfig(name="conv_map", channels=(4,), kernel_sizes=(2,), strides=(4,))


def test_frames_are_normalised_by_the_mean_picture_that_travels_with_the_weights(base_folder):
    model, _ = load_world_model(base_folder)
    images = model.encoder.preprocess(frames().flatten(0, 1), torch.float32)
    torch.testing.assert_close(images, (frames().flatten(0, 1).float() - 100) / 40)
    with pytest.raises(ConfigError, match=r"resize_to has no meaning for model.encoder.normalization 'data'"):
        replace(BASE, resize_to=8)
    with pytest.raises(ConfigError, match=r"'data' is for encoders that begin at random"):
        EncoderConfig(name="vit", weights="file.pt", normalization="data")


def test_phi_alone_trains_and_reads_frames_and_features_alike(base_folder):
    encoder = build_encoder(compact(weights=str(base_folder)), SIDE)
    assert encoder.num_patches == 1
    width = encoder.base.num_patches * encoder.base.latent_dim
    encoder.set_feature_statistics(torch.linspace(-1, 1, width), torch.linspace(0.5, 2, width))
    encoder.train()
    latents = encoder(frames())
    assert latents.shape == (2, 3, 1, 5)
    features = encoder.storable(frames())
    torch.testing.assert_close(encoder.from_features(features), latents, rtol=0, atol=0)
    latents.square().mean().backward()
    assert all(parameter.grad is not None for parameter in encoder.phi.parameters())
    assert not any(parameter.requires_grad for parameter in encoder.base.parameters())
    assert not encoder.base.training


def test_base_and_phi_are_one_model_folder(base_folder, tmp_path):
    spec = spec_with(compact(weights=str(base_folder)))
    model = build_world_model(spec).eval()
    save_world_model(tmp_path / "both", model, spec)
    # The folder holds the base: where it came from is not needed any more.
    (base_folder / "model.safetensors").unlink()
    loaded, _ = load_world_model(tmp_path / "both")
    expected = model.encode(frames())
    torch.testing.assert_close(loaded.encode(frames()).visual, expected.visual, rtol=0, atol=0)
    actions = torch.zeros(2, 4, 4)
    torch.testing.assert_close(
        loaded.unroll(expected[:, :1], actions).visual, model.unroll(expected[:, :1], actions).visual, rtol=0, atol=0
    )


def test_a_base_of_other_settings_is_refused(base_folder, tmp_path):
    other = replace(BASE, channels=(4, 9))
    with pytest.raises(CheckpointError, match=r"is not model.encoder.base: channels is \[4, 8\] there, \[4, 9\] here"):
        build_encoder(compact(weights=str(base_folder), base=other), SIDE)
    with pytest.raises(CheckpointError, match=r"neither a model folder nor a run with one"):
        build_encoder(compact(weights=str(tmp_path)), SIDE)


def test_settings_of_a_compact_encoder_survive_plain_data_and_refuse_what_has_no_meaning():
    config = compact()
    assert from_dict(EncoderConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match=r"trainable has no meaning for model.encoder.name 'compact'"):
        compact(trainable=False)
    with pytest.raises(ConfigError, match=r"base is 'compact' itself"):
        compact(base=config)
    with pytest.raises(ConfigError, match=r"base.trainable is off, and the base has no pretrained weights"):
        compact(base=replace(BASE, trainable=False))
    with pytest.raises(ConfigError, match=r"base 'vit' has pretrained weights; set model.encoder.base.trainable"):
        compact(base=EncoderConfig(name="vit", weights="file.pt"))
    with pytest.raises(ConfigError, match=r"data.features 'stored' is for frozen encoders"):
        RunConfig(model=ModelConfig(config, PredictorConfig()))


def test_picture_statistics_are_those_of_all_pixels():
    # Against the definition, on frames of the shape that the encoder takes.
    pixels = np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE, 3), dtype=np.uint8)
    encoder = build_encoder(BASE, SIDE)
    mean = pixels.astype(np.float64).mean(axis=0)
    deviation = float(np.sqrt(np.square(pixels - mean).mean()))
    encoder.preprocess.set_picture(torch.from_numpy(mean).movedim(-1, 0), deviation)
    images = encoder.preprocess(torch.from_numpy(pixels).movedim(-1, 1), torch.float32).double()
    assert float(images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.square().mean()) == pytest.approx(1, abs=1e-4)
