"""Predictors: latents and action chunks to the next latents."""

from jepawm.config.predictor import PredictorConfig
from jepawm.config.tagged import import_object
from jepawm.predictors.adaln import AdaLNPredictor
from jepawm.predictors.base import Predictor
from jepawm.predictors.causal import CausalPredictor
from jepawm.predictors.feature import FeaturePredictor
from jepawm.predictors.mlp import MLPPredictor
from jepawm.predictors.recurrent import RecurrentPredictor
from jepawm.predictors.tokens import TokenPredictor
from jepawm.types import LatentSpec

__all__ = [
    "AdaLNPredictor",
    "CausalPredictor",
    "FeaturePredictor",
    "MLPPredictor",
    "Predictor",
    "RecurrentPredictor",
    "TokenPredictor",
    "build_predictor",
]


def build_predictor(config: PredictorConfig, latents: LatentSpec) -> Predictor:
    """The predictor that a configuration names.

    Args:
        config: Which predictor, and its size.
        latents: Shapes of the latents and action chunks it reads.

    Raises:
        ConfigError: Widths that do not go together.
    """
    predictor: Predictor = import_object(config.implementation, "model.predictor.name")(config, latents)
    return predictor
