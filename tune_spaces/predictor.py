"""Search space of the predictor `mlp`."""

from typing import Any

from ray import tune


def predictor_space() -> dict[str, Any]:
    """Width, depth and context window, for `model.predictor.name = mlp`."""
    return {
        "model.predictor.hidden_dim": tune.choice([128, 256, 512]),
        "model.predictor.num_layers": tune.choice([1, 2, 3]),
        "model.predictor.context_window": tune.choice([1, 2]),
    }
