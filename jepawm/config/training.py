"""The section `train`, and the slice of a run that fixes a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jepawm.config.checks import positive
from jepawm.config.data import DataConfig
from jepawm.config.loss import LossConfig
from jepawm.config.model import ModelConfig
from jepawm.config.optim import OptimConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    section: ClassVar[str] = "train"

    num_train_steps: int = 3000
    """Updates in all."""
    batch_size: int = 128
    """Windows per update over ALL workers; each takes an equal share."""
    micro_batches: int = 1
    """Parts that each worker's share of a batch is computed in, one after the other; their gradients add up to the
    batch's. More of them need less memory."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: bfloat16 autocast where the device computes it natively, else float32. `float16` scales the loss, so that
    small gradients are not lost."""
    activation_checkpointing: bool = False
    """Compute the inside of each transformer block again in the backward pass instead of keeping it: less memory, about
    a third more time, the same numbers."""
    compile: bool = False
    """Compile predictor and encoder with torch.compile: slower first steps, faster later ones."""
    init_from: str | None = None
    """A model folder or run whose weights (and statistics of actions and proprio) training begins with; None: a random
    start."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameter names, as in `model.safetensors`, that stay as they are in the model of `train.init_from`,
    e.g. `encoder.*`; `*` stands for any letters."""
    checkpoint_every: int = 500
    """Train steps between checkpoints; one is always written at the end."""
    num_checkpoints_kept: int = 2
    """Newest checkpoints kept on disk."""
    best_metric: str | None = None
    """Metric, as in `metrics.jsonl`, whose best checkpoint is kept too, in RUN/best, e.g. `validation/error_1`; None:
    only the newest are kept."""
    best_mode: Literal["min", "max"] = "min"
    """Whether low or high values of `train.best_metric` are good."""
    log_every: int = 50
    """Train steps between two lines of metrics."""
    diagnostics_every: int = 500
    """Train steps between two measurements of collapse on held-out windows (variance, effective rank, linear probe)."""
    diagnostics_windows: int = 1024
    """Held-out windows that a measurement of collapse uses."""
    prediction_windows: int = 128
    """Held-out windows on which the error of 1, 2, ... predicted steps is measured beside it, with true and with
    shuffled actions; 0: it is not measured."""

    @property
    def checkpoints_on_disk(self) -> int:
        """Checkpoints that are on disk at once, at most: those kept, and one that is being written."""
        return self.num_checkpoints_kept + 1 + (self.best_metric is not None)

    def windows_at_once(self, num_workers: int) -> int:
        """Windows of one forward pass on one worker.

        Raises:
            ConfigError: The batch does not divide into equal parts.
        """
        parts = num_workers * self.micro_batches
        if self.batch_size % parts:
            lower = max(self.batch_size // parts, 1) * parts
            by = f"{num_workers} workers" + (
                f" x train.micro_batches {self.micro_batches}" if self.micro_batches > 1 else ""
            )
            raise ConfigError(
                f"train.batch_size is global and must be divisible by scaling.num_workers times train.micro_batches: "
                f"found {self.batch_size} windows for {by}; use {lower} or {lower + parts}"
            )
        return self.batch_size // parts

    def arithmetic(self, num_workers: int) -> str:
        """How a batch is made up, e.g. `256 = 4 worker(s) x 2 micro-batches x 32`."""
        parts = f"{self.micro_batches} micro-batches x " if self.micro_batches > 1 else ""
        return f"{self.batch_size} = {num_workers} worker(s) x {parts}{self.windows_at_once(num_workers)}"

    def __post_init__(self) -> None:
        positive(
            self,
            "num_train_steps",
            "batch_size",
            "micro_batches",
            "checkpoint_every",
            "num_checkpoints_kept",
            "log_every",
            "diagnostics_every",
            "diagnostics_windows",
        )
        if self.freeze and self.init_from is None:
            raise ConfigError(
                f"train.freeze {list(self.freeze)} needs a trained model in train.init_from: random weights would stay "
                "random"
            )
        measured = self.best_metric is not None and self.best_metric.startswith(("validation/", "diagnostics/"))
        if measured and self.checkpoint_every % self.diagnostics_every:
            raise ConfigError(
                f"train.best_metric {self.best_metric} is measured every train.diagnostics_every "
                f"({self.diagnostics_every}) train steps, so train.checkpoint_every must be a multiple of that, found "
                f"{self.checkpoint_every}"
            )
        if self.prediction_windows < 0 or self.prediction_windows == 1:
            raise ConfigError(
                f"train.prediction_windows must be 0 or at least 2 (actions are shuffled among windows), found "
                f"{self.prediction_windows}"
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
