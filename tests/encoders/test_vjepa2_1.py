"""V-JEPA 2.1's encoder: sizes, images, layers, and the files it is loaded from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from jepawm.config import EncoderConfig
from jepawm.encoders.vjepa2_1 import SIZES, VJEPA21Encoder
from jepawm.encoders.vjepa_files import VJEPA21_FILES
from jepawm.errors import CheckpointError, ConfigError
from jepawm.nn import weights

TINY = {"name": "vjepa2_1", "latent_dim": 48, "depth": 8, "num_heads": 2, "mlp_ratio": 4.0}
PUBLISHED = (
    ("norms.", "norms_block."),
    ("patch_embed_image.", "patch_embed_img.proj."),
    ("patch_embed.", "patch_embed.proj."),
    ("image_vector", "img_mod_embed"),
    ("video_vector", "video_mod_embed"),
)


def tiny(seed: int = 0, **changed) -> VJEPA21Encoder:
    torch.manual_seed(seed)
    encoder = VJEPA21Encoder(EncoderConfig(**{**TINY, **changed}), 32).eval()
    if "weights" not in changed:
        with torch.no_grad():
            for value in encoder.parameters():
                value.add_(0.1 * torch.randn_like(value))
    return encoder


def published(encoder: VJEPA21Encoder) -> dict[str, Tensor]:
    tensors = {}
    for name, value in encoder.state_dict().items():
        theirs = next((new + name.removeprefix(own) for own, new in PUBLISHED if name.startswith(own)), name)
        tensors["module.backbone." + theirs] = value.clone()
    return tensors


def same(one: VJEPA21Encoder, other: VJEPA21Encoder) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def pixels() -> Tensor:
    return torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_levels_lie_where_they_were_published():
    narrow = {"name": "vjepa2_1", "latent_dim": 8, "num_heads": 2}
    with torch.device("meta"):
        depths = {size: VJEPA21Encoder(EncoderConfig(**narrow, size=size), 32).level_depths(4) for size in SIZES}
    assert depths == {
        "base": (3, 6, 9, 12),
        "large": (6, 12, 18, 24),
        "giant": (10, 20, 30, 40),
        "gigantic": (12, 24, 38, 48),
    }


@torch.no_grad()
def test_an_image_is_embedded_as_one():
    encoder = tiny(tokenization="image")
    latents = encoder(pixels())
    assert latents.shape == (2, 4, 4, 48)
    images = encoder.preprocess(pixels()[:, 1], torch.float32)
    torch.testing.assert_close(latents[:, 1], encoder.tokens(images[:, :, None]))
    doubled = tiny(tokenization="frame")(pixels())
    assert (latents - doubled).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("tokenization", "trains"), [("image", "patch_embed_image"), ("frame", "patch_embed"), ("clip", "patch_embed")]
)
def test_what_the_tokenization_never_uses_does_not_train(tokenization, trains):
    encoder = tiny(tokenization=tokenization).train()
    encoder(pixels()).square().mean().backward()
    for name, value in encoder.named_parameters():
        assert value.requires_grad == (value.grad is not None), name
    assert encoder.get_submodule(trains).weight.requires_grad
    encoder.train_every_part()
    assert all(value.requires_grad for value in encoder.parameters())


@torch.no_grad()
def test_a_layer_that_is_a_level_has_its_own_normalisation():
    whole = tiny()
    clip = torch.randn(1, 3, 4, 32, 32)
    levels = whole.levels(whole.embed(clip), num_levels=4).unflatten(-1, (4, -1))
    for layer, level in ((2, 0), (6, 2), (8, 3)):
        part = tiny(layer=layer)
        assert len(part.blocks) == layer
        part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
        torch.testing.assert_close(part.tokens(clip), levels[..., level, :])


@pytest.mark.parametrize("average", ["target_encoder", "ema_encoder"])
def test_the_moving_average_has_two_names(tmp_path, average):
    online, teacher = tiny(seed=1), tiny(seed=2)
    path = tmp_path / "vitb.pt"
    torch.save({"encoder": published(online), average: published(teacher), "epoch": 1}, path)
    assert same(tiny(weights=str(path)), teacher)
    assert same(tiny(weights=str(path), weights_part="encoder"), online)


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "vitb.pt"
    torch.save({"encoder": {}, "ema_encoder": {}, "target_encoder": {}}, path)
    with pytest.raises(CheckpointError, match="has both target_encoder and ema_encoder"):
        tiny(weights=str(path))
    torch.save({"encoder": {}}, path)
    with pytest.raises(
        CheckpointError, match=r"has no 'target_encoder'.*vjepa2_1_vitb_dist_vitG_384\.pt.*weights_part"
    ):
        tiny(weights=str(path))
    tensors = published(tiny())
    del tensors["module.backbone.norms_block.1.weight"]
    torch.save({"target_encoder": tensors}, path)
    with pytest.raises(CheckpointError, match=r"size the file's\?\): missing norms\.1\.weight"):
        tiny(weights=str(path))
    with pytest.raises(ConfigError, match="must be at least 4"):
        EncoderConfig(name="vjepa2_1", depth=3)


def test_published_names_stand_for_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "weights.pt"
    torch.save({"ema_encoder": published(tiny(seed=3))}, path)
    asked: list[str] = []
    monkeypatch.setattr(weights, "locate", lambda source, hint: asked.append(source) or str(path))
    for name, (size, file) in VJEPA21_FILES.items():
        assert same(tiny(weights=name, size=size), tiny(seed=3))
        assert asked[-1] == f"https://dl.fbaipublicfiles.com/vjepa2/{file}"
    with pytest.raises(
        ConfigError, match=r"'vjepa2_1_vit_large_384' is of model\.encoder\.size large, found size base"
    ):
        tiny(weights="vjepa2_1_vit_large_384")
    with pytest.raises(ConfigError, match=r"unknown 'vjepa2_1_vit_huge_384'"):
        tiny(weights="vjepa2_1_vit_huge_384")
