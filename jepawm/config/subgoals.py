"""The section `subgoals`: what a plan aims at on the way to a far goal."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jepawm.config.checks import key
from jepawm.config.planner import CEMConfig, PlannerConfig
from jepawm.config.tagged import TaggedConfig
from jepawm.errors import ConfigError

# Settings of a planner that are about raw actions, or about how the world model is unrolled.
_WITHOUT_MEANING = ("hold_actions", "action_limits", "precision", "compile", "cuda_graphs")


@dataclass(frozen=True)
class SubgoalConfig(TaggedConfig):
    """What a plan aims at on the way to a far goal."""

    section: ClassVar[str] = "subgoals"
    default_kind: ClassVar[str] = "none"
    kinds: ClassVar[dict[str, str]] = {
        "none": "jepawm.config.subgoals:NoSubgoalsConfig",
        "macro": "jepawm.config.subgoals:MacroSubgoalsConfig",
    }

    name: str = ""
    """`none`: plans aim at the goal itself; `macro`: at the latents after the first of a few macro-actions that lead to
    the goal; `module:Class`: a dataclass of your own."""


@dataclass(frozen=True)
class NoSubgoalsConfig(SubgoalConfig):
    """Plans aim at the goal itself."""

    implementation: ClassVar[str] = "jepawm.planning.subgoals:no_subgoals"

    name: str = "none"


@dataclass(frozen=True)
class MacroSubgoalsConfig(SubgoalConfig):
    """Two levels: a search over macro-actions makes the goals of the search over actions."""

    implementation: ClassVar[str] = "jepawm.planning.subgoals:macro_subgoals"

    name: str = "macro"
    head: str = "macro"
    """Head of kind `macro` that predicts what macro-actions lead to: a folder in the model's `heads`, which `jepawm
    train-head` wrote."""
    horizon: Literal["fixed", "shrinking"] = "shrinking"
    """`fixed`: every search looks `subgoals.planner.horizon` macro-actions ahead; `shrinking`: a search ends where the
    one before it ended, so that it arrives, and then a whole one is made afresh."""
    weighting: Literal["last", "sum"] = "last"
    """`last`: the cost of macro-actions is the distance to the goal after the last one; `sum`: after each of them."""
    planner: PlannerConfig = field(default_factory=lambda: CEMConfig(horizon=3))
    """The search over macro-actions; its `horizon` counts macro-actions, its `init_std` their standard deviations in
    the data."""

    def __post_init__(self) -> None:
        changed = [name for name in _WITHOUT_MEANING if getattr(self.planner, name) != getattr(CEMConfig(), name)]
        if changed:
            raise ConfigError(f"{key(self, 'planner')}.{changed[0]} has no meaning for a search over macro-actions")
        if self.planner.max_candidates_per_forward == "auto":
            raise ConfigError(
                f"{key(self, 'planner')}.max_candidates_per_forward 'auto' is for the world model, whose memory is "
                "measured; give a number, or leave it out"
            )
        if self.planner.name == "random":
            raise ConfigError(f"{key(self, 'planner')}.name 'random' searches nothing, so its subgoals lead nowhere")
