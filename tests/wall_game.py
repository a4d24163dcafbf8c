"""A small model and the rules of a game in Wall, for tests of planner hosts."""

import numpy as np
import torch

from jepawm.checkpoints.model_folder import ModelSpec, build_world_model
from jepawm.config import (
    EncoderConfig,
    EnvConfig,
    ModelConfig,
    ObjectiveConfig,
    PlannerConfig,
    PredictorConfig,
    ProprioConfig,
    ProtocolConfig,
)
from jepawm.evaluation.planner_host import Game
from jepawm.types import ActionSpec, Statistics
from jepawm.world_model import WorldModel

WALL = EnvConfig(id="envs:envs/Wall-v1", image_size=32)
GAME = Game(
    protocol=ProtocolConfig(2, 4, "plan_end"),
    planner=PlannerConfig(horizon=4, num_samples=16, num_elites=4, num_iterations=2, precision="float32"),
    objective=ObjectiveConfig(),
    seed=3,
    measures_distance=True,
)


def wall_spec() -> ModelSpec:
    """A model that reads pixels and proprio of Wall at 32 px."""
    encoder = EncoderConfig(latent_dim=8, channels=(4, 8), kernel_sizes=(5, 3), strides=(4, 2), hidden_dim=16)
    predictor = PredictorConfig(name="adaln", depth=1, num_heads=2, mlp_dim=16, context_window=3)
    statistics = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 32, 16)))
    model = ModelConfig(encoder, predictor, ProprioConfig("feature", dims=4))
    return ModelSpec(model, 32, 5, statistics, ActionSpec(2, (-2.0, -2.0), (2.0, 2.0), max_norm=1.8))


def wall_model(spec: ModelSpec) -> WorldModel:
    """The model, untrained."""
    torch.manual_seed(0)
    return build_world_model(spec).eval()
