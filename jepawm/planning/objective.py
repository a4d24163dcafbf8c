"""Objectives: predicted latents to cost."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.latent import Latent


class GoalDistance:
    """Mean squared distance of predicted latents to the goal's: of visual tokens, and with a weight of proprio.

    Args:
        goal: Latents `[B]` of the goals.
        weighting: `last`: of the last predicted latent (arrive at the end); `sum`: over all of them (arrive soon, and
            stay), which is what replanning at every chunk needs: there the end of the plan never comes.
        proprio_weight: Weight of the proprio part, for models that have one.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983, section 3.3 (last); Sobal et al. 2025, PLDM,
        arXiv 2502.14819 (sum).
    """

    def __init__(self, goal: Latent, weighting: Literal["last", "sum"], *, proprio_weight: float = 0.1) -> None:
        self.goal = goal[:, None, None]
        self.weighting = weighting
        self.weights = {"visual": 1.0, "proprio": proprio_weight}

    def __call__(self, latents: Latent) -> Float[Tensor, "B N"]:
        """Predicted latents `[B,N,H]` to `[B,N]` costs."""
        if self.weighting == "last":
            latents = latents[:, :, -1:]
        goals = self.goal.parts()
        distance_BNH = sum(
            self.weights[name] * (part - goals[name]).square().mean(dim=(-2, -1))
            for name, part in latents.parts().items()
        )
        return torch.as_tensor(distance_BNH).sum(dim=-1)
