"""What every kind of planner has, and the kind that searches nothing."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jepawm.config.checks import positive
from jepawm.config.planner.presets import PRESETS
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
        "icem": "jepawm.config.planner:ICEMConfig",
        "mppi": "jepawm.config.planner:MPPIConfig",
        "predictive_sampling": "jepawm.config.planner:PredictiveSamplingConfig",
        "random_shooting": "jepawm.config.planner:RandomShootingConfig",
        "gradient": "jepawm.config.planner:GradientConfig",
        "cem_gradient": "jepawm.config.planner:CEMGradientConfig",
        "grasp": "jepawm.config.planner:GraspConfig",
        "nevergrad": "jepawm.config.planner:NevergradConfig",
        "function": "jepawm.config.planner:FunctionPlannerConfig",
        "random": "jepawm.config.planner:RandomPlansConfig",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    name: str = ""
    """`cem`: the cross-entropy method; `icem`: the same with coloured noise and kept elites; `mppi`: model-predictive
    path integrals; `predictive_sampling`: the best of many plans around the last one; `random_shooting`: the best of
    many random plans; `gradient`: a torch optimiser from many starts; `cem_gradient`: cem, refined by gradients;
    `grasp`: gradients of single model steps, over actions and the latents between them; `nevergrad`: an optimiser of
    that library; `function`: a function of your own (`planner.function`); `random`: one random plan, the baseline that
    no model is asked for; `module:Class`: a dataclass of your own."""
    horizon: int = 6
    """Action chunks in a plan."""
    init_std: float = 1.0
    """Standard deviation of the first candidates, in standard deviations of the data's actions."""
    hold_actions: bool = True
    """Search one action per chunk and hold it for the whole chunk; off: search every environment step's action."""
    action_limits: tuple[float, ...] | None = None
    """Largest magnitude of each dimension of one environment step's action in plans, raw units, inside the
    environment's bounds; 0 fixes a dimension at 0; None: the environment's bounds alone."""
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
        if any(not limit >= 0 for limit in self.action_limits or ()):
            raise ConfigError(f"planner.action_limits must not be negative, found {list(self.action_limits or ())}")


@dataclass(frozen=True)
class RandomPlansConfig(PlannerConfig):
    """One random plan per episode: the baseline beside every success rate."""

    implementation: ClassVar[str] = "jepawm.planning.random_plans:RandomPlanner"

    name: str = "random"

    @classmethod
    def beside(cls, planner: PlannerConfig) -> "RandomPlansConfig":
        """The baseline of a planner: plans of the same length from the same first distribution."""
        return cls(**{name: getattr(planner, name) for name in cls.shared_fields() if name != "name"})
