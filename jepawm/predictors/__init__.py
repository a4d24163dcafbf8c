"""Predictors: latents and action chunks to the next latents."""

from jepawm.config import PredictorConfig
from jepawm.predictors.adaln import AdaLNPredictor
from jepawm.predictors.base import Predictor, ProprioEncoding
from jepawm.predictors.feature import FeaturePredictor
from jepawm.predictors.mlp import MLPPredictor
from jepawm.predictors.recurrent import RecurrentPredictor
from jepawm.predictors.tokens import TokenPredictor

__all__ = [
    "AdaLNPredictor",
    "FeaturePredictor",
    "MLPPredictor",
    "Predictor",
    "RecurrentPredictor",
    "TokenPredictor",
    "build_predictor",
]

_OVER_PATCHES = {"adaln": AdaLNPredictor, "feature": FeaturePredictor, "vjepa2_ac": TokenPredictor}
_OVER_VECTORS = {"mlp": MLPPredictor, "recurrent": RecurrentPredictor}


def build_predictor(
    config: PredictorConfig,
    *,
    grid: tuple[int, int],
    latent_dim: int,
    action_dim: int,
    proprio: ProprioEncoding = "none",
    proprio_dim: int = 0,
) -> Predictor:
    """The predictor that a configuration names.

    Args:
        config: Which predictor, and its size.
        grid: Rows and columns of a latent's patches.
        latent_dim: Width `D` of a latent.
        action_dim: Width `A` of an action chunk.
        proprio: How proprio enters: not at all, as features of each patch, or as a token of its own.
        proprio_dim: Width `E` of the proprio latent.
    """
    if config.name in _OVER_VECTORS:
        return _OVER_VECTORS[config.name](
            config, num_patches=grid[0] * grid[1], latent_dim=latent_dim, action_dim=action_dim
        )
    return _OVER_PATCHES[config.name](
        config,
        grid=grid,
        latent_dim=latent_dim,
        action_dim=action_dim,
        proprio=proprio,
        proprio_dim=proprio_dim,
    )
