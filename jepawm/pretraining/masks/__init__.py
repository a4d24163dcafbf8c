"""Which tokens of a clip the encoder sees and which it predicts: one strategy a module, behind one small protocol."""

from jepawm.config.masking import MaskConfig
from jepawm.config.tagged import import_object
from jepawm.pretraining.masks.base import Cues, MaskSet, MaskStrategy, TokenGrid
from jepawm.pretraining.masks.learned import DrawnGroup, LearnedMasks, ScorerTerms
from jepawm.pretraining.masks.summary import RealisedMasks, mean_shares, realised

__all__ = [
    "Cues",
    "DrawnGroup",
    "LearnedMasks",
    "MaskSet",
    "MaskStrategy",
    "RealisedMasks",
    "ScorerTerms",
    "TokenGrid",
    "build_masks",
    "mean_shares",
    "realised",
]


def build_masks(config: MaskConfig, latent_dim: int) -> MaskStrategy:
    """The strategy that a configuration names.

    Args:
        config: Which strategy, and its mask sets.
        latent_dim: Width `D` of the teacher's tokens.
    """
    strategy: MaskStrategy = import_object(config.implementation, "masks.name")(config, latent_dim)
    return strategy
