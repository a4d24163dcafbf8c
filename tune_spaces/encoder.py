"""Search space of the visual encoder `conv`."""

from typing import Any

from ray import tune


def encoder_space() -> dict[str, Any]:
    """Width of the latent and of the layer before it, for `model.encoder.name = conv`."""
    return {
        "model.encoder.latent_dim": tune.choice([32, 64, 128]),
        "model.encoder.hidden_dim": tune.choice([128, 256, 512]),
    }
