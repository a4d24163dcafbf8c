"""Encoders: preprocessing, shapes, sizes, and freezing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_encoders import MEAN, SIDES, STD, TINY, frames, make, num_parameters, stir
from torch import nn

from jepawm.config import EncoderConfig
from jepawm.encoders import EncoderStack, build_encoder
from jepawm.encoders.preprocess import Preprocess
from jepawm.errors import CheckpointError, ConfigError, MissingDependencyError

# -- preprocessing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["symmetric", "imagenet", "imagenet_after_symmetric"])
def test_normalization_is_the_formula(normalization: Any) -> None:
    pixels = frames(3, 3, 8, 8)
    found = Preprocess(EncoderConfig(normalization=normalization), 8)(pixels, torch.float32)
    unit = pixels.float() / 255
    expected = {
        "symmetric": (unit - 0.5) / 0.5,
        "imagenet": (unit - MEAN) / STD,
        "imagenet_after_symmetric": ((unit - 0.5) / 0.5 - MEAN) / STD,
    }[normalization]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_bilinear_halving_is_the_mean_of_four() -> None:
    pixels = frames(2, 3, 8, 8)
    found = Preprocess(EncoderConfig(resize_to=4), 8)(pixels, torch.float32)
    blocks = pixels.float().unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean(dim=(-1, -3))
    torch.testing.assert_close(found, blocks / 127.5 - 1, rtol=1e-5, atol=1e-6)


def test_antialiased_halving_weighs_four_pixels_1_3_3_1() -> None:
    pixels = frames(2, 3, 8, 8)
    found = Preprocess(EncoderConfig(resize_to=4, resize="antialias", normalization="imagenet"), 8)(
        pixels, torch.float32
    )
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    windows = pixels[:, :, 1:7, 1:7].float().unfold(2, 4, 2).unfold(3, 4, 2)
    expected = (torch.einsum("ncyxij,i,j->ncyx", windows, taps, taps) / 255 - MEAN) / STD
    torch.testing.assert_close(found[:, :, 1:3, 1:3], expected, rtol=1e-5, atol=1e-5)


def test_resizing_takes_frames_of_any_side() -> None:
    encoder = make("vit", 96, resize_to=28, feature="patch")
    assert encoder(frames(1, 2, 3, 96, 96)).shape == encoder(frames(1, 2, 3, 50, 50)).shape == (1, 2, 4, 24)


def test_the_convolutional_encoder_computes_what_it_did() -> None:
    encoder = make("conv", latent_dim=8)
    pixels = frames(2, 3, 3, 32, 32)
    images = pixels.flatten(0, 1).to(torch.float32).contiguous(memory_format=torch.channels_last)
    expected = encoder.head(encoder.convolutions(images.mul_(1 / 127.5).sub_(1))).float().view(2, 3, 1, 8)
    torch.testing.assert_close(encoder(pixels), expected, rtol=0, atol=0)
    assert make("conv").latent_dim == 64
    assert make("conv", normalization="imagenet")(pixels).shape == (2, 3, 1, 64)


# -- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys", "grid", "latent_dim"),
    [
        ("conv", {}, (1, 1), 64),
        ("vit", {}, (2, 2), 24),
        ("vit", {"feature": "class"}, (1, 1), 24),
        ("dinov2", {}, (2, 2), 24),
        ("dinov2", {"num_registers": 4}, (2, 2), 24),
        ("dinov2", {"feature": "class"}, (1, 1), 24),
        ("dinov3", {}, (2, 2), 24),
        ("dinov3", {"feature": "class"}, (1, 1), 24),
        ("resnet18", {}, (1, 1), 512),
    ],
)
@pytest.mark.parametrize("trainable", [True, False])
def test_latents_of_every_encoder(
    name: str, keys: dict[str, Any], grid: tuple[int, int], latent_dim: int, trainable: bool
) -> None:
    encoder = make(name, trainable=trainable, **keys).eval()
    pixels = frames(2, 3, 3, SIDES[name], SIDES[name])
    found = encoder(pixels)
    assert (encoder.grid, encoder.num_patches, encoder.latent_dim) == (grid, grid[0] * grid[1], latent_dim)
    assert encoder.frames_per_latent == 1
    assert found.shape == (2, 3, encoder.num_patches, latent_dim)
    assert found.dtype == torch.float32
    assert found.requires_grad == trainable
    torch.testing.assert_close(encoder(pixels[1:, 2:]), found[1:, 2:], rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        near = encoder(pixels)
    assert near.dtype == torch.float32
    assert 0 < (near - found).abs().max() < 0.1 * found.abs().max()


@pytest.mark.parametrize("name", ["conv", "vit", "dinov2", "dinov3", "resnet18"])
def test_frames_of_a_wrong_kind_are_refused(name: str) -> None:
    encoder, side = make(name), SIDES[name]
    with pytest.raises(ConfigError, match=r"expects uint8 frames, 0 to 255, found torch\.float32"):
        encoder(frames(1, 1, 3, side, side).float())
    for shape in ((1, side, side), (3, side, side + 1), (3, side * 2, side * 2)):
        with pytest.raises(ConfigError, match=rf"= \[3,{side},{side}\], found \[{','.join(map(str, shape))}\]"):
            encoder(frames(1, 1, *shape))
    with pytest.raises(ConfigError, match=r"= \[3,S,S\], found \[3,40,48\]"):
        make(name, resize_to=side)(frames(1, 1, 3, 40, 48))


@pytest.mark.parametrize(("name", "patch"), [("vit", 14), ("dinov2", 14), ("dinov3", 16)])
def test_sides_that_patches_do_not_divide_are_refused(name: str, patch: int) -> None:
    with pytest.raises(ConfigError, match=rf"65 x 65 px cannot be cut into patches of {patch} px; set model\.encoder"):
        make(name, 65)
    with pytest.raises(ConfigError, match="cannot be cut"):
        make(name).tokens(torch.zeros(1, 3, 33, 33))


def test_widths_that_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"latent_dim must be divisible by model\.encoder\.num_heads, found 25 and 2"):
        make("vit", latent_dim=25)
    with pytest.raises(ConfigError, match="multiple of 4, found 6"):
        make("dinov3", latent_dim=12)
    with pytest.raises(ConfigError, match="num_registers of dinov2 is 0 or 4, found 1"):
        make("dinov2", num_registers=1)


def test_a_vit_is_made_for_one_grid() -> None:
    with pytest.raises(ConfigError, match=r"position table is for \(2, 2\) patches, found \(3, 2\)"):
        make("vit").tokens(torch.zeros(1, 3, 42, 28))


@pytest.mark.parametrize("feature", ["patch", "class"])
@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov3"])
def test_tokens_tell_where_things_are(name: str, feature: str) -> None:
    """Transposing an image is not transposing its tokens: positions enter, rows and columns differently."""
    encoder = make(name, feature=feature).eval()
    stir(encoder)
    image = torch.randn(1, 3, SIDES[name], SIDES[name], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        straight, turned = encoder.tokens(image), encoder.tokens(image.transpose(2, 3))
    assert (straight - turned.view(1, *encoder.grid, -1).transpose(1, 2).flatten(1, 2)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov3"])
def test_every_parameter_of_a_trainable_encoder_gets_a_gradient(name: str) -> None:
    encoder = make(name, num_registers=4) if name == "dinov2" else make(name)
    encoder(frames(2, 1, 3, SIDES[name], SIDES[name])).square().mean().backward()
    assert [key for key, parameter in encoder.named_parameters() if parameter.grad is None] == []


# -- published sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("dinov2", "small", 22_056_192),
        ("dinov2", "base", 86_579_712),
        ("dinov2", "large", 304_367_616),
        ("dinov2", "giant", 1_136_479_232),
        ("dinov3", "small", 21_596_160),
        ("dinov3", "small_plus", 28_692_480),
        ("dinov3", "base", 85_659_648),
        ("dinov3", "large", 303_128_576),
        ("dinov3", "huge_plus", 840_591_360),
        ("vit", "base", 85_706_496),
        ("resnet18", None, 11_176_512),
    ],
)
def test_parameters_of_published_sizes(name: Any, size: Any, expected: int) -> None:
    pytest.importorskip("timm")
    settings = {} if size is None else {"size": size, "feature": "class" if name == "vit" else "patch"}
    with torch.device("meta"):
        encoder = build_encoder(EncoderConfig(name=name, **settings), 224)
    assert num_parameters(encoder) == expected


def test_none_is_the_smallest_size() -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        for name, smallest in (("dinov2", "small"), ("dinov3", "small"), ("vit", "tiny")):
            default, named = (
                build_encoder(EncoderConfig(name=name, size=size), 224)  # type: ignore[arg-type]
                for size in (None, smallest)
            )
            assert num_parameters(default) == num_parameters(named)


def test_lewms_encoder_and_projector_have_the_published_number_of_parameters() -> None:
    config = EncoderConfig(name="vit", size="tiny", feature="class", projector_dim=2048)
    with torch.device("meta"):
        stack = build_encoder(config, 224)
    assert isinstance(stack, EncoderStack)
    assert num_parameters(stack.encoder) == 5_501_376
    assert num_parameters(stack.projector) == 792_768


@pytest.mark.parametrize(("size", "gate"), [("small", None), ("giant", (8192, 1536))])
def test_the_feed_forward_of_dinov2_is_the_sizes(size: Any, gate: tuple[int, int] | None) -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        mlp = build_encoder(EncoderConfig(name="dinov2", size=size), 224).backbone.blocks[0].mlp  # type: ignore
    assert tuple(mlp.fc1.weight.shape) == (gate or (1536, 384))


# -- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov3", "vjepa2"])
@torch.no_grad()
def test_a_layer_is_the_tokens_behind_it_normalised_as_the_last_ones(name: str) -> None:
    pixels = frames(1, 2, 3, SIDES[name], SIDES[name])
    whole = make(name).eval()
    stir(whole)
    network, behind_first = getattr(whole, "backbone", whole), []
    network.blocks[0].register_forward_hook(lambda *found: behind_first.append(found[2]))
    last = whole(pixels)
    num_prefix = behind_first[0].shape[1] - whole.num_patches
    first = network.norm(behind_first[0])[:, num_prefix:].view_as(last)
    assert not torch.allclose(first, last)
    for layer, expected in ((1, first), (2, last)):
        cut = make(name, layer=layer).eval()
        cut.load_state_dict({key: value for key, value in whole.state_dict().items() if key in cut.state_dict()})
        torch.testing.assert_close(cut(pixels), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match=r"model\.encoder\.layer is 3, and the encoder has 2 blocks: take 1 to 2"):
        make(name, layer=3)


def test_the_blocks_behind_a_layer_are_checked_against_the_file(tmp_path: Path) -> None:
    state = make("dinov2").backbone.state_dict()
    save_file(state, tmp_path / "whole.safetensors")
    assert len(make("dinov2", weights=str(tmp_path / "whole.safetensors"), layer=1).backbone.blocks) == 1
    save_file({key: value for key, value in state.items() if "blocks.1" not in key}, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"missing blocks\.1"):
        make("dinov2", weights=str(tmp_path / "cut.safetensors"), layer=1)


# -- frozen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv", "vit", "dinov2", "dinov3", "resnet18"])
def test_a_frozen_encoder_stays_as_it_is(name: str) -> None:
    parent = nn.ModuleDict({"encoder": make(name, trainable=False, projector_dim=8), "other": nn.Linear(2, 2)})
    parent.train()
    assert parent["other"].training
    assert not any(module.training for module in parent["encoder"].modules())
    assert not any(parameter.requires_grad for parameter in parent["encoder"].parameters())
    before = {key: value.clone() for key, value in parent["encoder"].state_dict().items()}
    pixels = frames(2, 2, 3, SIDES[name], SIDES[name])
    first, second = parent["encoder"](pixels), parent["encoder"](pixels)
    assert not first.requires_grad
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    for key, value in parent["encoder"].state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_a_trainable_resnet_follows_its_batches() -> None:
    encoder = make("resnet18").train()
    before = encoder.backbone.bn1.running_mean.clone()
    encoder(frames(2, 2, 3, 32, 32)).sum().backward()
    assert not torch.equal(encoder.backbone.bn1.running_mean, before)


def test_a_trainable_encoder_without_projector_is_not_wrapped() -> None:
    assert type(make("conv")).__name__ == "ConvEncoder"
    stack = make("conv", projector_dim=16, latent_dim=8)
    out = stack(frames(4, 2, 3, 32, 32))
    out.square().sum().backward()
    assert out.shape == (4, 2, 1, 8)
    assert all(parameter.grad is not None for parameter in stack.parameters())


# -- doors -----------------------------------------------------------------------------------------------------------


def test_import_needs_no_library_of_models(repo: Path) -> None:
    code = (
        "import jepawm.encoders, sys; print(*(name in sys.modules for name in ('timm', 'torchvision', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False"] * 3, done.stderr


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "resnet18", "timm"])
def test_without_timm_the_message_says_how_to_get_it(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"'timm' is needed here.*jepawm\[vision\]"):
        build_encoder(EncoderConfig(name=name, **TINY.get(name, {})), SIDES[name])
