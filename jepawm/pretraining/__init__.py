"""Self-supervised pretraining of video encoders by mask-denoising in latent space (V-JEPA 2, V-JEPA 2.1)."""

from jepawm.pretraining.objective import (
    MaskedClips,
    Pretraining,
    PretrainingTerms,
    build_pretraining,
    token_losses,
)
from jepawm.pretraining.predictor import MaskPredictor, load_mask_predictor
from jepawm.pretraining.teacher import Teacher

__all__ = [
    "MaskPredictor",
    "MaskedClips",
    "Pretraining",
    "PretrainingTerms",
    "Teacher",
    "build_pretraining",
    "load_mask_predictor",
    "token_losses",
]
