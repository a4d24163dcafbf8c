"""The section `evaluation`: episodes, goals and protocols."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jepawm.config.checks import not_negative, positive
from jepawm.config.data import DataConfig
from jepawm.config.objective import ObjectiveConfig, Weighting
from jepawm.config.planner import PlannerConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class ProtocolConfig:
    """How plans become actions in the environment, and when an episode counts as solved."""

    section: ClassVar[str] = "evaluation.<protocol>"

    replan_every: int
    """Chunks of a plan that are executed before the next plan; at most `planner.horizon`."""
    max_chunks: int
    """Chunks executed in one episode at most."""
    success_at: Literal["plan_end", "any_env_step"]
    """`plan_end`: solved if the goal condition holds when a plan has been executed; `any_env_step`: if it ever held."""
    cost: Weighting | None = None
    """`last`: distance of the last predicted latent to the goal's; `sum`: over all predicted latents; None: as
    `objective.weighting` says."""

    def __post_init__(self) -> None:
        positive(self, "replan_every", "max_chunks")


ProtocolName = Literal["two_plan", "per_chunk", "open_loop"]


@dataclass(frozen=True)
class EvaluationConfig:
    """Which episodes, which goals and which protocols a model is judged by."""

    section: ClassVar[str] = "evaluation"

    seed: int = 99
    """Seed of the episodes; the task of episode i is drawn with seed * i + 1, as DINO-WM does."""
    num_episodes: int = 50
    """Episodes per protocol."""
    goal_source: Literal["sampler", "held_out"] = "sampler"
    """`sampler`: start and goal from the environment's own sampler; `held_out`: a state of a held-out episode and the
    one `goal_offset` model steps later."""
    goal_offset: int = 5
    """Model steps from start to goal in the data (`held_out`)."""
    protocols: tuple[ProtocolName, ...] = ("two_plan", "per_chunk", "open_loop")
    """Protocols to run; the first is the headline of `eval.json`."""
    two_plan: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=6, max_chunks=12, success_at="plan_end")
    )
    """Plan, execute all of it, and once more for the episodes that did not end at the goal (DINO-WM's MPC)."""
    per_chunk: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=1, max_chunks=12, success_at="any_env_step", cost="sum")
    )
    """Replan after every chunk."""
    open_loop: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=6, max_chunks=6, success_at="plan_end")
    )
    """One plan, executed blindly."""
    num_animations: int = 6
    """Episodes shown as animations in the report."""
    prediction_horizon: int = 6
    """Largest number of model steps at which held-out prediction is measured."""
    allow_other_env: bool = False
    """Judge a model in another environment than it was trained for."""

    def __post_init__(self) -> None:
        positive(self, "num_episodes", "goal_offset", "prediction_horizon")
        if not self.protocols:
            raise ConfigError("evaluation.protocols must name at least one protocol")
        if len(set(self.protocols)) < len(self.protocols):
            raise ConfigError(f"evaluation.protocols names a protocol twice: {', '.join(self.protocols)}")
        not_negative(self, "num_animations", "seed")


@dataclass(frozen=True)
class EvaluationPlan:
    """The slice of a run that fixes an evaluation.

    Attributes:
        seed: Of the split into training and held-out episodes, and of the held-out windows.
        data: Windows and split of the episodes the model was trained on.
        planner: The search.
        objective: The cost of a candidate.
        evaluation: Episodes, goals and protocols.
        diagnostics_windows: Held-out windows that a measurement uses.
        run: The whole configuration as plain data, for the record.
    """

    seed: int
    data: DataConfig
    planner: PlannerConfig
    objective: ObjectiveConfig
    evaluation: EvaluationConfig
    diagnostics_windows: int
    run: Mapping[str, Any]
