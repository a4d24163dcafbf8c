"""Visual encoders: `[B,T,C,Y,X]` uint8 frames to `[B,T,P,D]` latents."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from jepawm.config.encoder import EncoderConfig
from jepawm.config.tagged import import_object
from jepawm.encoders.absent import AbsentEncoder
from jepawm.encoders.base import Encoder
from jepawm.encoders.conv import ConvEncoder
from jepawm.encoders.dino import DINOv2Encoder, DINOv3Encoder
from jepawm.encoders.frozen import FrozenEncoder
from jepawm.encoders.pixel_statistics import PixelStatisticsEncoder
from jepawm.encoders.resnet import ResNetEncoder
from jepawm.encoders.vit import ViTEncoder
from jepawm.encoders.vjepa import VJEPAEncoder
from jepawm.encoders.vjepa2_1 import VJEPA21Encoder
from jepawm.nn.precision import at_least_float32
from jepawm.nn.projector import Projector

__all__ = [
    "AbsentEncoder",
    "ConvEncoder",
    "DINOv2Encoder",
    "DINOv3Encoder",
    "Encoder",
    "EncoderStack",
    "FrozenEncoder",
    "PixelStatisticsEncoder",
    "ResNetEncoder",
    "VJEPA21Encoder",
    "VJEPAEncoder",
    "ViTEncoder",
    "build_encoder",
]


class EncoderStack(Encoder):
    """An encoder with a projector behind it, or frozen, or both.

    Frozen, no parameter trains, normalisations keep their statistics whatever mode the parent is put in, and no graph
    is recorded; that goes for the projector too.

    Args:
        encoder: The encoder.
        projector_dim: Hidden width of the projector; None: no projector.
        trainable: Whether any of it trains.
    """

    def __init__(self, encoder: Encoder, *, projector_dim: int | None, trainable: bool) -> None:
        super().__init__(grid=encoder.grid, latent_dim=encoder.latent_dim, frames_per_latent=encoder.frames_per_latent)
        self.encoder = encoder
        D = encoder.latent_dim
        self.projector: nn.Module = Projector(D, projector_dim, D) if projector_dim else nn.Identity()
        self.trainable = trainable
        if not trainable:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "EncoderStack":
        """Evaluation mode is kept when frozen."""
        super().train(mode and self.trainable)
        return self

    def forward(self, pixels_BTCYX: Shaped[Tensor, "B T C Y X"]) -> Float[Tensor, "B L P D"]:
        """See `FrameEncoder.forward`."""
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            return at_least_float32(self.projector(self.encoder(pixels_BTCYX)))


def build_encoder(config: EncoderConfig, image_size: int) -> Encoder:
    """The encoder that a configuration names, with its weights, projector and whether it trains.

    Pretrained and frozen, its weights are read when the first frames are encoded; see `FrozenEncoder`.

    Args:
        config: Of the encoder.
        image_size: Side of the square frames, pixels.

    Raises:
        ConfigError: Sides or widths that do not go together.
        CheckpointError: A weight file that is missing, damaged, or of another model.
        MissingDependencyError: The encoder is timm's, and timm is not installed.
    """
    if config.weights_source is not None and not config.trainable:
        return FrozenEncoder(config, image_size, _bare)
    encoder = _bare(config, image_size)
    if config.trainable and config.projector_dim is None:
        return encoder
    return EncoderStack(encoder, projector_dim=config.projector_dim, trainable=config.trainable)


def _bare(config: EncoderConfig, image_size: int) -> Encoder:
    encoder: Encoder = import_object(config.implementation, "model.encoder.name")(config, image_size)
    return encoder
