"""The copy of a predictor that plans: cast once, close to the model, and never behind its weights."""

from typing import Any

import pytest
import torch
from engine_models import KINDS, context_of, make_model, random_chunks
from torch import Tensor

from jepawm.config.predictor import MLPPredictorConfig
from jepawm.device import autocast
from jepawm.engine import PlanningUnroll, UnrollSettings, planning_model
from jepawm.nn.batch_norm import GlobalBatchNorm
from jepawm.predictors.base import Predictor

# bfloat16 has 8 bits of mantissa, so rounding a number costs at most 2^-9 of it; a step rounds its inputs, each of its
# two blocks its two sums and their inputs, and three steps follow each other. Errors of random sign add in squares.
BFLOAT16 = 2**-9 * (3 * 2 * 6) ** 0.5


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_bfloat16_plan_sees_nearly_the_models_latents(kind: str) -> None:
    model = make_model(kind)
    context, chunks = context_of(model, 1), random_chunks(model, 2, 5, 3)
    exact = model.unroll_candidates(context, chunks).visual
    found = PlanningUnroll(model, context, None, UnrollSettings("bfloat16"))(chunks).visual
    with autocast("bfloat16", torch.device("cpu")):
        under_autocast = model.unroll_candidates(context, chunks).visual
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    assert relative(found, exact) < 4 * BFLOAT16
    # No worse than twice what autocast makes of it, which casts the same weights and keeps sums in float32.
    assert relative(found, exact) < 2 * relative(under_autocast, exact) + BFLOAT16


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_cast_once_and_cast_again_when_they_change(kind: str) -> None:
    model = make_model(kind)
    first = planning_model(model, torch.bfloat16)
    weights = [parameter.data_ptr() for parameter in first.predictor.parameters()]
    assert planning_model(model, torch.bfloat16) is first
    with torch.no_grad():
        for parameter in model.predictor.parameters():
            parameter.mul_(1.5)
    again = planning_model(model, torch.bfloat16)
    # In place, so that a recorded graph or a compiled function stays valid.
    assert [parameter.data_ptr() for parameter in again.predictor.parameters()] == weights
    for mine, theirs in zip(again.predictor.parameters(), model.predictor.parameters(), strict=True):
        assert torch.equal(mine.float(), theirs.to(mine.dtype).float())
    assert all(parameter.dtype == torch.float32 for parameter in model.predictor.parameters())


def test_float32_plans_with_the_model_itself() -> None:
    model = make_model("adaln")
    assert planning_model(model, None) is model
    context, chunks = context_of(model, 1), random_chunks(model, 2, 5, 3)
    unroll = PlanningUnroll(model, context, None, UnrollSettings("float32"))
    assert torch.equal(unroll(chunks).visual, model.unroll_candidates(context, chunks).visual)


def test_the_copy_shares_all_but_the_predictor() -> None:
    model = make_model("lewm")
    copy = planning_model(model, torch.bfloat16)
    assert copy.encoder is model.encoder
    assert copy.predictor is not model.predictor
    assert copy.action_mean.data_ptr() == model.action_mean.data_ptr()
    norms = [module for module in copy.predictor.modules() if isinstance(module, GlobalBatchNorm)]
    assert norms
    assert all(buffer.dtype != torch.bfloat16 for norm in norms for buffer in norm.buffers())


class Strict(Predictor):
    """Somebody's predictor, which takes what it is given: inputs in another number format are an error."""

    def __init__(self, config: Any, latents: Any) -> None:
        super().__init__(config, latents)
        self.layer = torch.nn.Linear(latents.dim + latents.chunk_dim, latents.dim)

    def successors(self, visual_BTPD: Tensor, actions_BTA: Tensor, proprio_BTQE: Any, *, last_only: bool) -> Any:
        actions = actions_BTA.unsqueeze(2).expand(-1, -1, visual_BTPD.shape[2], -1)
        found = self.layer(torch.cat([visual_BTPD, actions], dim=-1)).float()
        return (found[:, -1:] if last_only else found), None


def test_a_predictor_that_casts_nothing_plans_under_autocast() -> None:
    model = make_model("mlp")
    model.predictor = Strict(MLPPredictorConfig(), model.predictor.latents)
    context, chunks = context_of(model, 1), random_chunks(model, 2, 5, 3)
    found = PlanningUnroll(model, context, None, UnrollSettings("bfloat16"))(chunks).visual
    exact = model.unroll_candidates(context, chunks).visual
    assert 0 < relative(found, exact) < 4 * BFLOAT16
