"""The section `planner`: one dataclass for each kind of planner."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jepawm.config.checks import not_negative, positive
from jepawm.config.tagged import TaggedConfig
from jepawm.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class PlannerConfig(TaggedConfig):
    """The search for a plan: what every kind has."""

    section: ClassVar[str] = "planner"
    default_kind: ClassVar[str] = "cem"
    kinds: ClassVar[dict[str, str]] = {
        "cem": "jepawm.config.planner:CEMConfig",
        "random_shooting": "jepawm.config.planner:RandomShootingConfig",
        "random": "jepawm.config.planner:RandomPlansConfig",
    }

    name: str = ""
    """`cem`: the cross-entropy method; `random_shooting`: the best of many random plans; `random`: one random plan, the
    baseline that no model is asked for; `module:Class`: a dataclass of your own."""
    horizon: int = 6
    """Action chunks in a plan."""
    init_std: float = 1.0
    """Standard deviation of the first candidates, in standard deviations of the data's actions."""
    hold_actions: bool = True
    """Search one action per chunk and hold it for the whole chunk; off: search every environment step's action."""
    precision: Precision = "auto"
    """`auto`: bfloat16 where the device computes it natively, else float32."""
    max_candidates_per_forward: int | Literal["auto"] | None = None
    """Candidates per forward pass and episode (micro-batching; the plan does not change); `auto`: as many as free
    memory holds; None: all at once."""
    compile: bool = False
    """Compile the predictor's blocks (`torch.compile`): pays where a model plans often; the first plan waits for it."""
    cuda_graphs: bool = False
    """Record the unroll as a CUDA graph and replay it: pays on a GPU for small models, whose kernels are shorter than
    the time it takes to start them."""

    def __post_init__(self) -> None:
        positive(self, "horizon", "init_std")
        if self.max_candidates_per_forward != "auto":
            positive(self, "max_candidates_per_forward")


@dataclass(frozen=True)
class CEMConfig(PlannerConfig):
    """The cross-entropy method."""

    implementation: ClassVar[str] = "jepawm.planning.cem:CEM"

    name: str = "cem"
    num_samples: int = 300
    """Candidate plans per iteration and episode."""
    num_elites: int = 30
    """Best candidates that the next iteration's distribution is fitted to."""
    num_iterations: int = 10
    """Iterations of a first plan."""
    num_iterations_warm: int = 4
    """Iterations of a replan that starts from the shifted last plan."""
    min_std: float = 0.05
    """Floor of the search distribution's standard deviation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_samples", "num_elites", "num_iterations", "num_iterations_warm")
        not_negative(self, "min_std")
        if not 2 <= self.num_elites <= self.num_samples:
            raise ConfigError(
                f"planner.num_elites must lie between 2 and planner.num_samples ({self.num_samples}), "
                f"found {self.num_elites}"
            )


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


@dataclass(frozen=True)
class RandomPlansConfig(PlannerConfig):
    """One random plan per episode: the baseline beside every success rate."""

    implementation: ClassVar[str] = "jepawm.planning.random_plans:RandomPlanner"

    name: str = "random"

    @classmethod
    def beside(cls, planner: PlannerConfig) -> "RandomPlansConfig":
        """The baseline of a planner: plans of the same length from the same first distribution."""
        return cls(**{name: getattr(planner, name) for name in cls.shared_fields() if name != "name"})
