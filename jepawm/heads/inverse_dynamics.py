"""Reads the action chunk that lies between two latents."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.nn.mlp import mlp
from jepawm.nn.precision import at_least_float32


class InverseDynamicsHead(nn.Module):
    """`(z[t], z[t+1]) -> action chunk`; used while training only, so that latents keep what actions change.

    Args:
        num_patches: Patches `P`.
        latent_dim: Latent width `D`.
        action_dim: Chunk width `A`.
        hidden_dim: Width of the one hidden layer.
    """

    def __init__(self, num_patches: int, latent_dim: int, action_dim: int, hidden_dim: int = 256) -> None:
        super().__init__()
        self.net = mlp(2 * num_patches * latent_dim, hidden_dim, action_dim, num_layers=1)

    def forward(self, latents_BTPD: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T-1 A"]:
        """`[B,T,P,D]` latents to `[B,T-1,A]` normalised chunks."""
        flat = latents_BTPD.flatten(2)
        return at_least_float32(self.net(torch.cat([flat[:, :-1], flat[:, 1:]], dim=-1)))
