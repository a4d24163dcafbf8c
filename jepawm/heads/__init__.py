"""Heads that read something from latents: actions, states and frames."""

from jepawm.heads.image import ImageHead, load_image_head
from jepawm.heads.inverse_dynamics import InverseDynamicsHead
from jepawm.heads.state import StateHead, load_state_head
from jepawm.heads.transposed_conv import TransposedConvDecoder, load_transposed_conv_decoder
from jepawm.heads.vqvae import VQVAEDecoder, load_vqvae_decoder

__all__ = [
    "ImageHead",
    "InverseDynamicsHead",
    "StateHead",
    "TransposedConvDecoder",
    "VQVAEDecoder",
    "load_image_head",
    "load_state_head",
    "load_transposed_conv_decoder",
    "load_vqvae_decoder",
]
