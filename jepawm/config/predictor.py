"""The section `model.predictor`: one dataclass for each kind of predictor."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jepawm.config.checks import fraction, key, not_negative, positive, unread_by
from jepawm.config.encoder import RotaryPairing
from jepawm.config.tagged import TaggedConfig
from jepawm.errors import ConfigError

ProprioEncoding = Literal["none", "feature", "token"]


@dataclass(frozen=True)
class PredictorConfig(TaggedConfig):
    """The action-conditioned predictor: what every kind has."""

    section: ClassVar[str] = "model.predictor"
    default_kind: ClassVar[str] = "mlp"
    kinds: ClassVar[dict[str, str]] = {
        "mlp": "jepawm.config.predictor:MLPPredictorConfig",
        "recurrent": "jepawm.config.predictor:RecurrentPredictorConfig",
        "adaln": "jepawm.config.predictor:AdaLNPredictorConfig",
        "feature": "jepawm.config.predictor:FeaturePredictorConfig",
        "vjepa2_ac": "jepawm.config.predictor:VJEPA2ACPredictorConfig",
    }

    name: str = ""
    """`mlp`: a residual multi-layer perceptron; `recurrent`: gated recurrent units; `adaln`: a transformer whose
    normalisations the action modulates (JEPA-WMs, LeWM); `feature`: a transformer with the action among the features of
    each patch (DINO-WM); `vjepa2_ac`: V-JEPA 2-AC, with the action as a token or a feature; `module:Class`: a dataclass
    of your own."""
    context_window: int = 1
    """Past model steps the predictor sees."""

    @property
    def longest_window(self) -> int | None:
        """Frames that fit a learned position table; None without one."""
        return None

    @property
    def proprio_encodings(self) -> tuple[ProprioEncoding, ...]:
        """How proprio may enter (`model.proprio.encoding`)."""
        return ("none",)

    @property
    def integrates_pose(self) -> bool:
        """Whether a proprio token is the raw pose, which is integrated from the actions."""
        return False

    @property
    def reads_raw_proprio(self) -> bool:
        """Whether a proprio token is the proprio itself, which is read here and moved on by a fitted linear map."""
        return False

    def token_width(self, latent_dim: int) -> int:
        """Width of the tokens inside, for latents of a width."""
        return latent_dim

    def __post_init__(self) -> None:
        positive(self, "context_window")


@dataclass(frozen=True)
class MLPPredictorConfig(PredictorConfig):
    """A residual multi-layer perceptron."""

    implementation: ClassVar[str] = "jepawm.predictors.mlp:MLPPredictor"

    name: str = "mlp"
    hidden_dim: int = 256
    """Width of the hidden layers."""
    num_layers: int = 2
    """Number of hidden layers."""

    @property
    def proprio_encodings(self) -> tuple[ProprioEncoding, ...]:
        """How proprio may enter (`model.proprio.encoding`)."""
        return ("none", "token")

    @property
    def reads_raw_proprio(self) -> bool:
        """A proprio token is read beside the latent and the chunk."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "hidden_dim", "num_layers")


@dataclass(frozen=True)
class RecurrentPredictorConfig(PredictorConfig):
    """Gated recurrent units over the frames of the window."""

    implementation: ClassVar[str] = "jepawm.predictors.recurrent:RecurrentPredictor"

    name: str = "recurrent"
    hidden_dim: int = 256
    """Width of the hidden layers."""
    num_layers: int = 2
    """Number of hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "hidden_dim", "num_layers")


@dataclass(frozen=True)
class TransformerPredictorConfig(PredictorConfig):
    """What every predictor that is a transformer over patches has."""

    depth: int = 6
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads."""
    head_dim: int | None = None
    """Width of an attention head; None: token width / num_heads (`feature`: 64)."""
    mlp_dim: int | None = None
    """Width inside the feed-forward; None: 4 x token width (`feature`: 2048)."""
    dropout: float = 0.0
    """Of attention and feed-forward, while training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "depth", "num_heads", "head_dim", "mlp_dim")
        fraction(self, "dropout")


@dataclass(frozen=True)
class AdaLNPredictorConfig(TransformerPredictorConfig):
    """A transformer whose normalisations the action modulates."""

    implementation: ClassVar[str] = "jepawm.predictors.adaln:AdaLNPredictor"

    name: str = "adaln"
    embed_dim: int | None = None
    """Width that visual tokens are projected to; None: the latent's. A proprio feature is added to it."""
    position: Literal["rotary", "learned"] = "rotary"
    """Rotary over time, row and column, or a learned table over frames."""
    num_positions: int | None = None
    """Frames that a learned position table holds; the longest window. None: `context_window`."""
    rotary_pairing: RotaryPairing = "published"
    """As in `model.encoder.rotary_pairing`."""
    modulation_std: float = 0.2
    """Standard deviation of the modulation's first weights; 0: every block starts as the identity."""
    action_dims: int | None = None
    """Hidden width of the action encoder; None: the action encoder is one linear layer."""
    projector_dim: int | None = None
    """Hidden width of a projector (linear, batch normalisation, GELU, linear) behind the predictor; None: one linear
    layer."""
    input_projection: bool = True
    """A linear layer in front of the blocks."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""

    @property
    def longest_window(self) -> int | None:
        """Frames that fit a learned position table; None without one."""
        return (self.num_positions or self.context_window) if self.position == "learned" else None

    @property
    def proprio_encodings(self) -> tuple[ProprioEncoding, ...]:
        """How proprio may enter (`model.proprio.encoding`)."""
        return ("none", "feature", "token")

    def token_width(self, latent_dim: int) -> int:
        """Width of the tokens inside, for latents of a width."""
        return self.embed_dim or latent_dim

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "embed_dim", "num_positions", "action_dims", "projector_dim")
        not_negative(self, "modulation_std")
        unread = {"rotary": "num_positions", "learned": "rotary_pairing"}[self.position]
        unread_by(self, unread, f"model.predictor.position '{self.position}'")
        _check_table(self, self.num_positions)


@dataclass(frozen=True)
class FeaturePredictorConfig(TransformerPredictorConfig):
    """A transformer with the action among the features of each patch."""

    implementation: ClassVar[str] = "jepawm.predictors.feature:FeaturePredictor"

    name: str = "feature"
    num_positions: int | None = None
    """Frames that the learned position table holds; the longest window. None: `context_window`."""
    action_dims: int | None = None
    """Features the action is encoded to; None: 10."""

    @property
    def longest_window(self) -> int | None:
        """Frames that fit the learned position table."""
        return self.num_positions or self.context_window

    @property
    def proprio_encodings(self) -> tuple[ProprioEncoding, ...]:
        """How proprio may enter (`model.proprio.encoding`)."""
        return ("none", "feature")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_positions", "action_dims")
        _check_table(self, self.num_positions)


@dataclass(frozen=True)
class VJEPA2ACPredictorConfig(TransformerPredictorConfig):
    """V-JEPA 2-AC's predictor."""

    implementation: ClassVar[str] = "jepawm.predictors.tokens:TokenPredictor"

    name: str = "vjepa2_ac"
    embed_dim: int | None = None
    """Width that visual tokens are projected to; None: the latent's. A proprio feature is added to it."""
    rotary_pairing: RotaryPairing = "published"
    """As in `model.encoder.rotary_pairing`."""
    action_as: Literal["token", "feature"] = "token"
    """The action is a token in front of each frame, or features of each of its patches."""
    action_dims: int | None = None
    """With `action_as` feature: features the action is encoded to; None: 10."""

    @property
    def proprio_encodings(self) -> tuple[ProprioEncoding, ...]:
        """How proprio may enter (`model.proprio.encoding`)."""
        return ("none", "token") if self.action_as == "token" else ("none", "feature")

    @property
    def integrates_pose(self) -> bool:
        """Whether a proprio token is the raw pose, which is integrated from the actions."""
        return self.action_as == "token"

    def token_width(self, latent_dim: int) -> int:
        """Width of the tokens inside, for latents of a width."""
        return self.embed_dim or latent_dim

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "embed_dim", "action_dims")
        if self.action_as == "token":
            unread_by(self, "action_dims", "model.predictor.action_as 'token'")


def _check_table(config: PredictorConfig, num_positions: int | None) -> None:
    """Refuses a position table that is shorter than the context."""
    if num_positions is not None and num_positions < config.context_window:
        raise ConfigError(
            f"{key(config, 'num_positions')} ({num_positions}) must hold {key(config, 'context_window')} "
            f"({config.context_window}) frames"
        )
