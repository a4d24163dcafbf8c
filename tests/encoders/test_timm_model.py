"""The kind `timm`: tokens are those of timm's own models, and its configuration says what pixels they take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_encoder_weights import official_dinov2
from tiny_encoders import frames, stir
from torch import Tensor

from jepawm.config import EncoderConfig
from jepawm.config.encoder import shaping_settings
from jepawm.encoders import build_encoder
from jepawm.errors import CheckpointError, ConfigError

timm = pytest.importorskip("timm")


def make(model: str, weights: Any = None, image_size: int = 40, **keys: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name="timm", model=model, weights=weights, **keys), image_size)


def theirs(model: str, path: Path, **keys: Any) -> Any:
    """timm's own model, with weights that show a tensor in the wrong place, and its file."""
    torch.manual_seed(1)
    network = timm.create_model(model, pretrained=False, **keys).eval()
    stir(network)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return network


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("model", ["test_vit", "test_vit3", "test_vit_relpos", "test_resnet", "test_convnext"])
@torch.no_grad()
def test_tokens_are_timms_own_features(tmp_path: Path, model: str) -> None:
    network = theirs(model, tmp_path / "model.safetensors")
    encoder = make(model, str(tmp_path / "model.safetensors")).eval()
    image = images(encoder.preprocess.side)
    expected = network.forward_features(image)
    if expected.ndim == 4:
        expected = expected.flatten(2).transpose(1, 2)
    else:
        expected = expected[:, network.num_prefix_tokens :]
    found = encoder.tokens(image)
    assert found.shape == (2, encoder.num_patches, encoder.latent_dim)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_layer_is_the_tokens_behind_it_normalised_as_the_last_ones(tmp_path: Path) -> None:
    network, path = theirs("test_vit", tmp_path / "model.safetensors"), str(tmp_path / "model.safetensors")
    depth = len(network.blocks)
    image = images(160)
    every = network.forward_intermediates(image, norm=True, output_fmt="NLC", intermediates_only=True)
    for layer in (1, depth):
        encoder = make("test_vit", path, layer=layer).eval()
        assert len(encoder.backbone.blocks) == layer
        torch.testing.assert_close(encoder.tokens(image), every[layer - 1], rtol=1e-4, atol=1e-4)
    assert torch.equal(make("test_vit", path).eval().tokens(image), encoder.tokens(image))
    with pytest.raises(ConfigError, match=rf"layer is {depth + 1}, .* has {depth} layers that timm hands out: take 1"):
        make("test_vit", path, layer=depth + 1)


def test_a_convolutional_models_layers_are_its_maps() -> None:
    encoders = [make("test_resnet", layer=layer) for layer in (3, 4, 5)]
    assert [encoder.grid for encoder in encoders] == [(20, 20), (10, 10), (5, 5)]
    assert encoders[-1].latent_dim == make("test_resnet").latent_dim == 96


@torch.no_grad()
def test_the_class_token_is_a_choice_where_there_is_one(tmp_path: Path) -> None:
    network = theirs("test_vit", tmp_path / "model.safetensors")
    encoder = make("test_vit", str(tmp_path / "model.safetensors"), feature="class").eval()
    assert (encoder.grid, encoder.num_patches) == ((1, 1), 1)
    image = images(160)
    torch.testing.assert_close(encoder.tokens(image), network.forward_features(image)[:, :1], rtol=1e-4, atol=1e-4)
    for model in ("test_resnet", "test_vit3"):
        with pytest.raises(ConfigError, match=f"feature 'class': timm's '{model}' has no class token"):
            make(model, feature="class")


# -- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["test_byobnet", "test_resnet"])
def test_pixels_are_what_the_models_own_configuration_says(model: str) -> None:
    from PIL import Image

    card = timm.get_pretrained_cfg(model)
    encoder = make(model)
    # Grey enough for cubic weights to stay between black and white: Pillow cuts off after rows, and after columns.
    pixels = frames(1, 3, 40, 40) // 4 + 96
    side, mode = card.input_size[-1], getattr(Image.Resampling, card.interpolation.upper())
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).resize((side, side), mode)
    resized = torch.tensor(list(picture.tobytes())).view(side, side, 3).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (card.mean, card.std))
    found = encoder.preprocess(pixels, torch.float32)[0]
    # Pillow rounds to whole levels after rows, and again after columns.
    torch.testing.assert_close(found, (resized - mean) / std, rtol=0, atol=float(2 / 255 / std.min()))
    found = encoder.preprocess(frames(1, 3, 40, 40), torch.float32)[0] * std + mean
    assert -1e-6 <= found.min() < found.max() <= 1 + 1e-6


def test_what_is_given_comes_before_the_models_own_configuration() -> None:
    encoder = make("test_byobnet", image_size=64, normalization="symmetric", resize_to=64)
    pixels = frames(1, 3, 64, 64)
    torch.testing.assert_close(encoder.preprocess(pixels, torch.float32), pixels / 127.5 - 1)
    assert encoder.grid == (2, 2)
    settings = shaping_settings(EncoderConfig(name="timm", model="test_byobnet"))
    assert (settings["normalization"], settings["resize"], settings["resize_to"]) == (None, None, None)
    settings = shaping_settings(EncoderConfig(name="dinov2"))
    assert (settings["normalization"], settings["resize"]) == ("symmetric", "bilinear")
    assert "layer" not in settings


@torch.no_grad()
def test_another_size_resamples_the_position_table_once(tmp_path: Path) -> None:
    network, path = theirs("test_vit", tmp_path / "model.safetensors"), str(tmp_path / "model.safetensors")
    encoder = make("test_vit", path, resize_to=96).eval()
    network.set_input_size(img_size=(96, 96))
    assert encoder.grid == (6, 6)
    torch.testing.assert_close(encoder.tokens(images(96)), network.forward_features(images(96))[:, 1:])


def test_sizes_that_a_model_cannot_take_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"100 x 100 px cannot be cut into patches of 16 px.*resize_to"):
        make("test_vit", resize_to=100)
    with pytest.raises(
        ConfigError, match=r"resize_to: timm's 'mixer_s32_224' cannot take .*96 x 96 px.* own size is 224"
    ):
        make("mixer_s32_224", resize_to=96)


# -- names and files -------------------------------------------------------------------------------------------------


def test_names_that_timm_does_not_know_are_refused() -> None:
    for model, message in (
        ("vit_smal_patch14_dinov2", r"timm has no 'vit_smal_patch14_dinov2' \(did you mean 'vit_small_patch14_dinov2'"),
        ("test_vit.r160_in1", r"'test_vit' has no tag 'r160_in1' \(did you mean 'r160_in1k'"),
        ("", r"model\.encoder\.name 'timm' needs model\.encoder\.model"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(model)
    with pytest.raises(ConfigError, match="normalization 'data' is for encoders of jepawm's own"):
        make("test_vit", normalization="data")


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    good = {key: value.contiguous() for key, value in theirs("test_vit", path).state_dict().items()}

    def refused(tensors: dict[str, Tensor], match: str) -> None:
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=match):
            make("test_vit", str(path))

    refused(
        {key: value for key, value in good.items() if key != "norm.bias"}, r"timm's 'test_vit'\): missing norm\.bias"
    )
    refused(good | {"other.weight": torch.ones(1)}, r"unexpected other\.weight")
    # timm would resample it without a word.
    longer = torch.cat([good["pos_embed"], good["pos_embed"]], dim=1)
    for names in ({}, {"mask_token": torch.ones(1, 1, 64)}):
        refused(good | names | {"pos_embed": longer}, r"pos_embed has shape \[1, 202, 64\], expected \[1, 101, 64\]")


def test_weights_are_fetched_from_timms_repository_at_the_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    theirs("test_vit", tmp_path / "model.safetensors")
    asked = []

    def download(repo: str, file: str, revision: str | None, **_: Any) -> str:
        asked.append((repo, file, revision))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    for model in ("test_vit", "test_vit.r160_in1k@0123abc"):
        # The classifier of the file is left out.
        assert make(model, "timm").grid == (10, 10)
    repo = "timm/test_vit.r160_in1k"
    assert asked == [(repo, "model.safetensors", None), (repo, "model.safetensors", "0123abc")]
    with pytest.raises(ConfigError, match="weights 'timm': timm has no weights of 'test_vit4'"):
        make("test_vit4", "timm")


# -- the same network, by two kinds ----------------------------------------------------------------------------------


@torch.no_grad()
def test_it_is_our_own_dinov2(tmp_path: Path) -> None:
    """With registers, whose position table both resample alike."""
    name = "vit_small_patch14_reg4_dinov2"
    network = timm.create_model(name, pretrained=False, num_classes=0)
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    torch.save(official_dinov2(network, gated=False), tmp_path / "official.pth")
    pixels, keys = frames(1, 2, 3, 28, 28), {"weights": str(tmp_path / "official.pth"), "normalization": "imagenet"}
    expected = build_encoder(EncoderConfig(name="dinov2", num_registers=4, **keys), 28).eval()(pixels)
    found = make(name, image_size=28, resize_to=28, **keys).eval()(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_real_weights_give_the_tokens_of_our_own_dinov2(shared: Path) -> None:
    path = shared / "weights" / "dinov2_vits14_saliency.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the repository")
    image = images(518)[:1]
    ours = build_encoder(EncoderConfig(name="dinov2", weights=str(path), trainable=False), 518)
    found = make("vit_small_patch14_dinov2", str(path), 64, trainable=False)
    assert found.backbone().preprocess.side == 518
    torch.testing.assert_close(found.backbone().tokens(image), ours.backbone().tokens(image), rtol=1e-4, atol=1e-4)
