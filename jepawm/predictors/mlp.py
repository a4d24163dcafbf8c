"""A residual multi-layer perceptron on the latents of the context window and the action chunks between them."""

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config import PredictorConfig
from jepawm.nn.mlp import mlp
from jepawm.predictors.base import Predicted, Predictor, check_proprio, check_window


class MLPPredictor(Predictor):
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
        self.num_patches, self.latent_dim = num_patches, latent_dim
        width = num_patches * latent_dim
        self.residual = mlp(self.context_window * (width + action_dim), config.hidden_dim, width, config.num_layers)

    def forward(
        self,
        visual_BTPD: Float[Tensor, "B T P D"],
        actions_BTA: Float[Tensor, "B T A"],
        proprio_BTQE: Float[Tensor, "B T Q E"] | None = None,
        *,
        last_only: bool = False,
    ) -> Predicted:
        """Predicts the successor of every frame from that frame and the `W - 1` before it; see `Predictor`."""
        check_window(visual_BTPD, patches=self.num_patches, width=self.latent_dim)
        check_proprio(proprio_BTQE, tokens=0, width=0)
        T = visual_BTPD.shape[1]
        flat_BTF = torch.cat([visual_BTPD.flatten(2), actions_BTA.to(visual_BTPD.dtype)], dim=-1)
        if self.context_window > 1:
            still = flat_BTF[:, :1].clone()
            still[..., -actions_BTA.shape[-1] :] = 0
            padded = torch.cat([still.expand(-1, self.context_window - 1, -1), flat_BTF], dim=1)
            flat_BTF = torch.cat([padded[:, i : i + T] for i in range(self.context_window)], dim=-1)
        if last_only:
            flat_BTF, visual_BTPD = flat_BTF[:, -1:], visual_BTPD[:, -1:]
        return visual_BTPD + self.residual(flat_BTF).float().view_as(visual_BTPD), None
