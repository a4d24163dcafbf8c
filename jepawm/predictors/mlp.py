"""A residual multi-layer perceptron on the latents of the context window and the action chunks between them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config import PredictorConfig
from jepawm.nn.mlp import mlp


class MLPPredictor(nn.Module):
    """`z[t+1] = z[t] + f(z[t-W+1 .. t], action[t-W+1 .. t])`, with `W` the context window.

    Where fewer than `W` frames came before, the oldest is repeated and its action is zero (the data's mean action,
    for actions arrive normalised), which says: it has stood still.

    Args:
        config: Width, depth and `context_window`.
        num_patches: Patches `P`; they are read and predicted together, so `P` should be small.
        latent_dim: Latent width `D`.
        action_dim: Chunk width `A`.
    """

    def __init__(self, config: PredictorConfig, *, num_patches: int, latent_dim: int, action_dim: int) -> None:
        super().__init__()
        self.context_window = config.context_window
        width = num_patches * latent_dim
        self.residual = mlp(self.context_window * (width + action_dim), config.hidden_dim, width, config.num_layers)

    def forward(
        self, latents_BTPD: Float[Tensor, "B T P D"], actions_BTA: Float[Tensor, "B T A"]
    ) -> Float[Tensor, "B T P D"]:
        """Predicts the successor of every frame from that frame and those before it.

        Args:
            latents_BTPD: `[B,T,P,D]` latents.
            actions_BTA: `[B,T,A]` normalised chunks; chunk `t` is executed from frame `t` on.

        Returns:
            `[B,T,P,D]`; entry `t` predicts frame `t + 1`.
        """
        T = latents_BTPD.shape[1]
        flat_BTF = torch.cat([latents_BTPD.flatten(2), actions_BTA.to(latents_BTPD.dtype)], dim=-1)
        if self.context_window > 1:
            still = flat_BTF[:, :1].clone()
            still[..., -actions_BTA.shape[-1] :] = 0
            padded = torch.cat([still.expand(-1, self.context_window - 1, -1), flat_BTF], dim=1)
            flat_BTF = torch.cat([padded[:, i : i + T] for i in range(self.context_window)], dim=-1)
        return latents_BTPD + self.residual(flat_BTF).float().view_as(latents_BTPD)
