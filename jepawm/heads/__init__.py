"""Heads that read something from latents."""

from jepawm.heads.inverse_dynamics import InverseDynamicsHead

__all__ = ["InverseDynamicsHead"]
