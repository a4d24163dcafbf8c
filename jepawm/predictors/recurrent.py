"""Gated recurrent units over the frames of the window."""

import torch
from torch import Tensor, nn

from jepawm.config.predictor import RecurrentPredictorConfig
from jepawm.nn.precision import at_least_float32, like_weights
from jepawm.predictors.base import Predicted, Predictor
from jepawm.types import LatentSpec


class RecurrentPredictor(Predictor):
    """`h[t] = GRU([z[t], action[t]], h[t-1])`, `z[t+1] = z[t] + W h[t]`, from a zero state at the window's first frame.

    Args:
        config: Width, layers and `context_window`.
        latents: Shapes of the latents and action chunks; all patches are read and predicted together, so `P` should be
            small.

    Reference: Cho et al. 2014, arXiv 1406.1078.
    """

    casts_inputs = True

    def __init__(self, config: RecurrentPredictorConfig, latents: LatentSpec) -> None:
        super().__init__(config, latents)
        width, action_dim = latents.num_patches * latents.dim, latents.chunk_dim
        self.units = nn.GRU(width + action_dim, config.hidden_dim, config.num_layers, batch_first=True)
        self.residual = nn.Linear(config.hidden_dim, width)

    def successors(
        self, visual_BTPD: Tensor, actions_BTA: Tensor, proprio_BTQE: Tensor | None, *, last_only: bool
    ) -> Predicted:
        flat_BTF = torch.cat([visual_BTPD.flatten(2), actions_BTA.to(visual_BTPD.dtype)], dim=-1)
        hidden_BTh, _ = self.units(like_weights(flat_BTF, self.units))
        if last_only:
            hidden_BTh, visual_BTPD = hidden_BTh[:, -1:], visual_BTPD[:, -1:]
        return visual_BTPD + at_least_float32(self.residual(hidden_BTh)).view_as(visual_BTPD), None
