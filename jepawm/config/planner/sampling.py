"""Planners that draw candidates and compare their costs."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jepawm.config.checks import fraction, not_negative, positive
from jepawm.config.planner.base import PlannerConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class IteratedConfig(PlannerConfig):
    """What searches share that draw candidates and improve them, again and again."""

    num_samples: int = 300
    """Candidate plans per iteration and episode."""
    num_iterations: int = 10
    """Iterations of a first plan."""
    num_iterations_warm: int = 4
    """Iterations of a replan that starts from the shifted last plan."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_samples", "num_iterations", "num_iterations_warm")


@dataclass(frozen=True)
class ElitesConfig(IteratedConfig):
    """What searches share that fit a normal distribution to the best candidates."""

    num_elites: int = 30
    """Best candidates that the next iteration's distribution is fitted to."""
    min_std: float = 0.05
    """Floor of the search distribution's standard deviation."""
    max_std: float | None = None
    """Ceiling of the search distribution's standard deviation after an iteration; None: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "min_std")
        positive(self, "num_elites", "max_std")
        if self.max_std is not None and self.max_std < self.min_std:
            raise ConfigError(f"planner.max_std ({self.max_std}) must not be below planner.min_std ({self.min_std})")
        if not 2 <= self.num_elites <= self.num_samples:
            raise ConfigError(
                f"planner.num_elites must lie between 2 and planner.num_samples ({self.num_samples}), "
                f"found {self.num_elites}"
            )


@dataclass(frozen=True)
class CEMConfig(ElitesConfig):
    """The cross-entropy method."""

    implementation: ClassVar[str] = "jepawm.planning.cem:CEM"

    name: str = "cem"
    init_std_warm: float | None = None
    """Standard deviation of a replan's first candidates; None: `init_std`."""
    keep_mean: bool = True
    """Candidate 0 is the distribution's mean; off: all candidates are drawn."""
    unbiased_std: bool = True
    """The elites' variance is divided by `num_elites - 1`; off: by `num_elites`."""
    mean_momentum: float = 0.0
    """Share of the old mean that each iteration keeps, in [0, 1)."""
    std_momentum: float = 0.0
    """Share of the old standard deviation that each iteration keeps, in [0, 1)."""
    execute: Literal["mean", "best"] = "mean"
    """The plan: the last mean, or the cheapest candidate of all iterations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "init_std_warm")
        fraction(self, "mean_momentum", "std_momentum")


@dataclass(frozen=True)
class ICEMConfig(ElitesConfig):
    """The improved cross-entropy method: coloured noise, kept elites, fewer candidates in later iterations."""

    implementation: ClassVar[str] = "jepawm.planning.icem:ICEM"

    name: str = "icem"
    num_samples: int = 300
    """Candidate plans that the first iteration draws per episode."""
    noise_exponent: float = 2.0
    """Exponent b of the noise's power spectrum 1 / f^b along a plan: 0 is white noise, 2 changes slowly."""
    sample_decay: float = 1.25
    """Each iteration draws this many times fewer candidates than the one before, at least twice `num_elites`."""
    kept_elites: float = 0.3
    """Share of the elites that are candidates again in the next iteration and, shifted, in the next replan."""
    momentum: float = 0.1
    """Share of the old mean and standard deviation that each iteration keeps, in [0, 1)."""
    execute: Literal["mean", "best"] = "best"
    """The plan: the last mean, or the cheapest candidate of all iterations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "noise_exponent", "kept_elites")
        fraction(self, "momentum")
        if self.sample_decay < 1:
            raise ConfigError(f"planner.sample_decay must be at least 1, found {self.sample_decay}")
        if self.kept_elites > 1:
            raise ConfigError(f"planner.kept_elites must lie between 0 and 1, found {self.kept_elites}")


@dataclass(frozen=True)
class MPPIConfig(ElitesConfig):
    """Model-predictive path integrals: elites are averaged with weights that fall with their cost."""

    implementation: ClassVar[str] = "jepawm.planning.mppi:MPPI"

    name: str = "mppi"
    num_elites: int = 30
    """Best candidates that are averaged; `num_samples`: all of them, as first published."""
    temperature: float = 0.5
    """Cost difference, in the objective's units, at which a weight falls by the factor e: low values follow the best
    candidate, high values weigh all elites alike."""
    keep_mean: bool = True
    """Candidate 0 is the distribution's mean; off: all candidates are drawn."""
    execute: Literal["mean", "best", "sampled"] = "mean"
    """The plan: the last mean, the cheapest candidate of all iterations, or one of the last elites, drawn with its
    weight."""
    exploration_noise: bool = False
    """Add one draw of the last standard deviation to the plan, the same for all its chunks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "temperature")


@dataclass(frozen=True)
class PredictiveSamplingConfig(IteratedConfig):
    """The best of many plans around the last one."""

    implementation: ClassVar[str] = "jepawm.planning.random_plans:PredictiveSampling"

    name: str = "predictive_sampling"
    num_iterations: int = 1
    """Iterations of a first plan; each draws around the best candidate so far."""
    num_iterations_warm: int = 1
    """Iterations of a replan that starts from the shifted last plan."""
    num_knots: int | None = None
    """Moments of a plan at which noise is drawn; between them it is interpolated. None, or more than `horizon`: every
    chunk."""
    interpolation: Literal["zero", "linear"] = "linear"
    """Between knots: hold the last one, or a straight line to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_knots")


@dataclass(frozen=True)
class RandomShootingConfig(PlannerConfig):
    """The best of many random plans."""

    implementation: ClassVar[str] = "jepawm.planning.random_plans:RandomShooting"

    name: str = "random_shooting"
    num_samples: int = 300
    """Candidate plans per episode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_samples")
