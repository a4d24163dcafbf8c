"""Heads that read something from latents: frames, states, actions, and how far a goal is away."""

from jepawm.heads.image import ImageHead, load_image_head
from jepawm.heads.inverse_dynamics import InverseDynamicsHead
from jepawm.heads.pairs import DistanceHead, GoalInverseDynamicsHead
from jepawm.heads.registry import build_head
from jepawm.heads.shape import HeadShape
from jepawm.heads.state import StateHead, load_state_head
from jepawm.heads.transposed_conv import TransposedConvDecoder, load_transposed_conv_decoder
from jepawm.heads.vqvae import VQVAEDecoder, load_vqvae_decoder

__all__ = [
    "DistanceHead",
    "GoalInverseDynamicsHead",
    "HeadShape",
    "ImageHead",
    "InverseDynamicsHead",
    "StateHead",
    "TransposedConvDecoder",
    "VQVAEDecoder",
    "build_head",
    "load_image_head",
    "load_state_head",
    "load_transposed_conv_decoder",
    "load_vqvae_decoder",
]
