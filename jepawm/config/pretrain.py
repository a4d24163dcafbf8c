"""A pretraining: clips, masks, encoder, and the stages in which frames and pixels grow."""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from jepawm.config.checks import positive
from jepawm.config.clips import ClipsConfig, ClipSourceConfig
from jepawm.config.masking import MaskConfig
from jepawm.config.optim import OptimConfig, ScheduleConfig
from jepawm.config.pretraining_model import PretrainingModelConfig
from jepawm.config.scaling import ScalingConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.yaml_io import to_dict
from jepawm.errors import ConfigError

# Frames that one token stands for, and the side of a patch where the encoder names none, pixels.
TUBELET, PATCH_SIZE = 2, 16


@dataclass(frozen=True)
class StageConfig:
    """One stage of a pretraining: a length and size of clips, for some train steps."""

    section: ClassVar[str] = "stages"

    num_frames: int = 16
    """Frames of a clip, an even number; a source of `clips` may name another one of its own."""
    image_size: int = 256
    """Side of the square frames, pixels; patches must divide it."""
    num_train_steps: int = 240_000
    """Updates of this stage."""
    batch_size: int = 3072
    """Clips per update over ALL workers; each takes an equal share."""
    learning_rate: float | None = None
    """Peak learning rate of this stage; None: `optim.learning_rate`."""
    schedule: ScheduleConfig | None = None
    """Learning rate over the steps of this stage, counted from its first one. None: `optim.schedule`, counted over the
    whole run."""
    masks: MaskConfig | None = None
    """Masks of this stage; None: those of the section `masks`."""

    def __post_init__(self) -> None:
        positive(self, "num_frames", "image_size", "num_train_steps", "batch_size", "learning_rate")
        if self.num_frames % TUBELET:
            raise ConfigError(f"stages.num_frames must be even (tokens hold two frames), found {self.num_frames}")


@dataclass(frozen=True)
class PretrainLoopConfig:
    """The loop of a pretraining: how it computes, and when it writes."""

    section: ClassVar[str] = "train"

    micro_batches: int = 1
    """Parts that each worker's share of a batch is computed in, one after the other; their gradients add up to the
    batch's. More of them need less memory."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: bfloat16 autocast where the device computes it natively, else float32. `float16` scales the loss, so that
    small gradients are not lost."""
    activation_checkpointing: bool = False
    """Compute the inside of each transformer block again in the backward pass instead of keeping it: less memory, about
    a third more time, the same numbers."""
    checkpoint_every: int = 500
    """Train steps between checkpoints; one is always written at the end of a stage."""
    num_checkpoints_kept: int = 2
    """Newest checkpoints kept on disk."""
    log_every: int = 50
    """Train steps between two lines of metrics."""
    diagnostics_every: int = 500
    """Train steps between two measurements on held-out clips: collapse, a linear probe of the simulator's state where
    episodes have one, the loss, and how far masks cover what moves."""
    diagnostics_clips: int = 256
    """Held-out clips that a measurement uses; 0: nothing is measured."""

    def __post_init__(self) -> None:
        positive(self, "micro_batches", "checkpoint_every", "num_checkpoints_kept", "log_every", "diagnostics_every")
        if self.diagnostics_clips < 0 or self.diagnostics_clips == 1:
            raise ConfigError(
                f"train.diagnostics_clips must be 0 or at least 2 (deviations are measured over clips), found "
                f"{self.diagnostics_clips}"
            )


def _published_optim() -> OptimConfig:
    return OptimConfig(learning_rate=5.25e-4, weight_decay=0.04, decayed="matrices", grad_clip_norm=None)


@dataclass(frozen=True)
class PretrainPlan:
    """The slice of a pretraining that fixes the weights; what trains takes this."""

    section: ClassVar[str] = "pretrain"

    seed: int = 0
    """Seed of everything random: first weights, clips, masks."""
    device: str = "auto"
    """`auto` (cuda, mps, cpu in this order) or a torch device. On a cluster it is judged where the work is done."""
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    model: PretrainingModelConfig = field(default_factory=PretrainingModelConfig)
    optim: OptimConfig = field(default_factory=_published_optim)
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    """Stages, one after the other; each begins with the weights, the optimizer and the teacher of the one before."""
    train: PretrainLoopConfig = field(default_factory=PretrainLoopConfig)

    @property
    def num_train_steps(self) -> int:
        """Updates of all stages."""
        return sum(stage.num_train_steps for stage in self.stages)

    @property
    def common_batch(self) -> int:
        """Largest number that divides the batch of every stage: workers and micro-batches must divide it."""
        return math.gcd(*(stage.batch_size for stage in self.stages))

    def first_step(self, stage: int) -> int:
        """Train step at which a stage begins, counted over the whole run."""
        return sum(each.num_train_steps for each in self.stages[:stage])

    def stage_at(self, train_step: int) -> int:
        """Number of the stage that makes the update after a number of updates; at the very end the last one."""
        for number in range(len(self.stages)):
            if train_step < self.first_step(number + 1):
                return number
        return len(self.stages) - 1

    def schedule_of(self, stage: int) -> tuple[OptimConfig, int, int]:
        """How the optimizer runs through a stage.

        Returns:
            The optimizer with the stage's peak and schedule, the train step from which the schedule counts, and the
            train steps that it counts.
        """
        each = self.stages[stage]
        optim = replace(self.optim, learning_rate=each.learning_rate or self.optim.learning_rate)
        if each.schedule is None:
            return optim, 0, self.num_train_steps
        return replace(optim, schedule=each.schedule), self.first_step(stage), each.num_train_steps

    def masks_of(self, stage: int) -> MaskConfig:
        """Masks of a stage."""
        return self.stages[stage].masks or self.masks


@dataclass(frozen=True)
class PretrainConfig(PretrainPlan):
    """Pretrains a video encoder on clips: it predicts the latents of what it does not see."""

    local: bool = False
    """Train in this process, without importing Ray."""
    run_dir: str | None = None
    """Directory of the run; None: a new one under `$JEPAWM_HOME` (else ./runs)."""
    name: str | None = None
    """Name of the run, which begins the name of its directory; None: the recipe's."""
    resume: Literal["auto", "never"] = "auto"
    """`auto`: continue the newest unfinished run of the same configuration (or the one in `run_dir`)."""
    max_gpu_hours: float | None = None
    """GPU-hours that the run may use, over all its processes and resumes; then it ends at a checkpoint. Where the run
    uses no GPU, hours of its training workers. None: no limit."""
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, found {self.seed}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"device must be auto, cpu, mps, cuda or cuda:N, found '{self.device}'")
        positive(self, "max_gpu_hours")
        if not self.stages:
            raise ConfigError("stages is empty; give at least one stage, e.g. {num_frames: 16, image_size: 256}")
        if self.optim.ema_decay is not None:
            raise ConfigError("optim.ema_decay has no meaning for a pretraining: model.teacher is its moving average")
        if self.optim.encoder_learning_rate is not None:
            raise ConfigError("optim.encoder_learning_rate has no meaning for a pretraining: it trains its encoder")
        if self.local and self.scaling.num_workers > 1:
            raise ConfigError(
                f"--local trains in this one process; scaling.num_workers must be 1, found {self.scaling.num_workers}"
            )
        if self.local and self.clips.loader == "stream":
            raise ConfigError("clips.loader 'stream' is Ray Data and cannot run with --local; use 'files' or 'cache'")
        for source in self.clips.all_sources:
            self._check_frames(source)
        for number, stage in enumerate(self.stages):
            self._check_stage(number, stage)

    def _check_frames(self, source: ClipSourceConfig) -> None:
        # An image is encoded as it is, where the encoder takes images.
        image = source.num_frames == 1 and getattr(self.model.encoder, "takes_images", False)
        if source.num_frames is not None and source.num_frames % TUBELET and not image:
            raise ConfigError(
                f"{source.path}: clips.sources.num_frames must be even (tokens hold two frames), found "
                f"{source.num_frames}"
            )

    def _check_stage(self, number: int, stage: StageConfig) -> None:
        lengths = tuple(dict.fromkeys(source.num_frames or stage.num_frames for source in self.clips.all_sources))
        if len(lengths) > self.model.predictor.num_mask_tokens:
            raise ConfigError(
                f"stages.{number}: clips have {len(lengths)} lengths ({', '.join(map(str, lengths))} frames), each "
                f"with a mask token of its own; found model.predictor.num_mask_tokens "
                f"{self.model.predictor.num_mask_tokens}; use {len(lengths)}"
            )
        if stage.batch_size % self.clips.clips_per_video:
            raise ConfigError(
                f"stages.{number}.batch_size must be a multiple of clips.clips_per_video "
                f"({self.clips.clips_per_video}), found {stage.batch_size}"
            )
        patch = getattr(self.model.encoder, "patch_size", None) or PATCH_SIZE
        if stage.image_size % patch:
            lower = max(stage.image_size // patch, 1) * patch
            raise ConfigError(
                f"stages.{number}.image_size must be a multiple of the encoder's patches of {patch} px, found "
                f"{stage.image_size}; use {lower} or {lower + patch}"
            )
        for workers in {self.scaling.num_workers, self.scaling.fewest_workers}:
            parts = workers * self.train.micro_batches
            if stage.batch_size % parts:
                raise ConfigError(
                    f"stages.{number}.batch_size is global and must be divisible by scaling.num_workers times "
                    f"train.micro_batches: found {stage.batch_size} clips for {workers} x {self.train.micro_batches}; "
                    f"use {max(stage.batch_size // parts, 1) * parts}"
                )

    def training_identity(self) -> dict[str, Any]:
        """The part of the configuration that fixes the weights; runs that differ here are different runs."""
        full = to_dict(self)
        # They keep, show or read a training and do not change the weights.
        for name in (
            *("checkpoint_every", "num_checkpoints_kept", "log_every"),
            *("diagnostics_every", "diagnostics_clips", "activation_checkpointing"),
        ):
            del full["train"][name]
        for name in ("loader", "cache_limit_gib", "num_threads"):
            del full["clips"][name]
        return {key: full[key] for key in ("seed", "clips", "masks", "model", "optim", "stages", "train")}
