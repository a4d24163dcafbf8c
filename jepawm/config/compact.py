"""The kind `compact` of the section `model.encoder`: a small latent on a frozen encoder, and how that is trained."""

from dataclasses import dataclass, field
from typing import ClassVar

from jepawm.config import LossConfig, OptimConfig, PredictorConfig, TrainConfig
from jepawm.config.checks import positive, unread_by
from jepawm.config.encoder import ConvMapEncoderConfig, EncoderConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class BaseTrainingConfig:
    """How the frozen encoder below a compact latent is trained before: as the encoder of a world model of its own.

    Episodes, split, seed and proprio are those of the run.
    """

    section: ClassVar[str] = "model.encoder.base_training"

    num_frames_in_window: int = 3
    """Frames in a training window."""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class CompactEncoderConfig(EncoderConfig):
    """A small latent on top of another encoder, which is frozen: phi of its features, one token a frame."""

    implementation: ClassVar[str] = "jepawm.encoders.compact:CompactEncoder"

    name: str = "compact"
    latent_dim: int = 16
    """Latent width D."""
    hidden_dim: int = 512
    """Width of phi's hidden layers."""
    num_layers: int = 2
    """Phi's hidden layers."""
    weights: str | None = None
    """Where the trained base is: a run or a model folder whose encoder has the settings of `base`. None: a pretrained
    base has its own weights, any other one is trained first, as `base_training` says."""
    base: EncoderConfig = field(default_factory=ConvMapEncoderConfig)
    """The encoder below; frozen here."""
    base_training: BaseTrainingConfig = field(default_factory=BaseTrainingConfig)
    """How a base without weights is trained."""

    @property
    def reads_features(self) -> bool:
        """Phi trains on features of the base."""
        return True

    @property
    def trains_base(self) -> bool:
        """Whether the base is to be trained before this encoder can be."""
        return self.weights is None and self.base.weights_source is None and self.base.has_weights

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "latent_dim", "hidden_dim", "num_layers")
        for name in ("trainable", "normalization", "resize_to", "resize", "projector_dim"):
            unread_by(self, name, "model.encoder.name 'compact'; model.encoder.base has a setting of that name")
        if isinstance(self.base, CompactEncoderConfig):
            raise ConfigError("model.encoder.base is 'compact' itself; a compact latent has one encoder below it")
        if self.base.weights_source is None and not self.base.trainable and self.base.has_weights:
            raise ConfigError(
                "model.encoder.base.trainable is off, and the base has no pretrained weights: it is noise"
            )
        if not self.base.has_weights and self.weights is not None:
            raise ConfigError(
                f"model.encoder.base '{self.base.name}' has no weights to be read; leave model.encoder.weights out"
            )
        if self.base.weights_source is not None and (self.base.trainable or self.weights is not None):
            raise ConfigError(
                f"model.encoder.base '{self.base.name}' has pretrained weights; set model.encoder.base.trainable to "
                "false, and leave model.encoder.weights out"
            )


def frozen_encoder(config: EncoderConfig) -> EncoderConfig:
    """The part of an encoder whose features can be stored: the base of a compact one, else the encoder itself."""
    return config.base if isinstance(config, CompactEncoderConfig) else config
