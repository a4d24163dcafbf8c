"""Self-supervised pretraining of video encoders by mask-denoising in latent space (V-JEPA 2)."""

from jepawm.pretraining.predictor import MaskPredictor, denoising_targets, load_mask_predictor, mask_denoising_loss

__all__ = ["MaskPredictor", "denoising_targets", "load_mask_predictor", "mask_denoising_loss"]
