"""Objectives: predicted latents to cost."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor


class GoalDistance:
    """Mean squared distance of predicted latents to the goal's.

    Args:
        goal_BPD: `[B,P,D]` latents of the goal images.
        weighting: `last`: of the last predicted latent (arrive at the end); `sum`: over all of them (arrive soon, and
            stay), which is what replanning at every chunk needs: there the end of the plan never comes.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983, section 3.3 (last); Sobal et al. 2025, PLDM,
        arXiv 2502.14819 (sum).
    """

    def __init__(self, goal_BPD: Float[Tensor, "B P D"], weighting: Literal["last", "sum"]) -> None:
        self.goal_B11PD = goal_BPD[:, None, None]
        self.weighting = weighting

    def __call__(self, latents_BNHPD: Float[Tensor, "B N H P D"]) -> Float[Tensor, "B N"]:
        """`[B,N,H,P,D]` predicted latents to `[B,N]` costs."""
        if self.weighting == "last":
            latents_BNHPD = latents_BNHPD[:, :, -1:]
        distance_BNH = (latents_BNHPD - self.goal_B11PD).square().mean(dim=(-2, -1))
        return distance_BNH.sum(dim=-1)
