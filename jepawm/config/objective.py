"""The section `objective`: what a planner minimises."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jepawm.config.checks import not_negative
from jepawm.errors import ConfigError

Distance = Literal["l2", "l1", "cosine"]
Weighting = Literal["last", "sum"]


@dataclass(frozen=True)
class ObjectiveConfig:
    """The cost of a candidate: how far its predicted latents are from the goal's."""

    section: ClassVar[str] = "objective"

    distance: Distance = "l2"
    """Between two latents: `l2` mean squared difference, `l1` mean absolute difference, `cosine` 1 - cosine
    of all tokens as one vector."""
    weighting: Weighting = "last"
    """`last`: of the last predicted latent; `sum`: over all predicted latents. A protocol may say otherwise
    (`evaluation.<protocol>.cost`)."""
    proprio_dims: tuple[int, ...] = ()
    """Numbers of the proprio part that are compared, counted from 0, e.g. the agent's place without its velocity;
    empty: all of them. They mean what proprio's names say only where the latent holds the proprio itself
    (`model.proprio.update` fit_linear or integrate_pose)."""
    proprio_weight: float = 0.1
    """Weight of the proprio part of the cost beside the visual part, for models that see proprio."""

    def __post_init__(self) -> None:
        not_negative(self, "proprio_weight")
        if any(number < 0 for number in self.proprio_dims):
            raise ConfigError(f"objective.proprio_dims must not be negative, found {list(self.proprio_dims)}")
