"""Predictors: latents and action chunks to the next latents."""

from jepawm.config import PredictorConfig
from jepawm.predictors.mlp import MLPPredictor

__all__ = ["MLPPredictor", "build_predictor"]


def build_predictor(config: PredictorConfig, *, num_patches: int, latent_dim: int, action_dim: int) -> MLPPredictor:
    """The predictor that a configuration names.

    Args:
        config: Which predictor, and its size.
        num_patches: Patches `P` of a latent.
        latent_dim: Width `D` of a latent.
        action_dim: Width `A` of an action chunk.
    """
    return MLPPredictor(config, num_patches=num_patches, latent_dim=latent_dim, action_dim=action_dim)
