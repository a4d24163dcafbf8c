"""Clips that grow between stages: the same weights, nothing interpolated, against golden vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import CLOSE, golden_pretraining, masks_of, pixels, read, under
from torch import Tensor

from jepawm.config import EncoderConfig
from jepawm.encoders.vjepa import VJEPAEncoder
from jepawm.encoders.vjepa_files import published_name
from jepawm.errors import ConfigError
from jepawm.nn.embeddings import sincos_3d
from jepawm.nn.rotary import rotary_table, rotate
from jepawm.nn.weights import load_strict
from jepawm.pretraining import MaskedClips, Pretraining
from jepawm.pretraining.masks import TokenGrid

STAGES = {"s1": (4, 16, 16), "s2": (16, 16, 16), "s3": (16, 24, 24), "nonsquare": (4, 16, 24)}


@pytest.fixture(scope="module")
def files(golden: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return read(golden, "resolution")


@pytest.fixture(scope="module")
def pretraining(files) -> Pretraining:
    return golden_pretraining(*files, "vjepa2")


def clip_of(tensors: dict[str, Tensor], stage: str) -> Tensor:
    frames, rows, columns = STAGES[stage]
    return pixels(tensors["clip"])[:, :, :frames, :rows, :columns]


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_one_encoder_and_predictor_serve_every_stage(files, pretraining, stage):
    tensors, _ = files
    clip = clip_of(tensors, stage)
    torch.testing.assert_close(pretraining.encoder.tokens(clip), tensors[f"tokens.{stage}"], **CLOSE)
    if stage == "nonsquare":
        return
    masks = masks_of(tensors, f"mask.{stage}")
    context = pretraining.encoder.tokens(clip, masks.context_BL)
    torch.testing.assert_close(context, tensors[f"context.{stage}"], **CLOSE)
    predicted, _ = pretraining.predictor(context, masks, pretraining.token_grid(*STAGES[stage]))
    torch.testing.assert_close(predicted, tensors[f"predicted.{stage}"], **CLOSE)


@torch.no_grad()
def test_a_grid_of_another_stage_is_refused(files, pretraining):
    """The published predictor, built for stage 3 and used at stage 1, silently takes every token for another place."""
    tensors, _ = files
    clip, masks = clip_of(tensors, "s1"), masks_of(tensors, "mask.s1")
    stale = pretraining.token_grid(*STAGES["s3"])
    predicted, _ = pretraining.predictor(tensors["context.s1"], masks, stale)
    torch.testing.assert_close(predicted, tensors["predicted.s1.stale_grid"], **CLOSE)
    assert (predicted - tensors["predicted.s1"]).abs().max() > 1e-3
    for grid in (stale, TokenGrid(1, 4, 4), TokenGrid(2, 4, 5)):
        with pytest.raises(ConfigError, match=r"drawn on a token grid of .*have 2 times, 4 rows and 4 columns"):
            pretraining([MaskedClips(clip, grid, (masks,))])


@pytest.mark.parametrize("stage", ["s1", "s2", "s3", "half_length"])
@torch.no_grad()
def test_an_added_table_is_cut_or_interpolated(files, stage):
    tensors, settings = files
    theirs = settings["sincos_encoder"]
    config = EncoderConfig(
        name="vjepa1",
        latent_dim=theirs["embed_dim"],
        depth=theirs["depth"],
        num_heads=theirs["num_heads"],
        mlp_ratio=float(theirs["mlp_ratio"]),
        patch_size=theirs["patch_size"],
        position_grid=4,
        position_times=2,
    )
    encoder = VJEPAEncoder(config, 16)
    weights = under(tensors, "sincos.")
    torch.testing.assert_close(encoder.position_table.flatten(0, 2)[None], weights.pop("pos_embed"), **CLOSE)
    load_strict(encoder, weights, "golden", rename=published_name)
    clip = clip_of(tensors, "s1")[:, :, :2] if stage == "half_length" else clip_of(tensors, stage)
    grid = encoder.token_grid(*clip.shape[2:])
    torch.testing.assert_close(encoder._positions(*grid)[None], tensors[f"sincos_pos.{stage}"], **CLOSE)
    torch.testing.assert_close(encoder.tokens(clip), tensors[f"sincos_tokens.{stage}"], **CLOSE)


def test_the_added_table_of_the_predictor(files):
    tensors, _ = files
    expected = tensors["sincos_predictor.pos_embed"][0]
    torch.testing.assert_close(sincos_3d(24, (2, 4, 4)).flatten(0, 2), expected, **CLOSE)


@pytest.mark.parametrize(("pairing", "key"), [("published", "tiled_v2"), ("corrected", "interleaved_v21")])
def test_one_rotation_at_whole_and_fractional_positions(files, pairing, key):
    tensors, _ = files
    x, positions = tensors["rotate.x"], tensors["rotate.pos"]
    # One axis of 20 channels: the first third of a head of 60; the other axes stand still.
    places = torch.stack([positions, torch.zeros_like(positions), torch.zeros_like(positions)], dim=-1)
    head = torch.cat([x, torch.zeros(*x.shape[:-1], 40)], dim=-1)
    turned = rotate(head, rotary_table(60, places, pairing=pairing))
    torch.testing.assert_close(turned[..., :20], tensors[f"rotate.{key}"], **CLOSE)
