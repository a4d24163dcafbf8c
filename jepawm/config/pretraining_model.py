"""The section `model` of a pretraining: encoder, mask predictor, loss and teacher."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jepawm.config.checks import not_negative, positive, unread_by
from jepawm.config.encoder import EncoderConfig, VideoEncoderConfig, VJEPA2EncoderConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class MaskPredictorConfig:
    """The predictor that stands behind the context encoder; the published one is the default."""

    section: ClassVar[str] = "model.predictor"

    embed_dim: int = 384
    """Width inside."""
    depth: int = 12
    """Transformer blocks."""
    num_heads: int = 12
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Width inside a block's feed-forward over `embed_dim`."""
    num_mask_tokens: int = 10
    """Learned mask tokens; each group of clips with equal frame counts uses its own, from 0."""

    def __post_init__(self) -> None:
        positive(self, "embed_dim", "depth", "num_heads", "mlp_ratio", "num_mask_tokens")
        if self.embed_dim % (2 * self.num_heads):
            raise ConfigError(
                f"model.predictor.embed_dim must be num_heads ({self.num_heads}) times an even width, found "
                f"{self.embed_dim}"
            )


@dataclass(frozen=True)
class PretrainingLossConfig:
    """Distance of predicted and target tokens, `mean(|z - h|^p) / p`; V-JEPA 2.1's additions are off by default."""

    section: ClassVar[str] = "model.loss"

    exponent: float = 1.0
    """Exponent `p`; the published one is 1."""
    target_levels: int = 1
    """Depths of the encoder that targets are taken from; V-JEPA 2: 1, the last; V-JEPA 2.1: 4, evenly spaced."""
    context_weight: float = 0.0
    """Weight of the loss on visible tokens (dense loss); 0: masked tokens alone. V-JEPA 2.1: 0.5."""
    context_from_step: int = 0
    """Train step until which the weight is 0; V-JEPA 2.1: 15,000."""
    context_full_step: int = 0
    """Train step from which the weight is whole; it grows along a line in between. V-JEPA 2.1: 30,000."""
    context_distance: Literal["patches", "sixteenths", "none"] = "patches"
    """How a visible token's loss is divided by the root of its distance to the nearest masked token: distance in
    patches (times count as patches), in sixteenths of the frame where the grid is finer than that, or not at all. It
    holds for all stages; V-JEPA 2.1's cool-down, which takes no distance, is a pretraining of its own."""

    def __post_init__(self) -> None:
        positive(self, "exponent", "target_levels")
        not_negative(self, "context_weight", "context_from_step", "context_full_step")
        if self.context_full_step < self.context_from_step:
            raise ConfigError(
                f"model.loss.context_full_step ({self.context_full_step}) must not lie before "
                f"model.loss.context_from_step ({self.context_from_step})"
            )
        if not self.context_weight:
            for name in ("context_from_step", "context_full_step", "context_distance"):
                unread_by(self, name, "model.loss.context_weight 0")

    def context_weight_at(self, train_step: int) -> float:
        """Weight of the loss on visible tokens at one train step, from 0.

        Reference: V-JEPA 2.1 as released (facebookresearch/vjepa2): 0, a line, then held.
        """
        if train_step < self.context_from_step:
            return 0.0
        if train_step >= self.context_full_step:
            return self.context_weight
        length = self.context_full_step - self.context_from_step
        return self.context_weight * (train_step - self.context_from_step) / length


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher: a moving average of the context encoder's parameters."""

    section: ClassVar[str] = "model.teacher"

    momentum: float = 0.99925
    """`teacher = momentum * teacher + (1 - momentum) * encoder` after every train step."""
    final_momentum: float | None = None
    """Momentum that a line from the first one leads to; None: it stays."""
    momentum_steps: int | None = None
    """Train steps that the line takes, held afterwards; more than are trained end it early. None: all train steps."""

    def __post_init__(self) -> None:
        positive(self, "momentum_steps")
        for name in ("momentum", "final_momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"model.teacher.{name} must lie in [0, 1], found {value}")
        if self.final_momentum is None:
            unread_by(self, "momentum_steps", "model.teacher.final_momentum null: the momentum stays")

    def momentum_at(self, train_step: int, num_train_steps: int) -> float:
        """Momentum of the update after one train step, from 0.

        Args:
            train_step: From 0, as published.
            num_train_steps: Steps in all.

        Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985 (constant); Bardes et al. 2024, V-JEPA,
            arXiv 2404.08471 (a line).
        """
        if self.final_momentum is None:
            return self.momentum
        progress = min(1.0, train_step / (self.momentum_steps or num_train_steps))
        return self.momentum + (self.final_momentum - self.momentum) * progress


@dataclass(frozen=True)
class PretrainingModelConfig:
    """What is pretrained: a video encoder, the mask predictor behind it, their loss, and the teacher."""

    section: ClassVar[str] = "model"

    encoder: EncoderConfig = field(
        default_factory=lambda: VJEPA2EncoderConfig(size="tiny", normalization="imagenet", tokenization="clip")
    )
    predictor: MaskPredictorConfig = field(default_factory=MaskPredictorConfig)
    loss: PretrainingLossConfig = field(default_factory=PretrainingLossConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, VideoEncoderConfig):
            raise ConfigError(
                f"model.encoder.name of a pretraining must be a video encoder (vjepa2, vjepa2_1, vjepa1), found "
                f"'{self.encoder.name}'"
            )
        if not self.encoder.trainable:
            raise ConfigError("model.encoder.trainable must be true: a pretraining trains its encoder")
        if self.encoder.layer is not None:
            raise ConfigError("model.encoder.layer: a pretraining trains all blocks; choose a layer when it is used")
        if self.encoder.projector_dim is not None:
            raise ConfigError("model.encoder.projector_dim: a pretrained encoder has no projector behind it")
        if self.encoder.normalization == "data":
            raise ConfigError("model.encoder.normalization 'data' has a mean picture of one size; use 'imagenet'")
        for name in ("resize_to", "resize"):
            if getattr(self.encoder, name) is not None:
                raise ConfigError(
                    f"model.encoder.{name} has no meaning for a pretraining: stages.image_size is the size of its "
                    "frames"
                )
        if self.encoder.tokenization in ("duplicated", "image"):
            raise ConfigError(
                f"model.encoder.tokenization '{self.encoder.tokenization}' has no meaning for a pretraining, which "
                "encodes clips as clips; leave it out, and choose one when the encoder is used"
            )
