"""Visual encoders: `[B,T,C,Y,X]` uint8 frames to `[B,T,P,D]` latents."""

from jepawm.config import EncoderConfig
from jepawm.encoders.conv import ConvEncoder

__all__ = ["ConvEncoder", "build_encoder"]


def build_encoder(config: EncoderConfig, image_size: int) -> ConvEncoder:
    """The encoder that a configuration names, for square frames of `image_size` pixels."""
    return ConvEncoder(config, image_size)
