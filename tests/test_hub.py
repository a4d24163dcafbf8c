"""Published checkpoints: the right file gives the right model, any other file gives one clear error."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import dino_wm_original, published_model, published_parts, save_dino_wm
from torch import Tensor

from jepawm.checkpoints.zoo import DECODERS, ENVS, ZOO, model_config, published_run
from jepawm.config import RunConfig, from_dict
from jepawm.errors import CheckpointError, ConfigError
from jepawm.heads import ImageHead, VQVAEDecoder
from jepawm.hub import (
    load_decoder,
    load_dino_wm,
    load_dino_wm_decoder,
    load_published,
    load_published_run,
    read_published,
    world_model_from_published,
)
from jepawm.latent import Latent
from jepawm.world_model import WorldModel

# Published counts of the predictor as it is trained: what the files hold, encoders of action and proprio aside.
PREDICTOR_PARAMETERS = {
    "jepa_wm_metaworld": 17_630_480,
    "jepa_wm_pusht": 17_626_480,
    "jepa_wm_pointmaze": 17_626_480,
    "jepa_wm_wall": 17_626_480,
    "jepa_wm_droid": 228_835_328,
    "dino_wm_metaworld": 21_303_024,
    "dino_wm_pusht": 20_800_884,
    "dino_wm_pointmaze": 20_800_884,
    "dino_wm_wall": 20_298_744,
    "dino_wm_droid": 19_796_604,
    "vjepa2_ac_droid": 305_205_632,
    "vjepa2_ac_oss": 305_205_632 + 7 * 1024 + 1024,
}


def on_meta(name: str) -> WorldModel:
    with torch.device("meta"):
        return published_model(name)


def inputs(model: WorldModel, *, frames: int = 1, horizon: int = 2) -> tuple[Latent, Tensor]:
    noise = torch.Generator().manual_seed(5)
    visual = torch.randn(2, frames, model.num_patches, model.latent_dim, generator=noise)
    proprio = torch.randn(2, frames, model.proprio_dim, generator=noise) if model.uses_proprio else None
    return model.latent(visual, proprio), torch.randn(2, horizon, model.action_dim, generator=noise)


def assert_same(ours: WorldModel, other: WorldModel) -> None:
    now, actions = inputs(other)
    with torch.inference_mode():
        found, expected = ours.unroll(now, actions), other.unroll(now, actions)
    torch.testing.assert_close(found.visual, expected.visual)
    assert (found.proprio is None) == (expected.proprio is None)
    if found.proprio is not None:
        torch.testing.assert_close(found.proprio, expected.proprio)


@pytest.fixture(scope="module")
def wall() -> WorldModel:
    return published_model("jepa_wm_wall")


@pytest.fixture(scope="module")
def wall_file(wall: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("published") / "jepa_wm_wall.pth.tar"
    torch.save(published_parts(wall), path)
    return str(path)


def changed(wall: WorldModel, tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    parts = published_parts(wall)
    change(parts)
    torch.save(parts, tmp_path / "changed.pth.tar")
    return str(tmp_path / "changed.pth.tar")


# -- the zoo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_predictors_have_the_published_parameters(name: str) -> None:
    parts = published_parts(on_meta(name))
    assert sum(value.numel() for value in parts["predictor"].values()) == PREDICTOR_PARAMETERS[name]


@pytest.mark.parametrize("name", ZOO)
def test_a_run_of_a_published_model_is_consistent(name: str) -> None:
    config, env = from_dict(RunConfig, published_run(name)), ENVS[ZOO[name].env]
    encoder = ZOO[name].encoder
    assert config.data.frameskip * env.action.dim == ZOO[name].fields["action_dim"]
    assert len(env.statistics.action_mean) == env.action.dim
    assert not encoder.trainable
    widths = {"dinov2": 384, "dinov3": 1024, "vjepa2": 1408}
    assert widths[encoder.name] == ZOO[name].fields["embed_dim"] == DECODERS[ZOO[name].decoder].embed_dim


def test_the_files_tell_which_models_they_fit(tmp_path: Path) -> None:
    alike = {"jepa_wm_pusht": ["jepa_wm_pusht", "jepa_wm_pointmaze"], "dino_wm_droid": ["dino_wm_droid"]}
    for name, expected in alike.items():
        torch.save(published_parts(published_model(name)), tmp_path / name)
        assert read_published(str(tmp_path / name)).fitting_models() == expected


@pytest.mark.parametrize("name", ["jepa_wm_wall", "dino_wm_wall"])
def test_a_published_file_gives_its_model(name: str, tmp_path: Path) -> None:
    model = published_model(name)
    torch.save(published_parts(model), tmp_path / "file.pth.tar")
    loaded, spec = load_published_run(name, str(tmp_path / "file.pth.tar"))
    assert not loaded.training
    assert_same(loaded, model)
    np.testing.assert_allclose(loaded.action_mean.numpy(), np.tile([-0.0055646161, 0.0131978178], 5), rtol=1e-6)
    np.testing.assert_allclose(loaded.proprio_std.numpy(), [17.663522720, 17.275167465], rtol=1e-6)
    assert (spec.planner.num_samples, spec.planner.num_elites, spec.planner.num_iterations) == (300, 10, 30)
    assert spec.action.dim == 2


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_wrappers_names_are_taken_off(prefix: str, wall: WorldModel, tmp_path: Path) -> None:
    torch.save(published_parts(wall, prefix=prefix), tmp_path / "file.pth.tar")
    assert_same(load_published("jepa_wm_wall", str(tmp_path / "file.pth.tar"), encoder_weights="none"), wall)


def test_encoders_are_not_needed_before_pixels_come(wall_file: str) -> None:
    model = load_published("jepa_wm_wall", wall_file, encoder_weights="/nowhere/dinov2.pth")
    assert_same(model, load_published("jepa_wm_wall", wall_file, encoder_weights="none"))
    with pytest.raises(CheckpointError, match=r"weight file not found: /nowhere/dinov2\.pth; get dinov2_vits14 of"):
        model.encode(torch.zeros(1, 1, 3, 224, 224, dtype=torch.uint8), torch.zeros(1, 1, 2))


def test_masks_and_camera_encoders_are_the_only_keys_left_out(tmp_path: Path) -> None:
    model = published_model("dino_wm_wall")
    parts = published_parts(model)
    parts["predictor"]["module.transformer.layers.0.0.bias"] = torch.ones(1, 1, 4, 4)
    parts["predictor"]["module.extrinsics_encoder.weight"] = torch.ones(3)
    torch.save(parts, tmp_path / "known.pth.tar")
    assert_same(load_published("dino_wm_wall", str(tmp_path / "known.pth.tar"), encoder_weights="none"), model)
    parts["predictor"]["module.transformer.layers.0.0.gain"] = torch.ones(3)
    torch.save(parts, tmp_path / "strange.pth.tar")
    with pytest.raises(CheckpointError, match=r"unexpected predictor\.transformer\.layers\.0\.0\.gain"):
        load_published("dino_wm_wall", str(tmp_path / "strange.pth.tar"))


def test_the_official_name_of_the_pose_encoder_is_read(golden: Path, tmp_path: Path) -> None:
    import json

    config = json.loads((golden / "vjepa2_ac_oss" / "config.json").read_text())
    parts = torch.load(golden / "vjepa2_ac_oss" / "checkpoint.pth.tar", weights_only=True)
    expected = world_model_from_published(config, golden / "vjepa2_ac_oss" / "checkpoint.pth.tar")
    renamed = {key.replace("proprio_encoder", "state_encoder"): value for key, value in parts["predictor"].items()}
    assert renamed.keys() != parts["predictor"].keys()
    torch.save({**parts, "predictor": renamed}, tmp_path / "official.pt")
    assert_same(world_model_from_published(config, tmp_path / "official.pt"), expected)


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_unknown_models_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown published model 'jepa_wm_wal' \(did you mean 'jepa_wm_wall'\?\)"):
        load_published("jepa_wm_wal")


def test_another_models_file_says_whose_it_is(wall_file: str) -> None:
    with pytest.raises(CheckpointError, match=r"does not fit the model \(its shapes are those of jepa_wm_wall\)"):
        load_published("jepa_wm_pusht", wall_file)
    with pytest.raises(CheckpointError, match=r"its shapes are those of jepa_wm_wall\): missing predictor\.positions"):
        load_published("dino_wm_wall", wall_file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop("predictor"), r"is not a published world model: it has no 'predictor'"),
        (lambda parts: parts.update(predictor=None), r"it has no 'predictor'"),
        (lambda parts: parts.update(proprio_encoder=None), r"missing proprio_encoder\.weight"),
        (lambda parts: parts["predictor"].pop("module.predictor_norm.bias"), r"missing predictor\.norm\.bias"),
        (lambda parts: parts["predictor"].update(note="x"), r"expected tensors by name, found str under 'note'"),
        (lambda parts: parts["predictor"].update({3: torch.ones(1)}), r"found Tensor under 3"),
        (
            lambda parts: parts["predictor"].update({"module.predictor_norm.bias": torch.ones(400, dtype=torch.int64)}),
            r"predictor\.norm\.bias holds torch\.int64, expected torch\.float32",
        ),
        (
            lambda parts: parts["predictor"].update({"module.predictor_norm.bias": torch.ones(7)}),
            r"predictor\.norm\.bias has shape \[7\], expected \[400\]",
        ),
        (lambda parts: parts.update(action_encoder={"module.patch_embed.weight": torch.ones(9, 9)}), r"jepa_wm_wall's"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Any]], Any], message: str, wall: WorldModel, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_published("jepa_wm_wall", changed(wall, tmp_path, change))


def test_a_truncated_file_is_refused(wall_file: str, tmp_path: Path) -> None:
    content = Path(wall_file).read_bytes()
    for share in (0.0, 0.5, 0.999):
        (tmp_path / "short.pth.tar").write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match=r"damaged or truncated"):
            load_published("jepa_wm_wall", str(tmp_path / "short.pth.tar"))


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "executed")


def test_nothing_in_a_file_is_executed(wall: WorldModel, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = changed(wall, tmp_path, lambda parts: parts.update(epoch=Hostile(canary)))
    for load in (
        lambda: load_published("jepa_wm_wall", path),
        lambda: read_published(path),
        lambda: load_dino_wm(path, "wall"),
        lambda: load_decoder("jepa_wm_wall", path),
        lambda: load_dino_wm_decoder(path),
    ):
        with pytest.raises(CheckpointError, match="nothing in it was executed"):
            load()
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.read_text() == "executed"


def test_a_missing_file_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not found: .*nofile; the file is jepa_wm_wall\.pth\.tar in the hub"):
        load_published("jepa_wm_wall", str(tmp_path / "nofile"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("huggingface_hub")
    with pytest.raises(
        CheckpointError, match=r"HF_HUB_OFFLINE is set.*facebook/jepa-wms, or .*/wall_jepa-wm\.pth\.tar"
    ):
        load_published("jepa_wm_wall")


# -- published fields ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depht": 6}, r"unknown field 'depht' \(did you mean 'depth'\?\)"),
        ({"depth": None}, r"missing depth"),
        ({"action_dim": None}, r"missing action_dim"),
        ({"proprio_dim": None}, r"missing proprio_dim"),
        ({"pred_type": "AdaLn"}, r"pred_type 'AdaLn' \(did you mean 'AdaLN'\?\)"),
        ({"use_rope": False}, r"use_rope false is a variant that was never released"),
        ({"proprio_encoding": "token"}, r"'token' with 0 proprio_tokens; expected 'feature', or 'token' with 1"),
    ],
)
def test_fields_that_describe_no_published_model_are_refused(change: dict[str, Any], message: str) -> None:
    fields = {key: value for key, value in {**ZOO["jepa_wm_wall"].fields, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        model_config(fields)


def test_an_action_chunk_must_hold_whole_actions(wall_file: str) -> None:
    with pytest.raises(ConfigError, match=r"action_dim 10 is not a multiple of frameskip 3"):
        world_model_from_published({**ZOO["jepa_wm_wall"].fields, "frameskip": 3}, wall_file)


def test_proprio_of_another_width_is_named(wall_file: str) -> None:
    with pytest.raises(CheckpointError, match=r"reads proprio of 2 numbers, proprio_dim is 4"):
        world_model_from_published({**ZOO["jepa_wm_wall"].fields, "proprio_dim": 4}, wall_file)


def test_without_statistics_numbers_are_taken_as_they_are(wall: WorldModel, wall_file: str) -> None:
    model = world_model_from_published(ZOO["jepa_wm_wall"].fields, wall_file)
    raw = torch.randn(2, 3, 10)
    assert torch.equal(model.normalize_actions(raw), raw)
    assert not torch.equal(wall.normalize_actions(raw), raw)


# -- the original DINO-WM --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env", "frames"), [("pusht", 3), ("wall", 1)])
def test_pickled_modules_give_the_model_they_hold(env: str, frames: int, tmp_path: Path) -> None:
    model = dino_wm_original(env, frames)
    path = save_dino_wm(tmp_path / "model_latest.pth", model)
    assert "models.vit" not in sys.modules
    loaded, spec = load_dino_wm(path, env)
    assert_same(loaded, model)
    encoder = spec.model.encoder
    assert (encoder.resize_to, encoder.resize, encoder.normalization) == (196, "antialias", "symmetric")
    assert (loaded.context_window, loaded.num_patches) == (frames, 196)
    file = read_published(path)
    assert file.pickled
    assert file.parts["epoch"] == 100


def test_pickled_modules_are_no_published_file(tmp_path: Path) -> None:
    path = save_dino_wm(tmp_path / "model_latest.pth", dino_wm_original("wall", 1))
    with pytest.raises(CheckpointError, match=r"of pickled modules; load it with jepawm\.hub\.load_dino_wm"):
        load_published("dino_wm_wall", path)


def test_pickled_modules_of_another_grid_are_refused(tmp_path: Path) -> None:
    path = save_dino_wm(tmp_path / "model_latest.pth", published_model("dino_wm_wall"))
    with pytest.raises(CheckpointError, match="not a DINO-WM checkpoint on 14 x 14 patches"):
        load_dino_wm(path, "wall")


def test_the_original_dino_wm_knows_three_environments(wall_file: str) -> None:
    with pytest.raises(ConfigError, match=r"are of pusht, pointmaze and wall, found 'droid'"):
        load_dino_wm(wall_file, "droid")
    with pytest.raises(
        CheckpointError, match=r"holds tensors, .* is it the file of load_published\('dino_wm_wall'\)\?"
    ):
        load_dino_wm(wall_file, "wall")


def test_the_original_decoder_is_read(tmp_path: Path) -> None:
    torch.manual_seed(2)
    head = VQVAEDecoder(8, channels=6, num_codes=5, num_residual=2, residual_channels=4).eval()
    model = dino_wm_original("wall", 1)
    loaded = load_dino_wm_decoder(save_dino_wm(tmp_path / "model_latest.pth", model, decoder=vqvae_names(head)))
    latents = torch.randn(1, 2, 4, 8)
    torch.testing.assert_close(loaded(latents)[0], head(latents)[0])
    with pytest.raises(CheckpointError, match="holds no VQ-VAE 'decoder'"):
        load_dino_wm_decoder(save_dino_wm(tmp_path / "without.pth", model))
    for name, value in (("dec.blocks.0.weight", None), ("quantize_b.embed", torch.ones(3))):
        torn = {**vqvae_names(head), name: value}
        torn = {key: tensor for key, tensor in torn.items() if tensor is not None}
        with pytest.raises(CheckpointError, match="holds no VQ-VAE 'decoder'"):
            load_dino_wm_decoder(save_dino_wm(tmp_path / "torn.pth", model, decoder=torn))


def vqvae_names(head: VQVAEDecoder) -> dict[str, Tensor]:
    places = {"first": "0", "residual.0.conv1": "1.conv.1", "residual.0.conv2": "1.conv.3"}
    places |= {"residual.1.conv1": "2.conv.1", "residual.1.conv2": "2.conv.3", "up1": "4", "up2": "6"}
    rooms = {"upsample": "upsample_b", "draw": "dec"}
    found = {
        "quantize_b.embed": head.codebook.codes.T,
        "quantize_b.cluster_size": head.codebook.counts,
        "quantize_b.embed_avg": head.codebook.sums.T,
    }
    for key, value in head.state_dict().items():
        room, _, rest = key.partition(".")
        if room in rooms:
            place, _, leaf = rest.rpartition(".")
            found[f"{rooms[room]}.blocks.{places[place]}.{leaf}"] = value
    return found


# -- decoders --------------------------------------------------------------------------------------------------------


def decoder_file(path: Path, latent_dim: int) -> ImageHead:
    torch.manual_seed(3)
    head = ImageHead(latent_dim, image_size=64, dim=32, depth=1, num_heads=16).eval()
    names = {"trunk.embed.": "decoder_embed.", "trunk.blocks.": "decoder_blocks."}
    names |= {"norm.": "decoder_norm.", "proj.": "decoder_proj."}
    tensors = {"module.decoder_pos_embed": head.trunk.position_table[None], "module.view_tokens": head.view_token}
    for name, value in head.state_dict().items():
        for ours, published in names.items():
            if name.startswith(ours):
                tensors[f"module.{published}{name.removeprefix(ours)}"] = value
    tensors["module.view_tokens"] = tensors["module.view_tokens"][None, None]
    torch.save({"model": tensors, "opt": None, "epoch": 1}, path)
    return head


@pytest.mark.parametrize(
    ("name", "normalization"),
    [("jepa_wm_wall", "imagenet"), ("dino_wm_droid", "symmetric"), ("dinov2_vits_224", "symmetric")],
)
@torch.no_grad()
def test_decoders_are_known_by_name_and_by_model(name: str, normalization: str, tmp_path: Path) -> None:
    head = decoder_file(tmp_path / "decoder.pth.tar", 384)
    loaded = load_decoder(name, str(tmp_path / "decoder.pth.tar"))
    latents = torch.randn(1, 1, 16, 384)
    torch.testing.assert_close(loaded(latents), head(latents))
    assert loaded.normalization == normalization


def test_a_decoder_of_other_latents_is_refused(tmp_path: Path) -> None:
    decoder_file(tmp_path / "decoder.pth.tar", 384)
    with pytest.raises(
        CheckpointError, match=r"width 384, dinov3_vitl_256_INet has 1024; is it dinov3_vitl_256_INet's"
    ):
        load_decoder("jepa_wm_droid", str(tmp_path / "decoder.pth.tar"))
    with pytest.raises(ConfigError, match=r"unknown published model 'dinov2_vitz'"):
        load_decoder("dinov2_vitz")
