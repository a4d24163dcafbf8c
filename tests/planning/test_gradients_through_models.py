"""Planners that follow gradients through world models: right slopes, bounded memory, an agent that plans with them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import ModelSpec, build_world_model
from jepawm.config import EncoderConfig, ModelConfig, PlannerConfig, PredictorConfig, ProprioConfig
from jepawm.errors import PlanningError
from jepawm.latent import Latent
from jepawm.types import ActionSpec, Statistics
from jepawm.world_model import WorldModel

FRAMESKIP, SIDE = 2, 16
PREDICTORS: dict[str, dict[str, Any]] = {
    "adaln": {"depth": 1, "num_heads": 2, "mlp_dim": 16, "head_dim": 6, "context_window": 2},
    "mlp": {"hidden_dim": 16},
    "recurrent": {},
}


def spec_of(name: str) -> ModelSpec:
    encoder = EncoderConfig(latent_dim=8, channels=(4,), kernel_sizes=(5,), strides=(4,), hidden_dim=8)
    predictor = PredictorConfig(name=name, **PREDICTORS[name])
    proprio = ProprioConfig("feature", dims=4) if name == "adaln" else ProprioConfig()
    statistics = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 0, 1)))
    return ModelSpec(
        ModelConfig(encoder, predictor, proprio), SIDE, FRAMESKIP, statistics, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))
    )


def observation(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "pixels": draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        "proprio": draw.normal(size=2).astype(np.float32),
    }


def context_of(model: WorldModel) -> Latent:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 1, 3, SIDE, SIDE), generator=draws, dtype=torch.uint8)
    proprio = torch.randn(1, 1, 2, generator=draws, dtype=torch.float64) if model.uses_proprio else None
    with torch.no_grad():
        return model.encode(pixels, proprio)


def final_cost(model: WorldModel, context: Latent) -> Callable[[Tensor], Tensor]:
    def cost(chunks_BNHA: Tensor) -> Tensor:
        return model.unroll_candidates(context, chunks_BNHA).visual[:, :, -1].square().sum()

    return cost


@pytest.mark.parametrize("name", PREDICTORS)
def test_the_gradient_through_the_unroll_is_the_slope_of_the_cost(name: str) -> None:
    torch.manual_seed(0)
    model = build_world_model(spec_of(name)).double().eval()
    cost = final_cost(model, context_of(model))
    chunks = torch.randn(1, 2, 3, FRAMESKIP * 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chunks.requires_grad_()
    (gradient,) = torch.autograd.grad(cost(chunks), chunks)
    direction = torch.randn(chunks.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    # Central differences in float64: the error of the step is about 1e-10, of rounding 1e-16 / 1e-5.
    step = 1e-5
    with torch.no_grad():
        slope = (cost(chunks + step * direction) - cost(chunks - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)
    assert gradient.abs().amax(dim=-1).min() > 0, "every chunk moves the end"


def test_an_unroll_for_gradients_keeps_the_latents_of_its_steps_alone() -> None:
    torch.manual_seed(0)
    model = build_world_model(spec_of("adaln")).double().eval()
    context = context_of(model)

    def kept_bytes(horizon: int, *, training: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        model.train(training)
        chunks = torch.zeros(1, 4, horizon, FRAMESKIP * 2, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            final_cost(model, context)(chunks)
        model.eval()
        return sum(sizes.values())

    # A step more of training keeps everything that the step computes, of planning next to nothing.
    of_training, of_planning = (
        kept_bytes(6, training=training) - kept_bytes(3, training=training) for training in (True, False)
    )
    assert of_training > 10_000
    assert of_planning < 0.2 * of_training


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gradient", "cem_gradient", "grasp"])
def test_an_agent_plans_with_gradients(name: str, precision: str) -> None:
    torch.manual_seed(0)
    # An untrained AdaLN predictor all but ignores actions; this one does not.
    spec = spec_of("mlp")
    settings = {"horizon": 3, "num_samples": 8, "num_iterations": 8, "precision": precision}
    more = {"num_elites": 4, "num_refined": 4} if name == "cem_gradient" else {}
    agent = Agent(build_world_model(spec).eval(), spec, PlannerConfig(name=name, **settings, **more))
    plan = agent.plan(observation(1), observation(2), seed=3)
    again = agent.plan(observation(1), observation(2), seed=3, max_candidates_per_forward=3)
    assert np.abs(plan.actions).max() <= 1.0
    assert plan.best_cost_per_iteration.min() < plan.best_cost_per_iteration[0]
    assert all(parameter.grad is None for parameter in agent.model.parameters())
    if precision == "float32":
        np.testing.assert_allclose(again.best_cost_per_iteration[0], plan.best_cost_per_iteration[0], rtol=1e-5)


def test_an_agent_starts_its_search_from_the_plans_of_a_callable() -> None:
    torch.manual_seed(0)
    spec = spec_of("adaln")
    asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def starts(latents: Latent, goals: Latent) -> Tensor:
        asked.append((latents.lead, goals.lead))
        return torch.full((1, 2, 3, FRAMESKIP * 2), 0.5)

    config = PlannerConfig(horizon=3, num_samples=8, num_elites=2, num_iterations_warm=1, init_std=1e-6, min_std=0.0)
    agent = Agent(build_world_model(spec).eval(), spec, config, replan_every=1, starts=starts)
    seen, goals = agent.observations([observation(1)]), agent.observations([observation(2)])
    agent.reset(seen, goals)
    chunks = agent.act([torch.Generator().manual_seed(0)])
    # The spread is next to nothing, so the plan is where it started.
    torch.testing.assert_close(chunks, torch.full_like(chunks, 0.5), rtol=0, atol=1e-4)
    agent.observe(seen)
    agent.act([torch.Generator().manual_seed(1)])
    assert asked == [((1, 1), (1,)), ((1, 2), (1,))]


def test_a_search_under_inference_mode_says_that_no_gradient_passes() -> None:
    torch.manual_seed(0)
    spec = spec_of("adaln")
    agent = Agent(build_world_model(spec).eval(), spec, PlannerConfig(name="gradient", horizon=2, num_samples=4))
    with torch.inference_mode(), pytest.raises(PlanningError, match="lets no gradient pass"):
        agent.plan(observation(1), observation(2))
