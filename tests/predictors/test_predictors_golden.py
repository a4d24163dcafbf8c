"""Every published predictor, as loaded from its published file, against what the published code computes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from jepawm.checkpoints.zoo import predictor_key
from jepawm.config import ObjectiveConfig
from jepawm.device import autocast
from jepawm.hub import world_model_from_published
from jepawm.latent import Latent
from jepawm.planning import GoalDistance
from jepawm.world_model import WorldModel

MODELS = [
    "jepa_wm_droid",
    "jepa_wm_metaworld",
    "jepa_wm_wall",
    "dino_wm_droid",
    "dino_wm_pusht",
    "dino_wm_wall",
    "vjepa2_ac_droid",
    "vjepa2_ac_feature",
    "vjepa2_ac_oss",
]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# bfloat16 has 8 bits of mantissa; errors of single values add up over layers and steps.
BFLOAT16_RELATIVE_ERROR = 0.02

Loaded = tuple[WorldModel, dict[str, Tensor]]


@pytest.fixture(params=MODELS)
def loaded(request: pytest.FixtureRequest, golden: Path) -> Loaded:
    folder = golden / request.param
    config = json.loads((folder / "config.json").read_text())
    model = world_model_from_published(config, folder / "checkpoint.pth.tar")
    return model, load_file(folder / "io.safetensors")


def tokens(visual: Tensor) -> Tensor:
    """`[B,T,V,H,W,D]` as published to `[B,T,P,D]`."""
    return visual.flatten(2, 4)


def context(model: WorldModel, io: dict[str, Tensor], frames: int) -> Latent:
    """The vectors' latents are what the predictor is given: where latents are normalised, after that."""
    proprio = io["context.proprio_raw"][:, :frames]
    return Latent(tokens(io["context.visual"])[:, :frames], model.encode_proprio(proprio))


def test_proprio_is_encoded_as_published(loaded: Loaded) -> None:
    model, io = loaded
    if not model.uses_proprio:
        assert not any(name.startswith("context.proprio_encoded") for name in io)
        return
    for frames, name in ((1, "tau1"), (2, "tau2")):
        expected = io[f"context.proprio_encoded.{name}"]
        expected = expected if expected.dim() == 4 else expected.unsqueeze(2)
        torch.testing.assert_close(context(model, io, frames).proprio, expected, **CLOSE)


def unrolled(model: WorldModel, io: dict[str, Tensor]) -> Latent:
    actions_BHA = io["actions"].transpose(0, 1)
    start = context(model, io, 1).map(lambda part: part.expand(len(actions_BHA), *part.shape[1:]))
    return model.unroll(start, actions_BHA)


@torch.inference_mode()
def test_unroll(loaded: Loaded) -> None:
    model, io = loaded
    found = unrolled(model, io)
    expected = tokens(io["unroll.visual"].transpose(0, 1))
    torch.testing.assert_close(found.visual, expected[:, 1:], **CLOSE)
    assert (found.proprio is not None) == ("unroll.proprio" in io)
    if found.proprio is not None:
        proprio = io["unroll.proprio"].transpose(0, 1)[:, 1:]
        torch.testing.assert_close(found.proprio, proprio if proprio.dim() == 4 else proprio.unsqueeze(2), **CLOSE)


@torch.inference_mode()
def test_unroll_of_candidates_is_the_unroll_of_each(loaded: Loaded) -> None:
    model, io = loaded
    chunks_BNHA = io["actions"].transpose(0, 1)[None]
    found = model.unroll_candidates(context(model, io, 1), chunks_BNHA)
    torch.testing.assert_close(found.visual[0], tokens(io["unroll.visual"].transpose(0, 1))[:, 1:], **CLOSE)


@torch.inference_mode()
def test_window_and_losses(loaded: Loaded) -> None:
    model, io = loaded
    window = Latent(tokens(io["window.visual"]), model.encode_proprio(io["window.proprio_raw"]))
    found = model.predict(window, io["window.actions"])
    torch.testing.assert_close(found.visual, tokens(io["window.pred_visual"]), **CLOSE)
    parts = {"visual": (found.visual, window.visual)}
    if "window.pred_proprio" in io and not model.integrates_pose:
        torch.testing.assert_close(found.proprio, io["window.pred_proprio"], **CLOSE)
    if "window.loss.proprio_l2_loss" in io:
        assert found.proprio is not None
        assert window.proprio is not None
        parts["proprio"] = (found.proprio, window.proprio)
    kinds: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "l1": F.l1_loss,
        "l2": F.mse_loss,
        "smooth_l1": F.smooth_l1_loss,
        "cos": lambda a, b: -F.cosine_similarity(a, b, dim=-1).mean(),
    }
    for name, (prediction, truth) in parts.items():
        for kind, loss in kinds.items():
            value = loss(prediction[:, :-1], truth[:, 1:])
            torch.testing.assert_close(value[None], io[f"window.loss.{name}_{kind}_loss"], **CLOSE)


@torch.inference_mode()
def test_goal_costs_are_the_published_distances(loaded: Loaded) -> None:
    model, io = loaded
    goal_proprio = io.get("goal.proprio_encoded")
    if goal_proprio is not None:
        goal_proprio = goal_proprio[:, 0] if goal_proprio.dim() == 4 else goal_proprio
    goal = Latent(tokens(io["goal.visual"])[:, 0], goal_proprio)
    found = unrolled(model, io)
    candidates = found.map(lambda part: part[None])
    cost_BN = GoalDistance(ObjectiveConfig(weighting="last", proprio_weight=0.1), goal)(candidates)
    last = io["unroll.visual"][-1]
    expected = (last - io["goal.visual"][0]).square().mean(dim=(1, 2, 3, 4))
    if goal_proprio is not None:
        difference = io["unroll.proprio"][-1] - io["goal.proprio_encoded"][0]
        expected = expected + 0.1 * difference.square().flatten(1).mean(dim=1)
    torch.testing.assert_close(cost_BN[0], expected, **CLOSE)


@torch.inference_mode()
def test_bfloat16_stays_close(loaded: Loaded) -> None:
    model, io = loaded
    with autocast("bfloat16", torch.device("cpu")):
        found = unrolled(model, io)
    expected = tokens(io["unroll.visual"].transpose(0, 1))[:, 1:]
    error = (found.visual - expected).norm() / expected.norm()
    assert 0 < float(error) < BFLOAT16_RELATIVE_ERROR


def test_parameters_are_the_published_ones(loaded: Loaded, golden: Path, request: pytest.FixtureRequest) -> None:
    model, _ = loaded
    name = request.node.callspec.params["loaded"]
    shapes = json.loads((golden / name / "state_dict_shapes.json").read_text())
    published = sum(
        torch.Size(shape).numel()
        for part in shapes.values()
        for key, shape in (part or {}).items()
        if predictor_key(key) is not None
    )
    assert published == sum(parameter.numel() for parameter in model.parameters())
