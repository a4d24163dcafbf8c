"""The teacher: a moving average of the encoder, which sees the whole clip."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.encoders.video import VideoTransformer
from jepawm.nn.precision import at_least_float32

_EPS = 1e-5


class Teacher(nn.Module):
    """A copy of an encoder whose parameters follow it as a moving average, and never train.

    Its state is part of a checkpoint like any module's.

    Args:
        encoder: Copied as it is now.

    Attributes:
        encoder: The copy, always in evaluation mode.

    Reference: Tarvainen and Valpola 2017, arXiv 1703.01780; for latents, Grill et al. 2020, BYOL, arXiv 2006.07733.
    """

    def __init__(self, encoder: VideoTransformer) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Evaluation mode is kept."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips_BCTYX: Float[Tensor, "B C T Y X"], num_levels: int = 1) -> Float[Tensor, "B L E"]:
        """Targets: normalised tokens of whole clips.

        Args:
            clips_BCTYX: `[B,C,T,Y,X]` normalised frames.
            num_levels: Depths of the encoder that are read, `K`.

        Returns:
            `[B,L,K*D]` float32, every level of every token with mean 0 and deviation 1; no gradient.
        """
        tokens = self.encoder.levels(self.encoder.embed(clips_BCTYX), num_levels=num_levels)
        return normalised_levels(tokens, num_levels)

    @torch.no_grad()
    def update(self, encoder: nn.Module, momentum: float) -> None:
        """Takes in the encoder's parameters after a train step: `momentum * own + (1 - momentum) * encoder's`.

        Args:
            encoder: The one that trains.
            momentum: In [0, 1].
        """
        own: list[Tensor] = list(self.encoder.parameters())
        other: list[Tensor] = list(encoder.parameters())
        torch._foreach_mul_(own, momentum)
        torch._foreach_add_(own, other, alpha=1 - momentum)


def normalised_levels(tokens_BLE: Float[Tensor, "B L E"], num_levels: int) -> Float[Tensor, "B L E"]:
    """Layer normalisation without parameters of each level's `E / num_levels` channels, in float32."""
    levels = at_least_float32(tokens_BLE).unflatten(-1, (num_levels, -1))
    return F.layer_norm(levels, levels.shape[-1:], eps=_EPS).flatten(-2)
