"""The kind `huggingface`: tokens are those of transformers' own models, and their files say what pixels they take."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import frames
from torch import Tensor

from jepawm.config import EncoderConfig
from jepawm.encoders import build_encoder
from jepawm.errors import CheckpointError, ConfigError, MissingDependencyError

transformers = pytest.importorskip("transformers")
# Tokens before those of the patches, as the papers and the models' pages have them.
PREFIX = {
    **{"vit": 1, "deit": 2, "ijepa": 0, "vit_mae": 1, "dinov2": 1, "dinov2_with_registers": 5, "dinov3_vit": 5},
    **{"siglip": 0, "clip": 1},
}


def make(model: Path | str, image_size: int = 40, **keys: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name="huggingface", model=str(model), **keys), image_size).eval()


def tower(network: Any) -> Any:
    """The part of a model that sees."""
    return getattr(network, "vision_model", getattr(network, "vit", network))


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


def all_tokens(network: Any, image: Tensor, **keys: Any) -> Tensor:
    """What transformers gives, with every patch in its place."""
    found = network(image, **keys).last_hidden_state
    if type(network).__name__ == "CLIPVisionModel":
        return network.post_layernorm(found)
    return found


@pytest.mark.parametrize("kind", PREFIX)
@torch.no_grad()
def test_tokens_are_transformers_own(tmp_path: Path, kind: str) -> None:
    network = tower(tiny_hub.write(tmp_path, kind))
    encoder = make(tmp_path)
    side = encoder.preprocess.side
    for size in (side, 2 * side):
        image, keys = images(size), {}
        if kind not in ("dinov2", "dinov2_with_registers", "dinov3_vit") and size != side:
            keys["interpolate_pos_encoding"] = True
        if kind == "vit_mae":
            # It drops three quarters of the patches, and shuffles the rest, unless it is told otherwise.
            network.config.mask_ratio = 0.0
            keys["noise"] = torch.linspace(0, 1, (size // 8) ** 2).expand(2, -1)
        made = make(tmp_path, resize_to=size) if size != side else encoder
        found = made.tokens(image)
        assert found.shape == (2, made.num_patches, 24)
        torch.testing.assert_close(found, all_tokens(network, image, **keys)[:, PREFIX[kind] :], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_mae_sees_every_patch_in_its_place(tmp_path: Path) -> None:
    """The same weights as a plain transformer, which knows no masks."""
    network = tower(tiny_hub.write(tmp_path / "mae", "vit_mae"))
    assert network.config.mask_ratio == 0.75
    plain = transformers.ViTModel(
        transformers.ViTConfig(**tiny_hub.MODELS["vit"][1], layer_norm_eps=network.config.layer_norm_eps),
        add_pooling_layer=False,
    ).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    expected = plain(images(32)).last_hidden_state[:, 1:]
    torch.testing.assert_close(make(tmp_path / "mae").tokens(images(32)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_layer_is_the_tokens_behind_it_normalised_as_the_last_ones(tmp_path: Path) -> None:
    network = tiny_hub.write(tmp_path, "dinov2")
    states = network(images(70), output_hidden_states=True).hidden_states
    for layer in (1, 3):
        expected = network.layernorm(states[layer])[:, 1:]
        torch.testing.assert_close(make(tmp_path, layer=layer).tokens(images(70)), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(make(tmp_path, layer=3).tokens(images(70)), make(tmp_path).tokens(images(70)))
    with pytest.raises(ConfigError, match=r"model\.encoder\.layer is 4, and the encoder has 3 blocks: take 1 to 3"):
        make(tmp_path, layer=4)


@torch.no_grad()
def test_the_class_token_is_a_choice_where_there_is_one(tmp_path: Path) -> None:
    network = tiny_hub.write(tmp_path / "dinov2", "dinov2")
    encoder = make(tmp_path / "dinov2", feature="class")
    assert encoder.grid == (1, 1)
    expected = network(images(70)).last_hidden_state[:, :1]
    torch.testing.assert_close(encoder.tokens(images(70)), expected, rtol=1e-4, atol=1e-4)
    for kind in ("siglip", "vjepa2"):
        tiny_hub.write(tmp_path / kind, kind)
        with pytest.raises(ConfigError, match=r"feature 'class': .* has no class token"):
            make(tmp_path / kind, feature="class")


# -- the same networks, by kinds of our own --------------------------------------------------------------------------


def qkv(found: dict[str, Tensor], layer: str, names: tuple[str, str, str], end: str) -> Tensor:
    """Queries, keys and values in one matrix."""
    weights = [found.get(f"{layer}.{name}.{end}") for name in names]
    there = next(each for each in weights if each is not None)
    return torch.cat([torch.zeros_like(there) if each is None else each for each in weights])


def official_dino(network: Any, kind: str) -> dict[str, Tensor]:
    """A file of the release, from transformers' model."""
    three = kind == "dinov3_vit"
    found, tensors = network.state_dict(), {}
    names = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
    names |= {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    names |= {"norm1": "norm1", "norm2": "norm2"}
    stem = next(key for key in found if key.endswith("norm1.weight")).removesuffix("0.norm1.weight")
    for index in range(3):
        layer = f"{stem}{index}"
        for theirs, official in names.items():
            for end in ("", ".weight", ".bias"):
                if f"{layer}.{theirs}{end}" in found:
                    tensors[f"blocks.{index}.{official}{end}"] = found[f"{layer}.{theirs}{end}"]
        attention = next(key for key in found if key.startswith(f"{layer}.att") and "q_proj.weight" in key)
        part = attention.removesuffix(".q_proj.weight")
        for end in ("weight", "bias"):
            tensors[f"blocks.{index}.attn.qkv.{end}"] = qkv(found, part, ("q_proj", "k_proj", "v_proj"), end)
            tensors[f"blocks.{index}.attn.proj.{end}"] = found[f"{part}.o_proj.{end}"]
    patches = "embeddings.patch_embeddings" + ("" if three else ".projection")
    final = "norm" if three else "layernorm"
    for end in ("weight", "bias"):
        tensors[f"patch_embed.proj.{end}"] = found[f"{patches}.{end}"]
        tensors[f"norm.{end}"] = found[f"{final}.{end}"]
    tensors["cls_token"] = found["embeddings.cls_token"]
    if three:
        tensors["storage_tokens"] = found["embeddings.register_tokens"]
    else:
        tensors["pos_embed"] = found["embeddings.position_embeddings"]
    return {key: value.clone() for key, value in tensors.items()}


@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit"])
@torch.no_grad()
def test_it_is_our_own_dino(tmp_path: Path, kind: str) -> None:
    network = tiny_hub.write(tmp_path, kind)
    torch.save(official_dino(network, kind), tmp_path / "official.pth")
    shape: dict[str, Any] = {"latent_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0}
    if kind == "dinov2":
        shape["position_grid"] = 5
    config = EncoderConfig(name=kind.removesuffix("_vit"), weights=str(tmp_path / "official.pth"), **shape)
    side = 70 if kind == "dinov2" else 64
    ours = build_encoder(config, side).eval()
    found = make(tmp_path, resize_to=side).tokens(images(side))
    torch.testing.assert_close(found, ours.tokens(images(side)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokenization", ["frame", "duplicated", "clip"])
@torch.no_grad()
def test_it_is_our_own_vjepa2(tmp_path: Path, tokenization: str) -> None:
    tiny_hub.write(tmp_path, "vjepa2")
    pixels, keys = frames(2, 4, 3, 48, 48), {"normalization": "imagenet", "tokenization": tokenization}
    ours = EncoderConfig(
        name="vjepa2",
        weights=str(tmp_path / "model.safetensors"),
        **{"latent_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0, **keys},
    )
    expected = build_encoder(ours, 48).eval()(pixels)
    # Another size than the model's own: the layers work out anew where a token lies.
    encoder = make(tmp_path, 48, resize_to=48, **keys)
    assert encoder.frames_per_latent == ours.frames_per_latent
    torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-4)


def test_frames_are_made_clips_for_video_models_alone(tmp_path: Path) -> None:
    tiny_hub.write(tmp_path / "image", "dinov2")
    with pytest.raises(ConfigError, match=r"tokenization is for video models, and '.*image' \(dinov2\) sees"):
        make(tmp_path / "image", tokenization="frame")
    tiny_hub.write(tmp_path / "video", "vjepa2")
    pixels = frames(1, 3, 3, 40, 40)
    assert torch.equal(make(tmp_path / "video")(pixels), make(tmp_path / "video", tokenization="frame")(pixels))
    with pytest.raises(ConfigError, match="takes frames in pairs, found T = 3"):
        make(tmp_path / "video", tokenization="clip")(pixels)


# -- pixels ----------------------------------------------------------------------------------------------------------


def test_pixels_are_what_the_models_files_say(tmp_path: Path) -> None:
    tiny_hub.write(tmp_path, "siglip")
    pixels = frames(2, 3, 32, 32)
    mean, std = (torch.tensor(tiny_hub.PROCESSOR[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    own = make(tmp_path, 32).preprocess
    torch.testing.assert_close(own(pixels, torch.float32), (pixels / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert (own.side, own.mode, own.antialias) == (32, "bicubic", True)
    given = make(tmp_path, 32, normalization="symmetric", resize="bilinear", resize_to=64).preprocess
    assert (given.side, given.mode, given.antialias) == (64, "bilinear", False)
    assert given.normalization == "symmetric"


@pytest.mark.parametrize(
    ("processor", "side"),
    [
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": True}, 24),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": False}, 40),
        ({"size": 48}, 48),
        ({}, 32),
    ],
)
def test_the_size_is_that_of_the_images_the_model_is_given(tmp_path: Path, processor: Any, side: int) -> None:
    tiny_hub.write(tmp_path, "vit", processor=tiny_hub.PROCESSOR | processor)
    assert make(tmp_path).preprocess.side == side


def test_what_the_files_leave_open_must_be_given(tmp_path: Path) -> None:
    tiny_hub.write(tmp_path, "vit", processor={"size": 32})
    with pytest.raises(ConfigError, match=r"does not say how pixels are normalised .*set model\.encoder\.normaliz"):
        make(tmp_path)
    assert make(tmp_path, normalization="imagenet").grid == (4, 4)
    with pytest.raises(ConfigError, match=r"36 x 36 px cannot be cut into patches of 8 px"):
        make(tmp_path, resize_to=36, normalization="imagenet")
    for changes, message in (
        ({"rescale_factor": 1 / 127.5}, r"does not take pixels in \[0, 1\]"),
        ({"resample": 1}, r"resizes by filter 1 of Pillow.*set model\.encoder\.resize"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(tiny_hub.PROCESSOR | changes))
        with pytest.raises(ConfigError, match=message):
            make(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json cannot be read"):
        make(tmp_path)


# -- files -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_weights_may_lie_elsewhere_and_must_fit(tmp_path: Path) -> None:
    tiny_hub.write(tmp_path / "model", "clip")
    file = tmp_path / "model" / "model.safetensors"
    good, image = load_file(file), images(32)
    expected = make(tmp_path / "model").tokens(image)
    assert not torch.equal(make(tmp_path / "model", weights=None).tokens(image), expected)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "model.safetensors"
    file.rename(moved)
    for weights in (tmp_path / "moved", moved):
        if weights.is_dir():
            (weights / "config.json").write_text((tmp_path / "model" / "config.json").read_text())
        assert torch.equal(make(tmp_path / "model", weights=str(weights)).tokens(image), expected)
    with pytest.raises(CheckpointError, match="its weights cannot be read"):
        make(tmp_path / "model")
    with pytest.raises(CheckpointError, match="there is no folder and no file"):
        make(tmp_path / "model", weights=str(tmp_path / "nowhere"))

    def refused(tensors: dict[str, Tensor], match: str) -> None:
        save_file(tensors, moved, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=match):
            make(tmp_path / "model", weights=str(moved))

    key = next(key for key in good if key.endswith("vision_model.post_layernorm.bias"))
    refused(
        {name: value for name, value in good.items() if name != key}, r"does not fit the model: missing \S*post_lay"
    )
    refused(good | {"vision_model.extra.weight": torch.ones(1)}, r"unexpected \S*extra\.weight")
    refused(good | {key: torch.ones(25)}, r"post_layernorm\.bias")
    moved.write_bytes(moved.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"moved: its weights cannot be read"):
        make(tmp_path / "model", weights=str(tmp_path / "moved"))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_folder_is_executed(tmp_path: Path) -> None:
    tiny_hub.write(tmp_path / "model", "vit")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"x": Hostile(tmp_path / "executed")}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="its weights cannot be read"):
        make(tmp_path / "model")
    # Code beside the model, which transformers would import if it were trusted.
    plain = json.loads((tmp_path / "model" / "config.json").read_text())
    plain |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(plain))
    (tmp_path / "model" / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        make(tmp_path / "model")
    assert not (tmp_path / "executed").exists()


def test_models_that_are_not_there_or_not_known_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"'google/no-such-model@abc': its config\.json cannot be read"):
        make("google/no-such-model@abc")
    transformers.ResNetConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is of type 'resnet'.*known: vit, .*model\.encoder\.name timm"):
        make(tmp_path)
    with pytest.raises(ConfigError, match=r"name 'huggingface' needs model\.encoder\.model"):
        make("")


def test_the_revision_reaches_every_download(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def not_there(name: str, *_: Any, **keys: Any) -> None:
        asked.append((name, keys["revision"], keys["trust_remote_code"]))
        raise OSError("not there")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", not_there)
    with pytest.raises(CheckpointError):
        make("google/siglip2-base-patch16-224@0123abc")
    assert asked == [("google/siglip2-base-patch16-224", "0123abc", False)]


def test_without_transformers_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"'transformers' is needed here.*jepawm\[huggingface\]"):
        make("google/siglip2-base-patch16-224")
