"""The encoders against golden vectors of the published ones, and with the real features beside the repository."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("timm")

from jepawm.config import EncoderConfig
from jepawm.encoders import build_encoder

TINY: dict[str, Any] = {"latent_dim": 48, "depth": 2, "num_heads": 3, "trainable": False}
CASES = [("dinov2", 56), ("dinov2", 224), ("dinov3", 64), ("dinov3", 256)]
KEYS = {"patch": "x_norm_patchtokens", "class": "x_norm_clstoken"}


def tiny(name: str, weights: Path, image_size: int, feature: Any = "patch") -> Any:
    config = EncoderConfig(name=name, weights=str(weights), feature=feature, **TINY)  # type: ignore[arg-type]
    return build_encoder(config, image_size)


@pytest.mark.parametrize("feature", KEYS)
@pytest.mark.parametrize(("name", "side"), CASES)
def test_tokens_are_the_published_ones(golden: Path, name: str, side: int, feature: str) -> None:
    folder = golden / f"encoder_{name}"
    io = load_file(folder / "io.safetensors")
    stack = tiny(name, folder / "checkpoint.pth", side, feature)
    expected = io[f"{KEYS[feature]}.{side}"].view(2, -1, 48)
    with torch.no_grad():
        found = stack.backbone().tokens(io[f"image.{side}"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.shape[1] == stack.num_patches


@pytest.mark.parametrize(("name", "side"), CASES)
def test_one_encoder_takes_images_of_any_size_its_patches_divide(golden: Path, name: str, side: int) -> None:
    folder = golden / f"encoder_{name}"
    io = load_file(folder / "io.safetensors")
    encoder = tiny(name, folder / "checkpoint.pth", 112).backbone()
    with torch.no_grad():
        found = encoder.tokens(io[f"image.{side}"])
    torch.testing.assert_close(found, io[f"x_norm_patchtokens.{side}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "side"), CASES)
def test_bfloat16_stays_near(golden: Path, name: str, side: int) -> None:
    folder = golden / f"encoder_{name}"
    io = load_file(folder / "io.safetensors")
    encoder = tiny(name, folder / "checkpoint.pth", side).backbone()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = encoder.tokens(io[f"image.{side}"]).float()
    # Tokens have deviation 1; bfloat16 keeps 8 bits, and two blocks add up a few roundings.
    error = (found - io[f"x_norm_patchtokens.{side}"]).abs()
    assert 0 < error.max() < 0.04
    assert error.mean() < 0.005


@pytest.mark.parametrize(("name", "side"), [("dinov2", 56), ("dinov3", 64)])
def test_timm_converts_the_official_file_to_the_same_model(golden: Path, tmp_path: Path, name: str, side: int) -> None:
    folder = golden / f"encoder_{name}"
    official = torch.load(folder / "checkpoint.pth", weights_only=True)
    ours = tiny(name, folder / "checkpoint.pth", side)
    from timm.models import eva, vision_transformer

    module = eva if name == "dinov3" else vision_transformer
    theirs = module.checkpoint_filter_fn(dict(official), ours.backbone().backbone)
    if name == "dinov3":
        assert {"blocks.0.attn.q_bias", "reg_token"} <= set(theirs)
    torch.save(theirs, tmp_path / "timm.pth")
    converted = tiny(name, tmp_path / "timm.pth", side)
    image = load_file(folder / "io.safetensors")[f"image.{side}"]
    with torch.no_grad():
        found, expected = converted.backbone().tokens(image), ours.backbone().tokens(image)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_rotary_periods_of_the_file_are_used_and_checked(golden: Path, tmp_path: Path) -> None:
    from jepawm.errors import CheckpointError

    official = torch.load(golden / "encoder_dinov3" / "checkpoint.pth", weights_only=True)
    rounded = official["rope_embed.periods"].bfloat16()
    torch.save(official | {"rope_embed.periods": rounded}, tmp_path / "rounded.pth")
    encoder = tiny("dinov3", tmp_path / "rounded.pth", 64).backbone()
    assert torch.equal(encoder.periods, rounded.float())
    assert not torch.equal(encoder.periods, official["rope_embed.periods"])
    torch.save(official | {"rope_embed.periods": official["rope_embed.periods"] * 1.1}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"rope_embed\.periods"):
        tiny("dinov3", tmp_path / "other.pth", 64).backbone()


def test_a_bias_of_keys_is_masked_or_refused(golden: Path, tmp_path: Path) -> None:
    from jepawm.errors import CheckpointError

    path = golden / "encoder_dinov3" / "checkpoint.pth"
    official = torch.load(path, weights_only=True)
    key = "blocks.0.attn.qkv.bias"
    image = load_file(golden / "encoder_dinov3" / "io.safetensors")["image.64"]
    with torch.no_grad():
        expected = tiny("dinov3", path, 64).backbone().tokens(image)
        louder = official[key].clone()
        louder[48:96] += 3
        torch.save(official | {key: louder}, tmp_path / "masked.pth")
        torch.testing.assert_close(tiny("dinov3", tmp_path / "masked.pth", 64).backbone().tokens(image), expected)
    del official[f"{key}_mask"]
    torch.save(official | {key: louder}, tmp_path / "loud.pth")
    with pytest.raises(CheckpointError, match=r"keys' third of blocks\.0\.attn\.qkv\.bias is not masked"):
        tiny("dinov3", tmp_path / "loud.pth", 64).backbone()


def test_real_features_load_strictly_and_equal_timms_own(shared: Path) -> None:
    path = shared / "weights" / "dinov2_vits14_saliency.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the repository")
    import timm

    ours = build_encoder(EncoderConfig(name="dinov2", weights=str(path), trainable=False), 518)
    theirs = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0).eval()
    theirs.load_state_dict(load_file(path))
    image = torch.rand(1, 3, 518, 518, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            ours.backbone().tokens(image), theirs.forward_features(image)[:, 1:], rtol=1e-4, atol=1e-4
        )
    assert (ours.grid, ours.num_patches, ours.latent_dim) == ((37, 37), 1369, 384)
