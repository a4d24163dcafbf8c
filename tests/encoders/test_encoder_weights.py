"""Weight files of encoders: official ones and timm's give equal tokens; all others are refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_encoders import MEAN, STD, frames, make, stir
from torch import Tensor, nn

from jepawm.errors import CheckpointError, ConfigError
from jepawm.nn.wrapped import network_tensors


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


# -- files that something else wrapped -------------------------------------------------------------------------------


def test_wrappers_around_a_network_are_taken_off() -> None:
    plain = {"patch.weight": torch.ones(2), "norm.bias": torch.zeros(1)}
    wrapped: list[dict[str, Any]] = [
        {prefix + name: value for name, value in plain.items()}
        for prefix in ("module.", "_orig_mod.", "backbone.", "module._orig_mod.", "module.backbone.")
    ]
    wrapped += [
        {"model": plain},
        {"state_dict": plain, "epoch": 3},
        {"teacher": wrapped[2] | {"head.w": torch.ones(1)}},
    ]
    for held in [plain, *wrapped]:
        assert network_tensors(held, "file").keys() == plain.keys()


def test_what_is_no_wrapper_is_told_apart() -> None:
    with pytest.raises(CheckpointError, match=r"file: its names are those of transformers \(embeddings\.cls_token"):
        network_tensors({"embeddings.cls_token": torch.ones(1), "layer.0.norm1.weight": torch.ones(1)}, "file")
    with pytest.raises(CheckpointError, match=r"file holds 2 networks \(model, teacher\)"):
        network_tensors({"model": {}, "teacher": {}}, "file")
    # A prefix that some names have and others have not is part of the names.
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert network_tensors(mixed, "file").keys() == mixed.keys()
