"""V-JEPA 2 against golden vectors: tokens of clips, of masked clips, predicted tokens and their loss."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jepawm.config import EncoderConfig
from jepawm.config.pretraining_model import MaskPredictorConfig
from jepawm.encoders.vjepa import VJEPAEncoder
from jepawm.pretraining import MaskPredictor, load_mask_predictor, token_losses
from jepawm.pretraining.masks import MaskSet, TokenGrid
from jepawm.pretraining.teacher import Teacher

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# Share of the golden tokens' norm by which bfloat16 may be off.
BFLOAT16 = 0.02


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "encoder_vjepa2"


@pytest.fixture(scope="module")
def io(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "io.safetensors")


def encoder_of(folder: Path, part: str = "target_encoder", **changed: str) -> VJEPAEncoder:
    config = EncoderConfig(
        name="vjepa2",
        latent_dim=60,
        depth=2,
        num_heads=3,
        normalization="imagenet",
        weights=str(folder / "checkpoint.pth"),
        weights_part=part,
        **changed,
    )
    return VJEPAEncoder(config, 64).eval()


@pytest.fixture(scope="module")
def predictor(folder: Path) -> MaskPredictor:
    predictor = MaskPredictor(60, MaskPredictorConfig(embed_dim=48, depth=2, num_heads=3, num_mask_tokens=2))
    load_mask_predictor(predictor, str(folder / "checkpoint.pth"))
    return predictor.eval()


def masks_of(io: dict[str, Tensor]) -> tuple[MaskSet, TokenGrid]:
    return MaskSet(io["mask.context"], io["mask.target"]), TokenGrid(io["clip"].shape[2] // 2, 4, 4)


@pytest.mark.parametrize("part", ["target_encoder", "encoder"])
@torch.no_grad()
def test_tokens_of_clips(folder, io, part):
    encoder = encoder_of(folder, part)
    torch.testing.assert_close(encoder.tokens(io["clip"]), io["clip.tokens"], **CLOSE)
    torch.testing.assert_close(encoder.tokens(io["frame_pair"]), io["frame_pair.tokens"], **CLOSE)


@torch.no_grad()
def test_a_masked_clip_knows_the_true_places_of_what_is_kept(folder, io):
    tokens = encoder_of(folder).tokens(io["clip"], io["mask.context"])
    torch.testing.assert_close(tokens, io["context.tokens"], **CLOSE)


@torch.no_grad()
def test_the_golden_tokens_need_the_published_pairing(folder, io):
    tokens = encoder_of(folder, rotary_pairing="corrected").tokens(io["clip"])
    assert not torch.allclose(tokens, io["clip.tokens"], **CLOSE)


@torch.no_grad()
def test_targets_predictions_and_loss(folder, io, predictor):
    encoder = encoder_of(folder)
    masks, grid = masks_of(io)
    targets = Teacher(encoder)(io["clip"]).take_along_dim(masks.target_BM[:, :, None], dim=1)
    torch.testing.assert_close(targets, io["target.tokens"], **CLOSE)
    context = encoder.tokens(io["clip"], masks.context_BL)
    predicted, _ = predictor(context, masks, grid, mask_token=1)
    torch.testing.assert_close(predicted, io["predicted.tokens"], **CLOSE)
    torch.testing.assert_close(token_losses(predicted, targets, 1.0).mean(), io["l1_loss"][0], **CLOSE)


@torch.no_grad()
def test_the_order_in_which_tokens_are_given_does_not_matter(io, predictor):
    """The published predictor sorts its tokens; ours takes them as they come."""
    order, back = torch.randperm(20), torch.randperm(44)
    masks, grid = masks_of(io)
    shuffled = MaskSet(masks.context_BL[:, order], masks.target_BM[:, back])
    predicted, _ = predictor(io["context.tokens"][:, order], shuffled, grid, mask_token=1)
    torch.testing.assert_close(predicted, io["predicted.tokens"][:, back], **CLOSE)


@torch.no_grad()
def test_bfloat16_stays_within_its_tolerance(folder, io, predictor):
    encoder = encoder_of(folder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = encoder.tokens(io["clip"])
        predicted, _ = predictor(io["context.tokens"], *masks_of(io), mask_token=1)
    for found, expected in ((tokens, io["clip.tokens"]), (predicted, io["predicted.tokens"])):
        assert (found.float() - expected).norm() < BFLOAT16 * expected.norm()
