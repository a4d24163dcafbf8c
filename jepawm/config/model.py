"""The sections of `model`: encoder, predictor, proprio."""

from dataclasses import dataclass, field
from typing import Literal

from jepawm.config.checks import fraction, not_negative, only_keys_of, positive, unread_by
from jepawm.errors import ConfigError, did_you_mean

EncoderName = Literal["conv", "vit", "dinov2", "dinov3", "vjepa1", "vjepa2", "resnet18", "r3m", "none"]
Size = Literal["tiny", "small", "small_plus", "base", "large", "huge", "huge_plus", "giant"]

_SIZES: dict[str, tuple[str, ...]] = {
    "vit": ("tiny", "small", "base", "large"),
    "dinov2": ("small", "base", "large", "giant"),
    "dinov3": ("small", "small_plus", "base", "large", "huge_plus"),
    "vjepa1": ("large",),
    "vjepa2": ("small", "base", "large", "huge", "giant"),
}
_OF_TRANSFORMERS = {"size", "latent_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "feature", "weights"}
_OF_TRANSFORMERS |= {"num_registers", "tokenization", "rotary_pairing", "position_grid", "weights_part"}
_COMMON_KEYS = {"name", "trainable", "normalization", "resize_to", "resize", "projector_dim"}
_ENCODER_KEYS: dict[str, set[str]] = {
    "conv": {"latent_dim", "channels", "kernel_sizes", "strides", "hidden_dim"},
    "vit": {"size", "latent_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "feature", "weights"},
    "dinov2": _OF_TRANSFORMERS - {"tokenization", "rotary_pairing", "weights_part"},
    "dinov3": _OF_TRANSFORMERS - {"tokenization", "rotary_pairing", "num_registers", "position_grid", "weights_part"},
    "vjepa1": _OF_TRANSFORMERS - {"feature", "num_registers", "rotary_pairing"},
    "vjepa2": _OF_TRANSFORMERS - {"feature", "num_registers", "position_grid"},
    "resnet18": {"weights"},
    "r3m": {"weights"},
    "none": {"latent_dim", "patch_size"},
}


@dataclass(frozen=True)
class EncoderConfig:
    """The visual encoder."""

    name: EncoderName = "conv"
    """`conv`: a small convolutional encoder trained from pixels, one token per frame; `vit`: a vision transformer from
    scratch; `dinov2`, `dinov3`, `vjepa1`, `vjepa2`, `resnet18`, `r3m`: the published backbones; `none`: latents are
    given, there is nothing to encode pixels with."""
    size: Size | None = None
    """Published size of a transformer; None: the smallest there is."""
    weights: str | None = None
    """None: a random start; `timm`: timm's pretrained weights; else a file: a path, `https://...` or
    `hf://OWNER/REPO/FILE[@REVISION]`."""
    weights_part: Literal["target_encoder", "encoder"] = "target_encoder"
    """`vjepa1`, `vjepa2`: which network of a published file: the moving average, or the one that was trained."""
    trainable: bool = True
    """Off: frozen, in evaluation mode, and never part of a gradient."""
    feature: Literal["patch", "class"] = "patch"
    """Tokens that make the latent: all normalised patch tokens, or the class token alone."""
    normalization: Literal["symmetric", "imagenet", "imagenet_after_symmetric"] = "symmetric"
    """Of pixels: to [-1, 1] (mean and deviation 0.5), by ImageNet's mean and deviation, or by those of pixels that are
    in [-1, 1] already (what DINO-WM feeds its ResNets)."""
    resize_to: int = 0
    """Side the frames are resized to first, pixels; 0: as they are."""
    resize: Literal["bilinear", "antialias"] = "bilinear"
    """Bilinear as JEPA-WMs and V-JEPA 2-AC resize, or with antialiasing as DINO-WM does."""
    latent_dim: int = 0
    """Latent width D; 0: the size's (conv: 64)."""
    depth: int = 0
    """Transformer blocks; 0: the size's."""
    num_heads: int = 0
    """Attention heads; 0: the size's."""
    mlp_ratio: float = 0.0
    """Width inside a block's feed-forward over D; 0: the size's."""
    patch_size: int = 0
    """Side of a patch, pixels; 0: the published one."""
    num_registers: int = 0
    """Register tokens (`dinov2`: 0 or 4)."""
    position_grid: int = 0
    """Side, in patches, of the position table (`dinov2`, `vjepa1`), resized to the frames' grid; 0: the published
    one."""
    tokenization: Literal["frame", "duplicated", "clip"] = "frame"
    """Video encoders take pairs of frames. `frame`: each frame doubled and encoded by itself; `duplicated`: each frame
    doubled, all attend to each other; `clip`: pairs of frames, so T frames give T / 2 latents."""
    rotary_pairing: Literal["published", "corrected"] = "published"
    """Rotary position embedding as the checkpoints were trained, or with its frequencies paired as they should be."""
    projector_dim: int = 0
    """Hidden width of a projector (linear, batch normalisation, GELU, linear) behind the encoder; 0: none."""
    channels: tuple[int, ...] = (16, 32, 32)
    """`conv`: output channels of each convolution."""
    kernel_sizes: tuple[int, ...] = (5, 3, 3)
    """`conv`: kernel side of each convolution."""
    strides: tuple[int, ...] = (4, 2, 2)
    """`conv`: stride of each convolution."""
    hidden_dim: int = 256
    """`conv`: width of the layer between the convolutions and the latent."""

    def __post_init__(self) -> None:
        not_negative(self, "latent_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "resize_to")
        not_negative(self, "num_registers", "position_grid", "projector_dim")
        positive(self, "hidden_dim")
        only_keys_of(self, _COMMON_KEYS | _ENCODER_KEYS[self.name])
        if self.size is not None and self.size not in _SIZES[self.name]:
            hint = did_you_mean(self.size, _SIZES[self.name])
            raise ConfigError(f"model.encoder.size '{self.size}' is not a size of {self.name}{hint}")
        if self.name == "none" and not (self.latent_dim and self.patch_size):
            raise ConfigError("model.encoder.name 'none' needs model.encoder.latent_dim and model.encoder.patch_size")
        if self.projector_dim and self.weights is not None and not self.trainable:
            raise ConfigError(
                "model.encoder.projector_dim: a projector behind a frozen pretrained encoder never trains"
            )
        if not len(self.channels) == len(self.kernel_sizes) == len(self.strides):
            raise ConfigError(
                "model.encoder.channels, kernel_sizes and strides must have one number a layer, found "
                f"{len(self.channels)}, {len(self.kernel_sizes)} and {len(self.strides)}"
            )


_TRANSFORMER_KEYS = {"depth", "num_heads", "head_dim", "embed_dim", "mlp_dim", "dropout"}
_PREDICTOR_KEYS: dict[str, set[str]] = {
    "mlp": {"hidden_dim", "num_layers"},
    "recurrent": {"hidden_dim", "num_layers"},
    "adaln": _TRANSFORMER_KEYS
    | {"position", "num_positions", "rotary_pairing", "modulation_std", "action_dims", "projector_dim"}
    | {"input_projection", "qkv_bias"},
    "feature": _TRANSFORMER_KEYS | {"num_positions", "action_dims"},
    "vjepa2_ac": _TRANSFORMER_KEYS | {"rotary_pairing", "action_as", "action_dims"},
}


@dataclass(frozen=True)
class PredictorConfig:
    """The action-conditioned predictor."""

    name: Literal["mlp", "recurrent", "adaln", "feature", "vjepa2_ac"] = "mlp"
    """`mlp`: a residual multi-layer perceptron; `recurrent`: gated recurrent units; `adaln`: a transformer whose
    normalisations the action modulates (JEPA-WMs, LeWM); `feature`: a transformer with the action among the features of
    each patch (DINO-WM); `vjepa2_ac`: V-JEPA 2-AC, with the action as a token or a feature."""
    context_window: int = 1
    """Past model steps the predictor sees."""
    hidden_dim: int = 256
    """`mlp`, `recurrent`: width of the hidden layers."""
    num_layers: int = 2
    """`mlp`, `recurrent`: number of hidden layers."""
    embed_dim: int = 0
    """Width that visual tokens are projected to; 0: the latent's. A proprio feature is added to it."""
    depth: int = 6
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads."""
    head_dim: int = 0
    """Width of an attention head; 0: token width / num_heads (`feature`: 64)."""
    mlp_dim: int = 0
    """Width inside the feed-forward; 0: 4 x token width (`feature`: 2048)."""
    dropout: float = 0.0
    """Of attention and feed-forward, while training."""
    position: Literal["rotary", "learned"] = "rotary"
    """`adaln`: rotary over time, row and column, or a learned table over frames."""
    num_positions: int = 0
    """Frames that a learned position table holds; the longest window. 0: `context_window`."""
    rotary_pairing: Literal["published", "corrected"] = "published"
    """As in `model.encoder.rotary_pairing`."""
    modulation_std: float = 0.2
    """`adaln`: standard deviation of the modulation's first weights; 0: every block starts as the identity."""
    action_as: Literal["token", "feature"] = "token"
    """`vjepa2_ac`: the action is a token in front of each frame, or features of each of its patches."""
    action_dims: int = 0
    """`feature`, and `vjepa2_ac` with action_as feature: features the action is encoded to (0: 10). `adaln`: hidden
    width of the action encoder (0: it is one linear layer)."""
    projector_dim: int = 0
    """`adaln`: hidden width of a projector (linear, batch normalisation, GELU, linear) behind the predictor; 0: one
    linear layer."""
    input_projection: bool = True
    """`adaln`: a linear layer in front of the blocks."""
    qkv_bias: bool = True
    """`adaln`: whether queries, keys and values have a bias."""

    @property
    def longest_window(self) -> int | None:
        """Frames that fit a learned position table; None without one."""
        has_table = self.name == "feature" or (self.name == "adaln" and self.position == "learned")
        return (self.num_positions or self.context_window) if has_table else None

    def __post_init__(self) -> None:
        positive(self, "hidden_dim", "num_layers", "context_window", "depth", "num_heads")
        not_negative(self, "embed_dim", "head_dim", "mlp_dim", "num_positions", "modulation_std", "action_dims")
        not_negative(self, "projector_dim")
        fraction(self, "dropout")
        only_keys_of(self, {"name", "context_window"} | _PREDICTOR_KEYS[self.name])
        if self.name == "adaln":
            unread = {"rotary": "num_positions", "learned": "rotary_pairing"}[self.position]
            unread_by(self, unread, f"model.predictor.position '{self.position}'")
        if self.num_positions and self.num_positions < self.context_window:
            raise ConfigError(
                f"model.predictor.num_positions ({self.num_positions}) must hold model.predictor.context_window "
                f"({self.context_window}) frames"
            )
        if self.name == "vjepa2_ac" and self.action_as == "token":
            unread_by(self, "action_dims", "model.predictor.action_as 'token'")


@dataclass(frozen=True)
class ProprioConfig:
    """How the robot's own state enters the latent."""

    encoding: Literal["none", "feature", "token"] = "none"
    """`none`: the model sees pixels alone; `feature`: encoded, and among the features of every patch; `token`: a token
    of its own in front of each frame."""
    dims: int = 0
    """`feature`: features it is encoded to; 0: 16."""
    update: Literal["predict", "integrate_pose"] = "predict"
    """How it moves on: predicted with the latent, or integrated from the actions as a pose (position, Euler angles,
    gripper), as V-JEPA 2-AC does."""

    def __post_init__(self) -> None:
        not_negative(self, "dims")
        if self.encoding != "feature":
            unread_by(self, "dims", f"model.proprio.encoding '{self.encoding}'")


@dataclass(frozen=True)
class ModelConfig:
    """The world model: an encoder and a predictor."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    proprio: ProprioConfig = field(default_factory=ProprioConfig)
    normalize_latents: bool = False
    """Normalise every visual token to mean 0 and deviation 1, encoded and predicted ones alike, without parameters."""

    def __post_init__(self) -> None:
        encoding, predictor = self.proprio.encoding, self.predictor
        allowed = {
            "mlp": ("none",),
            "recurrent": ("none",),
            "adaln": ("none", "feature", "token"),
            "feature": ("none", "feature"),
            "vjepa2_ac": ("none", "token") if predictor.action_as == "token" else ("none", "feature"),
        }[predictor.name]
        if encoding not in allowed:
            raise ConfigError(
                f"model.proprio.encoding '{encoding}' does not go with model.predictor.name '{predictor.name}'"
                + (f" and action_as '{predictor.action_as}'" if predictor.name == "vjepa2_ac" else "")
                + f"; it takes {' or '.join(allowed)}"
            )
        raw = predictor.name == "vjepa2_ac" and encoding == "token"
        if raw != (self.proprio.update == "integrate_pose"):
            raise ConfigError(
                "model.proprio.update 'integrate_pose' goes with a proprio token of model.predictor.name 'vjepa2_ac', "
                "and only with that: there the latent holds the pose itself"
            )
