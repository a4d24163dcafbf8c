"""Search space of the optimizer and of the loss weights."""

from typing import Any

from ray import tune


def optimizer_space() -> dict[str, Any]:
    """Learning rate, weight decay, and the weights of the loss terms that keep the latents from collapsing."""
    return {
        "optim.learning_rate": tune.loguniform(1e-4, 3e-3),
        "optim.weight_decay": tune.loguniform(1e-6, 1e-2),
        "loss.variance": tune.loguniform(4.0, 64.0),
        "loss.covariance": tune.loguniform(2.0, 32.0),
        "loss.time_similarity": tune.loguniform(1.0, 24.0),
    }
