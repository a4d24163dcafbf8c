"""Planners of a library."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jepawm.config.checks import positive
from jepawm.config.planner.base import PlannerConfig


@dataclass(frozen=True)
class NevergradConfig(PlannerConfig):
    """An optimiser of Nevergrad, asked for all candidates of an iteration at once."""

    implementation: ClassVar[str] = "jepawm.planning.nevergrad:NevergradPlanner"

    name: str = "nevergrad"
    optimizer: str = "DiagonalCMA"
    """A name in `nevergrad.optimizers.registry`: `DiagonalCMA`, `CMA`, `PSO`, `DE`, `NGOpt`, ..."""
    num_samples: int = 300
    """Candidate plans that are asked for per iteration and episode."""
    num_iterations: int = 10
    """Iterations of a first plan."""
    num_iterations_warm: int = 4
    """Iterations of a replan that starts from the shifted last plan."""
    keep_mean: bool = True
    """The first candidate of a first plan is the data's mean action; off: the optimiser's own. A replan's first
    candidate is its warm start in any case."""
    execute: Literal["recommendation", "best"] = "recommendation"
    """The plan: what the optimiser recommends at its end, or the cheapest candidate of all iterations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_samples", "num_iterations", "num_iterations_warm")
