"""Objectives: predicted latents to cost."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepawm.config.objective import ObjectiveConfig
from jepawm.errors import PlanningError
from jepawm.latent import Latent

LatentDistance = Callable[[Latent, Latent], Tensor]
"""Predicted latents `[B,N,H]` and the goals' `[B,1,1]` to distances `[B,N,H]`, lower is nearer."""

TemporalHead = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""Visual tokens, the goals' visual tokens, proprio part and the goals' proprio part to model steps `[B,N,H]`; leading
axes broadcast. `jepawm.heads.DistanceHead` is one."""


def _l2(part: Tensor, goal: Tensor) -> Tensor:
    return (part - goal).square().mean(dim=(-2, -1))


def _l1(part: Tensor, goal: Tensor) -> Tensor:
    return (part - goal).abs().mean(dim=(-2, -1))


def _cosine(part: Tensor, goal: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(part.flatten(-2), goal.expand_as(part).flatten(-2), dim=-1)


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": _l2, "l1": _l1, "cosine": _cosine}


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


class TokenDistance:
    """Distance of visual tokens, and with a weight of proprio tokens: `d(z, g) + proprio_weight * d(p, g_p)`.

    Args:
        config: Distance, what is compared, proprio weight.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983, section 3.3; Assran et al. 2025, V-JEPA 2,
        arXiv 2506.09985 (l1).
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self._config = config
        self._distance = _DISTANCES[config.distance]
        self._pooled = config.patches == "pooled"
        self._weights = {"visual": 1.0, "proprio": config.proprio_weight}

    def __call__(self, latents: Latent, goal: Latent) -> Float[Tensor, "B N H"]:
        """Predicted latents `[B,N,H]` and the goals' `[B,1,1]` to distances."""
        compared, goals = compared_parts(latents, self._config), compared_parts(goal, self._config)
        distances = (
            self._weights[name] * self._distance(self._tokens(part), self._tokens(goals[name]))
            for name, part in compared.items()
        )
        return torch.as_tensor(sum(distances))

    def _tokens(self, part: Tensor) -> Tensor:
        return part.mean(dim=-2, keepdim=True) if self._pooled else part


class TemporalDistance:
    """Model steps from predicted latents to the goal's, as a trained head reads them.

    Args:
        head: The head, on the device of the latents.

    Reference: Hartikainen et al. 2019, Dynamical Distance Learning, arXiv 1907.08225.
    """

    def __init__(self, head: TemporalHead) -> None:
        self._head = head

    def __call__(self, latents: Latent, goal: Latent) -> Float[Tensor, "B N H"]:
        """Predicted latents `[B,N,H]` and the goals' `[B,1,1]` to model steps."""
        return self._head(latents.visual, goal.visual, latents.proprio, goal.proprio)


class GoalDistance:
    """Cost of candidates: distances of their predicted latents to the goal's, weighted over the model steps.

    `cost = sum over h in 1..H of w[h] * d(z[h], goal)`. With `last`, `w` is 1 at the last model step and 0 before it
    (arrive at the end); with `sum` it is 1 at every step (arrive soon, and stay); with `weighted` it is given.
    Replanning at every chunk needs more than `last`: the end of the plan never comes there.

    Args:
        config: Weighting over the model steps.
        goal: Latents `[B]` of the goals.
        distance: Of two latents; None: the one of tokens that `config` names.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983, section 3.3 (last); Sobal et al. 2025, PLDM,
        arXiv 2502.14819 (sum).
    """

    def __init__(self, config: ObjectiveConfig, goal: Latent, distance: LatentDistance | None = None) -> None:
        self.config = config
        self.goal = goal[:, None, None]
        self._distance = TokenDistance(config) if distance is None else distance

    def __call__(self, latents: Latent) -> Float[Tensor, "B N"]:
        """Predicted latents `[B,N,H]` to `[B,N]` costs.

        Raises:
            PlanningError: Plans of more model steps than there are weights, or distances of a wrong shape.
        """
        if self.config.weighting == "last":
            latents = latents[:, :, -1:]
        distance_BNH = self._distance(latents, self.goal)
        if distance_BNH.shape != latents.lead:
            raise PlanningError(
                f"objective.distance '{self.config.distance}' must give a distance for each predicted latent, "
                f"{list(latents.lead)}; found {list(distance_BNH.shape)}"
            )
        if self.config.weighting == "weighted":
            distance_BNH = distance_BNH * self._step_weights(distance_BNH)
        return distance_BNH.sum(dim=-1)

    def _step_weights(self, distance_BNH: Tensor) -> Float[Tensor, " H"]:
        weights, horizon = self.config.step_weights, distance_BNH.shape[-1]
        if horizon > len(weights):
            raise PlanningError(
                f"objective.step_weights has {len(weights)} weights, a plan has {horizon} model steps; give one for "
                "each of them"
            )
        return distance_BNH.new_tensor(weights[len(weights) - horizon :])
