"""The kind `nevergrad`: a planner of that library."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jepawm.config.planner.sampling import IteratedConfig


@dataclass(frozen=True)
class NevergradConfig(IteratedConfig):
    """An optimiser of Nevergrad, asked for all candidates of an iteration at once."""

    implementation: ClassVar[str] = "jepawm.planning.nevergrad:NevergradPlanner"

    name: str = "nevergrad"
    optimizer: str = "DiagonalCMA"
    """A name in `nevergrad.optimizers.registry`: `DiagonalCMA`, `CMA`, `PSO`, `DE`, `NGOpt`, ..."""
    num_samples: int = 300
    """Candidate plans that are asked for per iteration and episode."""
    keep_mean: bool = True
    """The first candidate of a first plan is the data's mean action; off: the optimiser's own. A replan's first
    candidate is its warm start in any case."""
    execute: Literal["recommendation", "best"] = "recommendation"
    """The plan: what the optimiser recommends at its end, or the cheapest candidate of all iterations."""
