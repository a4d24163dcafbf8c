"""The section `optim`: AdamW, and one dataclass for each kind of schedule."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jepawm.config.checks import fraction, not_negative, positive, unread_by
from jepawm.config.tagged import TaggedConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class ScheduleConfig(TaggedConfig):
    """The learning rate over the train steps, as a share of `optim.learning_rate`."""

    section: ClassVar[str] = "optim.schedule"
    default_kind: ClassVar[str] = "cosine"
    kinds: ClassVar[dict[str, str]] = {
        "cosine": "jepawm.config.optim:CosineScheduleConfig",
        "constant": "jepawm.config.optim:ConstantScheduleConfig",
        "linear": "jepawm.config.optim:LinearScheduleConfig",
        "wsd": "jepawm.config.optim:WSDScheduleConfig",
        "vjepa_cosine": "jepawm.config.optim:VJEPACosineScheduleConfig",
    }

    name: str = ""
    """`cosine`: linear warm-up, then a cosine; `constant`: one rate; `linear`: a linear fall from the first step
    (cool-down); `wsd`: warm-up, constant, linear decay; `vjepa_cosine`: warm-up and a cosine, counted as V-JEPA 2
    counts; `module:Class`: a dataclass of your own, whose `implementation` is the function that computes it."""


@dataclass(frozen=True)
class CosineScheduleConfig(ScheduleConfig):
    """Linear warm-up to the peak, then a cosine."""

    implementation: ClassVar[str] = "jepawm.training.schedules:cosine"

    name: str = "cosine"
    warmup_fraction: float = 0.05
    """Share of the train steps over which the learning rate rises."""
    final_fraction: float = 0.02
    """Last learning rate as a share of the peak."""

    def __post_init__(self) -> None:
        fraction(self, "warmup_fraction", "final_fraction")


@dataclass(frozen=True)
class ConstantScheduleConfig(ScheduleConfig):
    """One learning rate."""

    implementation: ClassVar[str] = "jepawm.training.schedules:constant"

    name: str = "constant"


@dataclass(frozen=True)
class LinearScheduleConfig(ScheduleConfig):
    """A linear fall from the first step on: the cool-down after a constant rate."""

    implementation: ClassVar[str] = "jepawm.training.schedules:linear"

    name: str = "linear"
    final_fraction: float = 0.0
    """Rate that the fall ends at, as a share of the first one."""
    fall_steps: int | None = None
    """Train steps that the whole fall takes; more than are trained end it early. None: all train steps."""
    past_the_end: Literal["hold", "continue"] = "hold"
    """After `fall_steps`: the last rate is held, or the line goes on, below zero at last, as in V-JEPA 2's code."""

    def __post_init__(self) -> None:
        fraction(self, "final_fraction")
        positive(self, "fall_steps")


@dataclass(frozen=True)
class WSDScheduleConfig(ScheduleConfig):
    """Linear warm-up, a constant rate, and a linear decay over the last train steps."""

    implementation: ClassVar[str] = "jepawm.training.schedules:wsd"

    name: str = "wsd"
    start_fraction: float = 0.0
    """Rate that the warm-up begins at, as a share of the peak."""
    warmup_steps: int = 0
    """Train steps of the warm-up."""
    decay_steps: int = 0
    """Train steps of the decay, at the end."""
    final_fraction: float = 0.0
    """Rate that the decay ends at, as a share of the peak."""

    def __post_init__(self) -> None:
        fraction(self, "start_fraction", "final_fraction")
        not_negative(self, "warmup_steps", "decay_steps")


@dataclass(frozen=True)
class VJEPACosineScheduleConfig(ScheduleConfig):
    """Linear warm-up from a first rate, then a cosine whose step is counted from 1, as in V-JEPA 2 and JEPA-WMs."""

    implementation: ClassVar[str] = "jepawm.training.schedules:vjepa_cosine"

    name: str = "vjepa_cosine"
    start_fraction: float = 0.0
    """Rate that the warm-up begins at, as a share of the peak."""
    warmup_steps: int = 0
    """Train steps of the warm-up."""
    final_fraction: float = 0.0
    """Rate that the cosine ends at, as a share of the peak; 1: the peak is kept after the warm-up, as in V-JEPA 2."""
    stretch: float = 1.0
    """Length of the schedule in lengths of the training; above 1, training ends before the rate is down."""

    def __post_init__(self) -> None:
        fraction(self, "start_fraction")
        not_negative(self, "warmup_steps")
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(f"optim.schedule.final_fraction must lie in [0, 1], found {self.final_fraction}")
        if not self.stretch >= 1:
            raise ConfigError(f"optim.schedule.stretch must be at least 1, found {self.stretch}")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedules."""

    section: ClassVar[str] = "optim"

    learning_rate: float = 1e-3
    """Peak learning rate."""
    encoder_learning_rate: float | None = None
    """Peak learning rate of the encoder, where it trains; None: as everything else."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    weight_decay: float = 1e-5
    """Decoupled weight decay."""
    final_weight_decay: float | None = None
    """Weight decay of the last train step, reached along half a cosine; None: it stays."""
    weight_decay_steps: int | None = None
    """Train steps that this half cosine takes; more than are trained end it early. None: all train steps."""
    decayed: Literal["all", "matrices"] = "all"
    """What is decayed: every parameter, or all but biases and other parameters of one dimension, as published."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's first and second moments."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    grad_clip_norm: float | None = 2.0
    """Largest gradient norm; None or 0: gradients are not clipped, as in other trainers."""
    ema_decay: float | None = None
    """Decay per train step of a moving average of the weights, which is then the model that plans; None: no average."""

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "encoder_learning_rate", "eps")
        positive(self, "weight_decay_steps")
        not_negative(self, "weight_decay", "final_weight_decay", "grad_clip_norm")
        if self.final_weight_decay is None:
            unread_by(self, "weight_decay_steps", "optim.final_weight_decay null: the weight decay stays")
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ConfigError(f"optim.betas must lie in [0, 1), found {list(self.betas)}")
        if self.ema_decay is not None:
            fraction(self, "ema_decay")

    @property
    def largest_gradient_norm(self) -> float:
        """The norm that gradients are clipped to; infinite where they are not clipped."""
        return self.grad_clip_norm or float("inf")
