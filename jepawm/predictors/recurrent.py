"""Gated recurrent units over the frames of the window."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config import PredictorConfig
from jepawm.predictors.base import Predicted, Predictor, check_proprio, check_window


class RecurrentPredictor(Predictor):
    """`h[t] = GRU([z[t], action[t]], h[t-1])`, `z[t+1] = z[t] + W h[t]`, from a zero state at the window's first frame.

    Args:
        config: Width, layers and `context_window`.
        num_patches: Patches `P`; they are read and predicted together, so `P` should be small.
        latent_dim: Latent width `D`.
        action_dim: Chunk width `A`.

    Reference: Cho et al. 2014, arXiv 1406.1078.
    """

    def __init__(self, config: PredictorConfig, *, num_patches: int, latent_dim: int, action_dim: int) -> None:
        super().__init__()
        self.context_window = config.context_window
        self.num_patches, self.latent_dim = num_patches, latent_dim
        width = num_patches * latent_dim
        self.units = nn.GRU(width + action_dim, config.hidden_dim, config.num_layers, batch_first=True)
        self.residual = nn.Linear(config.hidden_dim, width)

    def forward(
        self,
        visual_BTPD: Float[Tensor, "B T P D"],
        actions_BTA: Float[Tensor, "B T A"],
        proprio_BTQE: Float[Tensor, "B T Q E"] | None = None,
        *,
        last_only: bool = False,
    ) -> Predicted:
        """Predicts the successor of every frame; see `Predictor`."""
        check_window(visual_BTPD, patches=self.num_patches, width=self.latent_dim)
        check_proprio(proprio_BTQE, tokens=0, width=0)
        flat_BTF = torch.cat([visual_BTPD.flatten(2), actions_BTA.to(visual_BTPD.dtype)], dim=-1)
        hidden_BTh, _ = self.units(flat_BTF)
        if last_only:
            hidden_BTh, visual_BTPD = hidden_BTh[:, -1:], visual_BTPD[:, -1:]
        return visual_BTPD + self.residual(hidden_BTh).float().view_as(visual_BTPD), None
