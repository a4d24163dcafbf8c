"""Planners that differentiate the cost through the unroll."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jepawm.config.checks import not_negative, positive
from jepawm.config.planner.base import PlannerConfig
from jepawm.config.planner.sampling import CEMConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class TorchOptimizer:
    """How plans follow the gradient of their cost."""

    optimizer: str = "Adam"
    """A class of `torch.optim` that updates each number by itself: `Adam`, `SGD`, `RMSprop`, ..."""
    learning_rate: float = 0.1
    """In standard deviations of the data's actions."""
    optimizer_options: tuple[str, ...] = ()
    """Further arguments of the optimiser as KEY=VALUE, the value in YAML: `betas=[0.9, 0.995]`, `momentum=0.9`."""
    max_gradient_norm: float | None = None
    """Largest norm of one plan's gradient; a longer one is scaled down. None: any."""

    def optimizer_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the optimiser.

        Raises:
            ConfigError: An option that is not KEY=VALUE, is not YAML, or says again what has a setting of its own.
        """
        import yaml

        arguments: dict[str, Any] = {"lr": self.learning_rate}
        for option in self.optimizer_options:
            key, equals, text = option.partition("=")
            if not equals or not key.isidentifier():
                raise ConfigError(f"planner.optimizer_options: expected KEY=VALUE, found {option!r}")
            if key in arguments:
                raise ConfigError(
                    f"planner.optimizer_options: '{key}' is given twice, or is a setting of its own "
                    "(lr is planner.learning_rate)"
                )
            try:
                arguments[key] = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"planner.optimizer_options: the value of {option!r} is not YAML: {error}") from error
        return arguments


def _check_optimizer(config: TorchOptimizer) -> None:
    positive(config, "learning_rate", "max_gradient_norm")
    config.optimizer_arguments()


@dataclass(frozen=True)
class GradientConfig(TorchOptimizer, PlannerConfig):
    """Gradient descent on plans, from many starts at once."""

    implementation: ClassVar[str] = "jepawm.planning.gradient:GradientPlanner"

    name: str = "gradient"
    num_samples: int = 32
    """Plans per episode that are improved side by side, each from a start of its own."""
    num_iterations: int = 60
    """Updates of a first plan."""
    num_iterations_warm: int = 20
    """Updates of a replan that starts from the shifted last plan."""
    keep_mean: bool = True
    """Start 0 is the warm start, or the data's mean action; off: all starts are drawn around it."""
    update_noise: float = 0.0
    """Standard deviation of noise that is added after each update."""
    execute: Literal["best", "last"] = "best"
    """The plan: the cheapest one after any update, or the cheapest one after the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_samples", "num_iterations", "num_iterations_warm")
        not_negative(self, "update_noise")
        _check_optimizer(self)


@dataclass(frozen=True)
class CEMGradientConfig(TorchOptimizer, CEMConfig):
    """The cross-entropy method, whose mean and best candidates then follow the gradient."""

    implementation: ClassVar[str] = "jepawm.planning.gradient:CEMGradient"

    name: str = "cem_gradient"
    execute: Literal["mean", "best"] = "best"
    """The plan: the mean after its last update, or the cheapest of all plans that were measured."""
    num_refined: int = 8
    """Plans that follow the gradient: the mean and the best elites of the last iteration."""
    num_gradient_steps: int = 20
    """Updates of each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_refined", "num_gradient_steps")
        _check_optimizer(self)
        if self.num_refined > self.num_elites + 1:
            raise ConfigError(
                f"planner.num_refined must be at most planner.num_elites + 1 ({self.num_elites + 1}: the elites and "
                f"the mean), found {self.num_refined}"
            )


@dataclass(frozen=True)
class GraspConfig(TorchOptimizer, PlannerConfig):
    """Gradients of single model steps, over actions and virtual latents between them."""

    implementation: ClassVar[str] = "jepawm.planning.grasp:GRASP"

    name: str = "grasp"
    num_samples: int = 16
    """Plans per episode that are improved side by side; the first starts at the warm start, or the mean action."""
    num_iterations: int = 60
    """Updates of a first plan that follow single model steps."""
    num_iterations_warm: int = 20
    """Such updates of a replan that starts from the shifted last plan."""
    sync_every: int = 20
    """After so many of them a plan is unrolled as a whole, and its virtual latents are those of the unroll (100 in the
    paper)."""
    num_sync_updates: int = 5
    """Updates that the plan then makes along the gradient through the whole unroll."""
    dynamics_weight: float = 1.0
    """Weight of how far a virtual latent lies from what the step before it predicts (1 in the paper)."""
    goal_weight: float = 1.0
    """Weight of how far each step's prediction lies from the goal; 0: only the cost of the whole plan counts."""
    virtual_step: float = 0.2
    """A virtual latent goes this share of the way to what the step before it predicts, in each update."""
    virtual_noise: float = 0.1
    """Deviation of noise on virtual latents in each update, in units of what an unroll changes in a model step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_samples", "num_iterations", "num_iterations_warm", "sync_every")
        not_negative(self, "num_sync_updates", "dynamics_weight", "goal_weight", "virtual_noise")
        if not 0 < self.virtual_step <= 1:
            raise ConfigError(f"planner.virtual_step must lie in (0, 1], found {self.virtual_step}")
        _check_optimizer(self)
