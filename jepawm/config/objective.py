"""The section `objective`: what a planner minimises."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from jepawm.config.checks import not_negative
from jepawm.errors import ConfigError, did_you_mean

Distance = Literal["l2", "l1", "cosine", "temporal"]
Weighting = Literal["last", "sum", "weighted"]


@dataclass(frozen=True)
class ObjectiveConfig:
    """The cost of a candidate: how far its predicted latents are from the goal's."""

    section: ClassVar[str] = "objective"

    distance: str = "l2"
    """Between two latents: `l2` mean squared difference, `l1` mean absolute difference, `cosine` 1 - cosine
    of all tokens as one vector; `temporal`: model steps to the goal, read by a head (`objective.head`);
    `module:function`: a function of your own, of predicted latents and the goal's."""
    weighting: Weighting = "last"
    """`last`: of the last predicted latent; `sum`: over all predicted latents; `weighted`: over all of them, each with
    its weight (`objective.step_weights`). A protocol may say otherwise (`evaluation.<protocol>.cost`)."""
    step_weights: tuple[float, ...] = ()
    """Weight of each model step of a plan, with `weighted`; at least as many as a plan has chunks. A plan that is
    shorter has the last ones, so that the end of a plan keeps its weight."""
    patches: Literal["each", "pooled"] = "each"
    """What is compared (not by `temporal`): `each` patch with the same patch of the goal, or the mean over all patches
    (`pooled`), which does not ask where in the picture something is."""
    proprio_dims: tuple[int, ...] = ()
    """Numbers of the proprio part that are compared, counted from 0, e.g. the agent's place without its velocity;
    empty: all of them. They mean what proprio's names say only where the latent holds the proprio itself
    (`model.proprio.update` fit_linear or integrate_pose)."""
    proprio_weight: float = 0.1
    """Weight of the proprio part of the cost beside the visual part, for models that see proprio; `temporal` and a
    function of your own read both parts themselves."""
    head: str = "distance"
    """Head that `temporal` reads: a folder in the model's `heads`, which `jepawm train-head` wrote."""

    def __post_init__(self) -> None:
        not_negative(self, "proprio_weight")
        known = get_args(Distance)
        if self.distance not in known and ":" not in self.distance:
            raise ConfigError(
                f"objective.distance: unknown '{self.distance}'{did_you_mean(self.distance, known)}; a function of "
                "your own is written module:function"
            )
        if any(not weight >= 0 for weight in self.step_weights):
            raise ConfigError(f"objective.step_weights must not be negative, found {list(self.step_weights)}")
        if self.weighting == "weighted" and not sum(self.step_weights) > 0:
            raise ConfigError(
                "objective.weighting 'weighted' needs objective.step_weights, a weight for each model step of a plan, "
                f"of which one at least is above 0; found {list(self.step_weights)}"
            )
        if any(number < 0 for number in self.proprio_dims):
            raise ConfigError(f"objective.proprio_dims must not be negative, found {list(self.proprio_dims)}")
