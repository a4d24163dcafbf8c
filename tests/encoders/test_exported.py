"""Encoder folders: what a pretraining exports is an encoder with its own settings, frozen or trained on."""

import dataclasses
from pathlib import Path

import pytest
import torch

from jepawm.config import EncoderConfig, RunConfig, from_dict, to_dict
from jepawm.config.command_line import parse
from jepawm.config.exported import exported_folder, exported_settings
from jepawm.encoders import FrozenEncoder, build_encoder
from jepawm.encoders.exported import export_encoder
from jepawm.errors import CheckpointError, ConfigError

KINDS = {
    "vjepa1": {"latent_dim": 48, "depth": 2, "num_heads": 2, "position_grid": 2, "position_times": 4},
    "vjepa2": {"latent_dim": 48, "depth": 2, "num_heads": 2, "rotary_pairing": "corrected"},
    "vjepa2_1": {"latent_dim": 48, "depth": 4, "num_heads": 2},
}
SIDE = 32


def config_of(kind: str, **changes) -> EncoderConfig:
    return EncoderConfig(name=kind, patch_size=8, normalization="imagenet", **{**KINDS[kind], **changes})


def exported(kind: str, folder: Path):
    torch.manual_seed(0)
    encoder = build_encoder(config_of(kind), SIDE)
    export_encoder(encoder, folder)
    return encoder


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 2, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_exported_encoder_is_read_with_its_settings(tmp_path, kind, trainable):
    encoder = exported(kind, tmp_path / "encoder").eval()
    # The folder of the encoder, or the run that it lies in.
    for source in (tmp_path / "encoder", tmp_path):
        config = from_dict(EncoderConfig, {"weights": str(source), "trainable": trainable})
        assert (config.name, config.normalization, config.patch_size) == (kind, "imagenet", 8)
        read = build_encoder(config, SIDE).eval()
        assert isinstance(read, FrozenEncoder) == (not trainable)
        assert torch.equal(read(pixels()), encoder(pixels()))


def test_a_second_export_that_is_cut_short_leaves_no_folder_that_looks_whole(tmp_path, monkeypatch):
    encoder = exported("vjepa2", tmp_path)
    assert exported_folder(str(tmp_path)) is not None

    def full(*_):
        (tmp_path / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("jepawm.encoders.exported.save_file", full)
        with pytest.raises(OSError, match="no space left"):
            export_encoder(encoder, tmp_path)
    assert exported_folder(str(tmp_path)) is None
    export_encoder(encoder, tmp_path)
    assert exported_folder(str(tmp_path)) is not None


def test_settings_of_the_folder_come_with_its_flag(tmp_path, monkeypatch):
    exported("vjepa2", tmp_path / "encoder")
    config, _ = parse(["--model.encoder.weights", str(tmp_path / "encoder"), "--model.encoder.no-trainable"])
    encoder = config.model.encoder
    assert (encoder.name, encoder.latent_dim, encoder.rotary_pairing) == ("vjepa2", 48, "corrected")
    assert not encoder.trainable
    # Settings that the weights leave open may be chosen.
    config, _ = parse(
        [f"--model.encoder.weights={tmp_path}", "--model.encoder.tokenization", "duplicated", "--env.image-size", "64"]
    )
    assert config.model.encoder.tokenization == "duplicated"
    # A run that was saved has them all, and needs the folder no more.
    saved = to_dict(config)
    (tmp_path / "encoder" / "encoder.yaml").unlink()
    assert from_dict(RunConfig, saved).model.encoder == config.model.encoder


def test_other_settings_are_refused_with_the_right_flags(tmp_path):
    exported("vjepa2", tmp_path)
    for wrong, flag in (
        ({"patch_size": 16}, r"--model\.encoder\.patch-size 8"),
        ({"normalization": "symmetric"}, r"--model\.encoder\.normalization imagenet"),
        ({"name": "vjepa2_1"}, r"--model\.encoder\.name vjepa2$"),
    ):
        with pytest.raises(ConfigError, match=rf"pretrained with other settings, found .*pass {flag}"):
            from_dict(EncoderConfig, {"weights": str(tmp_path), **wrong})
    # In Python, and after flags that came later, the weights are compared when they are read.
    config = dataclasses.replace(config_of("vjepa2"), weights=str(tmp_path), depth=3)
    with pytest.raises(ConfigError, match=r"found model\.encoder\.depth 3; .*pass --model\.encoder\.depth 2"):
        build_encoder(config, SIDE)


def test_damaged_folders_say_what_is_wrong(tmp_path):
    exported("vjepa2", tmp_path)
    config = from_dict(EncoderConfig, {"weights": str(tmp_path)})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has encoder\.yaml but no model\.safetensors"):
        build_encoder(config, SIDE)
    (tmp_path / "encoder.yaml").write_text("config_version: 1\nmodel: {}\n")
    with pytest.raises(ConfigError, match=r"encoder\.yaml must hold model\.encoder with a name"):
        exported_settings(str(tmp_path))


def test_a_folder_without_settings_is_no_encoder_folder(tmp_path):
    assert exported_folder(str(tmp_path)) is None
    assert exported_folder("vjepa2_1_vit_base_384") is None


def test_a_layer_of_an_exported_encoder(tmp_path):
    exported("vjepa2", tmp_path)
    config = from_dict(EncoderConfig, {"weights": str(tmp_path), "layer": 1})
    assert len(build_encoder(config, SIDE).blocks) == 1
