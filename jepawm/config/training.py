"""The sections of training: `loss`, `optim` and `train`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jepawm.config.checks import fraction, not_negative, positive
from jepawm.config.data import DataConfig
from jepawm.config.model import ModelConfig


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the training loss; a weight of 0 leaves the term out."""

    section: ClassVar[str] = "loss"

    supervision: Literal["unroll", "teacher_forcing"] = "unroll"
    """`unroll`: windows are unrolled from their first frame; `teacher_forcing`: each frame is predicted from the true
    ones before it, in one pass."""
    prediction: float = 1.0
    """Mean squared error of the predicted visual latents against the encoded ones."""
    proprio_prediction: float = 1.0
    """The same for the proprio part of the latents, in models that have one."""
    inverse_dynamics: float = 1.0
    """Mean squared error of the action chunk read from two successive latents."""
    variance: float = 16.0
    """Hinge that keeps the standard deviation of each latent dimension above 1."""
    covariance: float = 8.0
    """Squared off-diagonal covariance of the latents."""
    moments: Literal["all", "per_frame"] = "all"
    """Variance and covariance over all frames of the batch together, or over the batch for each frame of the window."""
    temporal_variance: float = 0.0
    """Hinge that keeps the standard deviation over a window's frames above 1."""
    time_similarity: float = 12.0
    """Mean squared distance of successive latents."""
    sigreg: float = 0.0
    """Sketched isotropic Gaussian regularisation (LeWM's anti-collapse term)."""
    sigreg_num_projections: int = 256
    """Random directions a step that SIGReg tests."""

    def __post_init__(self) -> None:
        not_negative(self, "inverse_dynamics", "variance", "covariance", "time_similarity", "sigreg")
        not_negative(self, "proprio_prediction", "temporal_variance")
        positive(self, "prediction", "sigreg_num_projections")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    section: ClassVar[str] = "optim"

    learning_rate: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-5
    """Decoupled weight decay."""
    grad_clip_norm: float | None = 2.0
    """Largest gradient norm; None: gradients are not clipped."""
    warmup_fraction: float = 0.05
    """Share of the train steps over which the learning rate rises."""
    final_fraction: float = 0.02
    """Last learning rate as a share of the peak."""

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "grad_clip_norm")
        not_negative(self, "weight_decay")
        fraction(self, "warmup_fraction", "final_fraction")


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    section: ClassVar[str] = "train"

    num_train_steps: int = 3000
    """Updates in all."""
    batch_size: int = 128
    """Windows per update over ALL workers; each takes an equal share."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast where the device computes it natively, else float32."""
    checkpoint_every: int = 500
    """Train steps between checkpoints; one is always written at the end."""
    num_checkpoints_kept: int = 2
    """Newest checkpoints kept on disk."""
    log_every: int = 50
    """Train steps between two lines of metrics."""
    diagnostics_every: int = 500
    """Train steps between two measurements of collapse on held-out windows (variance, effective rank, linear probe)."""
    diagnostics_windows: int = 1024
    """Held-out windows that a measurement uses."""

    def __post_init__(self) -> None:
        positive(
            self,
            "num_train_steps",
            "batch_size",
            "checkpoint_every",
            "num_checkpoints_kept",
            "log_every",
            "diagnostics_every",
            "diagnostics_windows",
        )


@dataclass(frozen=True)
class TrainingPlan:
    """The slice of a run that fixes a training.

    Attributes:
        seed: Of everything random in training, and of the split into training and held-out episodes.
        device: `auto` or a torch device.
        image_size: Side of the square frames, pixels.
        data: Windows, split and loader.
        model: The architecture.
        loss: Terms of the loss.
        optim: Optimiser and schedule.
        train: The loop.
        run: The whole configuration as plain data, which is kept beside the weights.
    """

    seed: int
    device: str
    image_size: int
    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    train: TrainConfig
    run: Mapping[str, Any]
