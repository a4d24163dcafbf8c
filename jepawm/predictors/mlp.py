"""A residual multi-layer perceptron on the latents of the context window and the action chunks between them."""

import torch
from torch import Tensor

from jepawm.config.predictor import MLPPredictorConfig
from jepawm.nn.mlp import mlp
from jepawm.nn.precision import at_least_float32, like_weights
from jepawm.predictors.base import Predicted, Predictor
from jepawm.types import LatentSpec


class MLPPredictor(Predictor):
    """`z[t+1] = z[t] + f(z[t-W+1 .. t], action[t-W+1 .. t])`, with `W` the context window.

    A proprio token is read beside the latent at each of these frames; it is not predicted.

    Where fewer than `W` frames came before, the oldest is repeated and its action is zero (the data's mean action,
    for actions arrive normalised), which says: it has stood still.

    Args:
        config: Width, depth and `context_window`.
        latents: Shapes of the latents and action chunks; all patches are read and predicted together, so `P` should be
            small.
    """

    casts_inputs = True

    def __init__(self, config: MLPPredictorConfig, latents: LatentSpec) -> None:
        super().__init__(config, latents)
        width = latents.num_patches * latents.dim
        read = width + latents.num_proprio_tokens * latents.proprio_dim + latents.chunk_dim
        self.residual = mlp(self.context_window * read, config.hidden_dim, width, config.num_layers)

    def successors(
        self, visual_BTPD: Tensor, actions_BTA: Tensor, proprio_BTQE: Tensor | None, *, last_only: bool
    ) -> Predicted:
        T = visual_BTPD.shape[1]
        read = [visual_BTPD.flatten(2), actions_BTA.to(visual_BTPD.dtype)]
        if proprio_BTQE is not None:
            read.insert(1, proprio_BTQE.flatten(2).to(visual_BTPD.dtype))
        flat_BTF = torch.cat(read, dim=-1)
        if self.context_window > 1:
            still = flat_BTF[:, :1].clone()
            still[..., -actions_BTA.shape[-1] :] = 0
            padded = torch.cat([still.expand(-1, self.context_window - 1, -1), flat_BTF], dim=1)
            flat_BTF = torch.cat([padded[:, i : i + T] for i in range(self.context_window)], dim=-1)
        if last_only:
            flat_BTF, visual_BTPD = flat_BTF[:, -1:], visual_BTPD[:, -1:]
        residual_BTF = self.residual(like_weights(flat_BTF, self.residual))
        return visual_BTPD + at_least_float32(residual_BTF).view_as(visual_BTPD), None
