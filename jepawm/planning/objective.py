"""Objectives: predicted latents to cost."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepawm.config.objective import Distance, ObjectiveConfig
from jepawm.errors import PlanningError
from jepawm.latent import Latent


def _l2(part: Tensor, goal: Tensor) -> Tensor:
    return (part - goal).square().mean(dim=(-2, -1))


def _l1(part: Tensor, goal: Tensor) -> Tensor:
    return (part - goal).abs().mean(dim=(-2, -1))


def _cosine(part: Tensor, goal: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(part.flatten(-2), goal.expand_as(part).flatten(-2), dim=-1)


_DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {"l2": _l2, "l1": _l1, "cosine": _cosine}


def compared_parts(latent: Latent, config: ObjectiveConfig) -> dict[str, Tensor]:
    """The parts of a latent that are compared, by name: of proprio, the numbers that `objective.proprio_dims` names.

    Raises:
        PlanningError: A number that proprio does not have.
    """
    parts = latent.parts()
    if config.proprio_dims and "proprio" in parts:
        width = parts["proprio"].shape[-1]
        if max(config.proprio_dims) >= width:
            raise PlanningError(
                f"objective.proprio_dims names number {max(config.proprio_dims)}, the proprio part of the latents has "
                f"numbers 0 to {width - 1}"
            )
        parts["proprio"] = parts["proprio"][..., list(config.proprio_dims)]
    return parts


class GoalDistance:
    """Distance of predicted latents to the goal's: of visual tokens, and with a weight of proprio.

    `cost = sum over h in S of [d(z[h], goal) + proprio_weight * d(proprio[h], goal's proprio)]`, where `S` is the last
    model step of a plan (`last`: arrive at the end) or all of them (`sum`: arrive soon, and stay). Replanning at every
    chunk needs `sum`: the end of the plan never comes there.

    Args:
        config: Distance, weighting over the horizon, proprio weight.
        goal: Latents `[B]` of the goals.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983, section 3.3 (last); Sobal et al. 2025, PLDM,
        arXiv 2502.14819 (sum); Assran et al. 2025, V-JEPA 2, arXiv 2506.09985 (l1).
    """

    def __init__(self, config: ObjectiveConfig, goal: Latent) -> None:
        self.config = config
        self.goal = goal[:, None, None]
        self._distance = _DISTANCES[config.distance]
        self._weights = {"visual": 1.0, "proprio": config.proprio_weight}

    def __call__(self, latents: Latent) -> Float[Tensor, "B N"]:
        """Predicted latents `[B,N,H]` to `[B,N]` costs."""
        if self.config.weighting == "last":
            latents = latents[:, :, -1:]
        compared, goals = compared_parts(latents, self.config), compared_parts(self.goal, self.config)
        distance_BNH = sum(self._weights[name] * self._distance(part, goals[name]) for name, part in compared.items())
        return torch.as_tensor(distance_BNH).sum(dim=-1)
