"""Encoders: preprocessing, sizes, weight files, and freezing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jepawm.config import EncoderConfig
from jepawm.encoders import EncoderStack, build_encoder
from jepawm.encoders.preprocess import Preprocess
from jepawm.errors import CheckpointError, ConfigError, MissingDependencyError

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# Tiny DINOs: the class they test is the published one.
TINY: dict[str, dict[str, Any]] = {
    "dinov2": {"latent_dim": 24, "depth": 2, "num_heads": 2, "position_grid": 5},
    "dinov3": {"latent_dim": 24, "depth": 2, "num_heads": 2},
    "vit": {"latent_dim": 24, "depth": 2, "num_heads": 2},
}
SIDES = {"conv": 32, "vit": 28, "dinov2": 28, "dinov3": 32, "resnet18": 32, "r3m": 32}


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
    feature: Any = "class" if name == "vit" else "patch"
    with torch.device("meta"):
        encoder = build_encoder(EncoderConfig(name=name, size=size, feature=feature), 224)
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


# -- weight files ----------------------------------------------------------------------------------------------------


def official_dinov2(backbone: Any, *, gated: bool) -> dict[str, Tensor]:
    """The official file of a timm model, written from the papers' and the release's description."""
    found = {key: value.clone() for key, value in backbone.state_dict().items()}
    if gated:
        found = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value for key, value in found.items()}
    if "reg_token" in found:
        position = torch.randn(1, 1, found["cls_token"].shape[-1], generator=torch.Generator().manual_seed(9))
        found["register_tokens"] = found.pop("reg_token")
        found["cls_token"] = found["cls_token"] - position
        found["pos_embed"] = torch.cat([position, found["pos_embed"]], dim=1)
    return found | {"mask_token": torch.zeros(1, found["cls_token"].shape[-1])}


def official_dinov3(backbone: Any, periods: Tensor) -> dict[str, Tensor]:
    names = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    names |= {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2"}
    found: dict[str, Tensor] = {"rope_embed.periods": periods, "mask_token": torch.zeros(1, 24)}
    gated = any("fc1_g" in key for key in backbone.state_dict())
    for key, value in backbone.state_dict().items():
        if key.endswith("q_bias"):
            other = backbone.state_dict()[key.replace("q_bias", "v_bias")]
            bias = torch.cat([value, torch.full_like(value, 7.0), other])
            found[key.replace("q_bias", "qkv.bias")] = bias
            mask = torch.cat([torch.ones_like(value), torch.zeros_like(value), torch.ones_like(value)])
            found[key.replace("q_bias", "qkv.bias_mask")] = mask
        elif not key.endswith("v_bias"):
            for ours, official in names.items():
                key = key.replace(ours, official)
            found[key.replace("mlp.fc2", "mlp.w3") if gated else key] = value
    return found


@pytest.mark.parametrize("keys", [{}, {"num_registers": 4}, {"size": "giant"}], ids=["plain", "registers", "giant"])
def test_official_and_timm_files_of_dinov2_give_equal_tokens(tmp_path: Path, keys: dict[str, Any]) -> None:
    source = make("dinov2", **keys)
    stir(source)
    backbone = source.backbone
    save_file(backbone.state_dict(), tmp_path / "timm.safetensors")
    torch.save(official_dinov2(backbone, gated="size" in keys), tmp_path / "official.pth")
    pixels = frames(1, 2, 3, 28, 28)
    with torch.no_grad():
        expected = source.eval()(pixels)
        for file in ("timm.safetensors", "official.pth"):
            found = make("dinov2", weights=str(tmp_path / file), **keys).eval()(pixels)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("keys", [{}, {"size": "small_plus"}], ids=["plain", "gated"])
def test_official_and_timm_files_of_dinov3_give_equal_tokens(tmp_path: Path, keys: dict[str, Any]) -> None:
    source = make("dinov3", **keys)
    stir(source)
    save_file(source.backbone.state_dict(), tmp_path / "timm.safetensors")
    torch.save(official_dinov3(source.backbone, source.periods), tmp_path / "official.pth")
    pixels = frames(1, 2, 3, 32, 32)
    with torch.no_grad():
        expected = source.eval()(pixels)
        for file in ("timm.safetensors", "official.pth"):
            found = make("dinov3", weights=str(tmp_path / file), **keys).eval()(pixels)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


def test_a_timm_file_without_biases_has_biases_of_zero(tmp_path: Path) -> None:
    state = make("dinov3").backbone.state_dict()
    without = {key: value for key, value in state.items() if not key.endswith(("q_bias", "v_bias"))}
    save_file(without, tmp_path / "without.safetensors")
    loaded = make("dinov3", weights=str(tmp_path / "without.safetensors")).backbone
    assert all((block.attn.q_bias == 0).all() and (block.attn.v_bias == 0).all() for block in loaded.blocks)
    without["blocks.0.attn.q_bias"] = state["blocks.0.attn.q_bias"]
    save_file(without, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match=r"missing blocks\.0\.attn\.v_bias"):
        make("dinov3", weights=str(tmp_path / "half.safetensors"))


@pytest.mark.parametrize("name", ["dinov2", "dinov3"])
def test_tokens_are_those_of_timms_own_models(name: str) -> None:
    """timm's registered models, at their native size, with registers and gated feed-forward."""
    timm = pytest.importorskip("timm")
    if name == "dinov2":
        ours = make("dinov2", 70, num_registers=4)
        theirs = timm.create_model(
            "vit_small_patch14_reg4_dinov2", img_size=70, embed_dim=24, depth=2, num_heads=2, num_classes=0
        )
    else:
        ours = make("dinov3", 64, size="small_plus")
        theirs = timm.create_model(
            "vit_small_plus_patch16_dinov3_qkvb", embed_dim=24, depth=2, num_heads=2, num_classes=0
        )
    stir(ours)
    theirs.load_state_dict(ours.backbone.state_dict())
    side = ours.preprocess.side
    image = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs.eval().forward_features(image)[:, 5:]
        torch.testing.assert_close(ours.eval().tokens(image), expected, rtol=1e-4, atol=1e-5)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = make("dinov2").backbone.state_dict()
    good, path = dict(state), tmp_path / "file.safetensors"

    def refused(tensors: dict[str, Tensor], match: str, name: str = "dinov2", **keys: Any) -> None:
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
        with pytest.raises(CheckpointError, match=match):
            make(name, weights=str(path), **keys)

    refused(good | {"head.weight": torch.zeros(2)}, r"unexpected head\.weight")
    refused({key: value for key, value in good.items() if key != "norm.bias"}, r"missing norm\.bias")
    refused(good | {"norm.bias": torch.zeros(25)}, r"norm\.bias has shape \[25\], expected \[24\]")
    refused(good, "expected DINOv3, size small", name="dinov3")
    refused(good, r"expected DINOv2, size small, 4 registers.*missing reg_token", num_registers=4)
    refused(good | {"blocks.0.mlp.w12.bias": torch.zeros(96)}, r"two tensors stand for blocks\.0\.mlp\.fc1\.bias")
    refused(good, "not this size of encoder 'vit'", name="vit")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    state, path = make("dinov2").backbone.state_dict(), tmp_path / f"file{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"file\{suffix} is damaged or truncated"):
        make("dinov2", weights=str(path))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "resnet18", "r3m", "vit"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.pth"
    torch.save({"r3m": Hostile(tmp_path / "executed")}, path)
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        make(name, weights=str(path))
    assert not (tmp_path / "executed").exists()
    # The file does what it says where it is trusted.
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    for name, hint in (
        (
            "dinov2",
            r"get dinov2_vits14_reg of torch\.hub's facebookresearch/dinov2, or hf://timm/vit_small_patch14_reg4",
        ),
        ("dinov3", r"Meta's DINOv3 page .*hf://timm/vit_small_patch16_dinov3"),
        ("resnet18", r"get torchvision's IMAGENET1K_V1 file"),
        ("r3m", r"R3M repository \(facebookresearch/r3m\)"),
    ):
        keys: dict[str, Any] = {"num_registers": 4} if name == "dinov2" else {}
        with pytest.raises(CheckpointError, match=rf"weight file not found: .*nowhere\.pth; .*{hint}"):
            make(name, weights=str(tmp_path / "nowhere.pth"), **keys)


def test_timms_weights_offline_say_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"vit_giant_patch14_dinov2\S+ is not in the local cache.*dinov2_vitg14"):
        make("dinov2", weights="timm", size="giant")
    with pytest.raises(ConfigError, match="timm does not have R3M"):
        make("r3m", weights="timm")
    with pytest.raises(ConfigError, match="trained from scratch"):
        make("vit", weights="timm")


def test_a_vits_own_tensors_load(tmp_path: Path) -> None:
    source = make("vit")
    stir(source)
    torch.save(source.state_dict(), tmp_path / "vit.pt")
    pixels = frames(1, 1, 3, 28, 28)
    torch.testing.assert_close(make("vit", weights=str(tmp_path / "vit.pt"))(pixels), source(pixels))


@pytest.mark.parametrize("counted", [True, False])
def test_torchvisions_resnet_gives_its_pooled_features(tmp_path: Path, counted: bool) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
    state = {k: v for k, v in theirs.state_dict().items() if counted or not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "resnet18.pth")
    ours = make("resnet18", 64, weights=str(tmp_path / "resnet18.pth"), normalization="imagenet").eval()
    theirs.fc = nn.Identity()
    pixels = frames(2, 1, 3, 64, 64)
    expected = theirs((pixels[:, 0].float() / 255 - MEAN) / STD)
    torch.testing.assert_close(ours(pixels)[:, 0, 0], expected, rtol=1e-4, atol=1e-4)
    incomplete = {key: value for key, value in state.items() if key != "bn1.running_mean"}
    torch.save(incomplete, tmp_path / "resnet18.pth")
    with pytest.raises(CheckpointError, match=r"missing bn1\.running_mean"):
        make("resnet18", weights=str(tmp_path / "resnet18.pth"))


def test_r3m_takes_the_image_network_and_leaves_the_language_heads(tmp_path: Path) -> None:
    source, path = make("resnet18"), tmp_path / "model.pt"
    stir(source)
    inner = {f"module.convnet.{key}": value for key, value in source.backbone.state_dict().items()}
    inner |= {"module.lang_enc.model.weight": torch.ones(2), "module.lang_rew.pred.0.weight": torch.ones(2)}
    torch.save({"r3m": inner, "global_step": 1}, path)
    pixels = frames(1, 2, 3, 32, 32)
    found = make("r3m", weights=str(path)).eval()(pixels)
    torch.testing.assert_close(found, source.eval()(pixels))
    torch.save({"r3m": inner | {"module.other.weight": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match=r"unexpected module\.other\.weight"):
        make("r3m", weights=str(path))
    torch.save(source.backbone.state_dict(), path)
    with pytest.raises(CheckpointError, match="is not an R3M checkpoint"):
        make("r3m", weights=str(path))


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


def test_import_needs_no_timm(repo: Path) -> None:
    code = "import jepawm.encoders, sys; print('timm' in sys.modules, 'torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "False"], done.stderr


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "resnet18"])
def test_without_timm_the_message_says_how_to_get_it(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"'timm' is needed here.*jepawm\[vision\]"):
        build_encoder(EncoderConfig(name=name, **TINY.get(name, {})), SIDES[name])
