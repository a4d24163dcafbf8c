"""V-JEPA 2.1 against golden vectors: levels, images, distance weights, dense loss."""

from pathlib import Path

import pytest
import torch
from golden_models import CLOSE, golden_pretraining, masks_of, pixels, read, under
from torch import Tensor

from jepawm.pretraining import MaskedClips, Pretraining
from jepawm.pretraining.dense import context_weights
from jepawm.pretraining.masks import TokenGrid

# Iteration 22,500 of V-JEPA 2.1: half the way to a weight of 0.5.
DENSE = {"target_levels": 4, "context_weight": 0.5, "context_from_step": 15_000, "context_full_step": 30_000}
STEP = 22_500


@pytest.fixture(scope="module")
def files(golden: Path) -> tuple[dict[str, Tensor], dict]:
    return read(golden, "dense")


@pytest.fixture
def pretraining(files) -> Pretraining:
    return golden_pretraining(*files, "vjepa2_1", **DENSE)


@torch.no_grad()
def test_tokens_of_videos_images_and_other_sizes(files, pretraining):
    tensors, _ = files
    encoder = pretraining.encoder
    clip = pixels(tensors["clip"])
    torch.testing.assert_close(encoder.tokens(clip), tensors["tokens.video"], **CLOSE)
    torch.testing.assert_close(encoder.tokens(clip[:, :, :1]), tensors["tokens.image"], **CLOSE)
    torch.testing.assert_close(encoder.tokens(pixels(tensors["clip96"])), tensors["tokens.video96"], **CLOSE)
    levels = encoder.levels(encoder.embed(clip), num_levels=4)
    torch.testing.assert_close(levels, tensors["levels.video"], **CLOSE)


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("grid8", (4, 8, 8)),
        ("grid16", (2, 16, 16)),
        ("grid16B", (2, 16, 16)),
        ("image32", (1, 32, 32)),
        ("thin8", (4, 8, 8)),
    ],
)
def test_weights_of_visible_tokens(files, name, grid):
    tensors, _ = files
    masks = masks_of(tensors, f"weight.{name}")
    torch.testing.assert_close(context_weights(masks, TokenGrid(*grid)), tensors[f"weight.{name}"], **CLOSE)
    if f"weight.{name}.offset" in tensors:
        found = context_weights(masks, TokenGrid(*grid), in_sixteenths=True)
        torch.testing.assert_close(found, tensors[f"weight.{name}.offset"], **CLOSE)


@pytest.mark.parametrize(("kind", "sets", "frames"), [("video", "BC", 4), ("image", "I", 1)])
def test_dense_loss_and_its_gradients(files, pretraining, kind, sets, frames):
    tensors, settings = files
    expected = settings[kind]
    clip = pixels(tensors["clip"])[:, :, :frames]
    grid = pretraining.token_grid(frames, 64, 64)
    mask_sets = tuple(masks_of(tensors, f"{kind}.{name}") for name in sets)
    with torch.no_grad():
        embedded = pretraining.encoder.embed(clip)
        for name, masks in zip(sets, mask_sets, strict=True):
            context = pretraining.encoder.levels(embedded, masks.context_BL, num_levels=4)
            predicted, of_context = pretraining.predictor(context, masks, grid, images=embedded.images)
            torch.testing.assert_close(predicted, tensors[f"{kind}.{name}.predicted"], **CLOSE)
            torch.testing.assert_close(of_context, tensors[f"{kind}.{name}.predicted_context"], **CLOSE)
    terms = pretraining([MaskedClips(clip, grid, mask_sets)], STEP)
    assert terms.prediction.item() == pytest.approx(expected["loss_pred"], rel=1e-4)
    assert terms.context.item() == pytest.approx(expected["loss_context_weighted"], rel=1e-4)
    assert terms.loss.item() == pytest.approx(expected["total"], rel=1e-4)
    terms.loss.backward()
    for part in ("encoder", "predictor"):
        gradients = [value.grad for value in getattr(pretraining, part).parameters() if value.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert norm.item() == pytest.approx(expected[f"grad_norm_{part}"], rel=1e-3)
    used = {name for name, value in pretraining.named_parameters() if value.grad is not None}
    unused = {name for name, value in pretraining.named_parameters() if value.requires_grad} - used
    assert len(unused) == len(expected["without_gradient"])
    assert {name for name in unused if "image" in name} == (
        set()
        if kind == "image"
        else {
            *("encoder.image_vector", "encoder.patch_embed_image.weight", "encoder.patch_embed_image.bias"),
            "predictor.image_vector",
        }
    )


def test_the_loss_of_visible_tokens_without_distances(files, pretraining):
    tensors, settings = files
    plain = golden_pretraining(*files, "vjepa2_1", **DENSE, context_distance="none")
    clip = pixels(tensors["clip"])
    grid = plain.token_grid(4, 64, 64)
    sets = tuple(masks_of(tensors, f"video.{name}") for name in "BC")
    terms = plain([MaskedClips(clip, grid, sets)], STEP)
    assert terms.context.item() == pytest.approx(settings["video"]["loss_context_plain"], rel=1e-4)


def test_golden_weights_are_all_read(files):
    tensors, _ = files
    assert len(under(tensors, "encoder.")) + len(under(tensors, "predictor.")) > 200
