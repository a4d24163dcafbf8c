"""Search space of the predictor."""

from typing import Any

from ray import tune


def predictor_space() -> dict[str, Any]:
    """Width, depth and how far back the predictor sees."""
    return {
        "model.predictor.hidden_dim": tune.choice([128, 256, 512]),
        "model.predictor.num_layers": tune.choice([1, 2, 3]),
        "model.predictor.context_window": tune.choice([1, 2]),
    }
