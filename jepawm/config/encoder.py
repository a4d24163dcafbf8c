"""The section `model.encoder`: one dataclass for each kind of encoder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from jepawm.config.checks import not_negative, positive, unread_by
from jepawm.config.exported import SETTINGS_FILE, check_agrees, exported_folder, exported_settings
from jepawm.config.tagged import TaggedConfig
from jepawm.config.yaml_io import to_dict
from jepawm.errors import ConfigError, did_you_mean

Tokenization = Literal["frame", "duplicated", "clip", "image"]
RotaryPairing = Literal["published", "corrected"]


@dataclass(frozen=True)
class EncoderConfig(TaggedConfig):
    """The visual encoder: what every kind has."""

    section: ClassVar[str] = "model.encoder"
    default_kind: ClassVar[str] = "conv"
    decisive: ClassVar[tuple[str, ...]] = ("weights",)
    kinds: ClassVar[dict[str, str]] = {
        "conv": "jepawm.config.encoder:ConvEncoderConfig",
        "conv_map": "jepawm.config.encoder:ConvMapEncoderConfig",
        "compact": "jepawm.config.compact:CompactEncoderConfig",
        "vit": "jepawm.config.encoder:ViTEncoderConfig",
        "dinov2": "jepawm.config.encoder:DINOv2EncoderConfig",
        "dinov3": "jepawm.config.encoder:DINOv3EncoderConfig",
        "vjepa1": "jepawm.config.encoder:VJEPA1EncoderConfig",
        "vjepa2": "jepawm.config.encoder:VJEPA2EncoderConfig",
        "vjepa2_1": "jepawm.config.encoder:VJEPA21EncoderConfig",
        "resnet18": "jepawm.config.encoder:ResNet18EncoderConfig",
        "r3m": "jepawm.config.encoder:R3MEncoderConfig",
        "timm": "jepawm.config.named_encoder:TimmEncoderConfig",
        "huggingface": "jepawm.config.named_encoder:HuggingFaceEncoderConfig",
        "pixel_statistics": "jepawm.config.encoder:PixelStatisticsEncoderConfig",
        "none": "jepawm.config.encoder:AbsentEncoderConfig",
    }

    name: str = ""
    """`conv`: a small convolutional encoder trained from pixels, one token per frame; `conv_map`: convolutions alone,
    one token per place of their last map; `compact`: a small latent on top of another encoder, which is frozen; `vit`:
    a vision transformer from scratch; `dinov2`, `dinov3`, `vjepa1`, `vjepa2`, `vjepa2_1`, `resnet18`, `r3m`: the
    published backbones; `timm`, `huggingface`: any vision model of these libraries; `pixel_statistics`: mean and
    deviation of colours, a control without weights; `none`: latents are given, there is nothing to encode pixels with;
    `module:Class`: a dataclass of your own."""
    trainable: bool = True
    """Off: frozen, in evaluation mode, and never part of a gradient."""
    normalization: Literal["symmetric", "imagenet", "imagenet_after_symmetric", "data"] | None = None
    """Of pixels: to [-1, 1] (mean and deviation 0.5), by ImageNet's mean and deviation, by those of pixels that are in
    [-1, 1] already (what DINO-WM feeds its ResNets), or by the mean picture of the training episodes and the deviation
    from it (`data`: taken when training starts, kept with the weights). None: `symmetric`; with `timm` and
    `huggingface` what the model's own configuration says."""
    resize_to: int | None = None
    """Side the frames are resized to first, pixels; None: the frames keep their size, and with `timm` and
    `huggingface` get the size of the model's own configuration."""
    resize: Literal["bilinear", "antialias", "bicubic"] | None = None
    """Bilinear as JEPA-WMs and V-JEPA 2-AC resize, with antialiasing as DINO-WM does, or bicubic with antialiasing.
    None: bilinear; with `timm` and `huggingface` what the model's own configuration says."""
    projector_dim: int | None = None
    """Hidden width of a projector (linear, batch normalisation, GELU, linear) behind the encoder; None: no
    projector."""

    @classmethod
    def expanded(cls, data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str]:
        """Settings with those of the encoder folder that `weights` names, if it names one.

        Raises:
            ConfigError: Settings other than the folder's.
        """
        full, origin = super().expanded(data, where)
        source = full.get("weights")
        folder = exported_folder(source) if isinstance(source, str) else None
        if folder is None:
            return full, origin
        settings = exported_settings(folder)
        if all(full.get(key) is not None for key in settings):
            # Of a run that has its settings already; they are compared when the weights are read.
            return full, origin
        check_agrees(folder, full)
        return {**full, **settings}, os.path.join(folder, SETTINGS_FILE)

    @classmethod
    def decides_others(cls, key: str, value: str) -> bool:
        """Whether weights are an encoder folder, with settings in it."""
        return key == "weights" and exported_folder(value) is not None

    @property
    def has_weights(self) -> bool:
        """Whether it has weights, random or pretrained; what has none is frozen, and never noise."""
        return True

    @property
    def weights_source(self) -> str | None:
        """Where pretrained weights come from; None for a random start."""
        source: str | None = getattr(self, "weights", None)
        return source

    @property
    def reads_features(self) -> bool:
        """Whether it trains on stored features of a frozen part."""
        return False

    @property
    def frames_per_latent(self) -> int:
        """Frames that one latent stands for."""
        return 1

    @property
    def pixel_normalization(self) -> str | None:
        """The normalisation; None: what the model's own configuration says."""
        return self.normalization or "symmetric"

    @property
    def resampling(self) -> str | None:
        """How frames are resized; None: as the model's own configuration says."""
        return self.resize or "bilinear"

    def with_source(self, source: str | None) -> Self:
        """The same encoder with its weights from elsewhere; None: a random start."""
        changed: dict[str, Any] = {"weights": source}
        return replace(self, **changed)

    def __post_init__(self) -> None:
        positive(self, "resize_to", "projector_dim")
        if self.normalization == "data":
            unread_by(self, "resize_to", "model.encoder.normalization 'data', whose mean picture has the frames' size")
            if self.weights_source is not None:
                raise ConfigError(
                    "model.encoder.normalization 'data' is for encoders that begin at random; pretrained weights "
                    "expect the normalisation that they were trained with"
                )
        if self.projector_dim is not None and self.weights_source is not None and not self.trainable:
            raise ConfigError(
                "model.encoder.projector_dim: a projector behind a frozen pretrained encoder never trains"
            )


@dataclass(frozen=True)
class ConvEncoderConfig(EncoderConfig):
    """A small convolutional encoder, trained from pixels."""

    implementation: ClassVar[str] = "jepawm.encoders.conv:ConvEncoder"

    name: str = "conv"
    latent_dim: int = 64
    """Latent width D."""
    channels: tuple[int, ...] = (16, 32, 32)
    """Output channels of each convolution."""
    kernel_sizes: tuple[int, ...] = (5, 3, 3)
    """Kernel side of each convolution."""
    strides: tuple[int, ...] = (4, 2, 2)
    """Stride of each convolution."""
    hidden_dim: int = 256
    """Width of the layer between the convolutions and the latent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "latent_dim", "hidden_dim")
        if not len(self.channels) == len(self.kernel_sizes) == len(self.strides):
            raise ConfigError(
                "model.encoder.channels, kernel_sizes and strides must have one number a layer, found "
                f"{len(self.channels)}, {len(self.kernel_sizes)} and {len(self.strides)}"
            )


@dataclass(frozen=True)
class ConvMapEncoderConfig(EncoderConfig):
    """Convolutions alone, trained from pixels: each place of the last map is a token."""

    implementation: ClassVar[str] = "jepawm.encoders.conv:ConvMapEncoder"

    name: str = "conv_map"
    channels: tuple[int, ...] = (32, 64, 64, 16)
    """Output channels of each convolution; the last number is the latent width D."""
    kernel_sizes: tuple[int, ...] = (6, 3, 3, 3)
    """Kernel side of each convolution, at least its stride."""
    strides: tuple[int, ...] = (4, 2, 1, 2)
    """Stride of each convolution; their product divides the side of the frames, and the quotient is the map's side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.channels) == len(self.kernel_sizes) == len(self.strides):
            raise ConfigError(
                "model.encoder.channels, kernel_sizes and strides must have one number a layer, found "
                f"{len(self.channels)}, {len(self.kernel_sizes)} and {len(self.strides)}"
            )
        if any(kernel < stride for kernel, stride in zip(self.kernel_sizes, self.strides, strict=True)):
            raise ConfigError(
                f"model.encoder.kernel_sizes {list(self.kernel_sizes)} must be at least model.encoder.strides "
                f"{list(self.strides)}: a smaller kernel skips pixels"
            )


@dataclass(frozen=True)
class TransformerEncoderConfig(EncoderConfig):
    """What every encoder that is a vision transformer has."""

    sizes: ClassVar[tuple[str, ...]] = ()

    weights: str | None = None
    """None: a random start; `timm`: timm's pretrained weights; else a file: a path, `https://...` or
    `hf://OWNER/REPO/FILE[@REVISION]`; or an encoder folder of a pretraining (RUN/encoder), whose settings come with it.
    `vjepa2_1` knows its published files by name, e.g. vjepa2_1_vit_base_384."""
    size: str | None = None
    """Published size of the transformer; None: the smallest there is."""
    latent_dim: int | None = None
    """Latent width D; None: the size's."""
    depth: int | None = None
    """Transformer blocks; None: the size's."""
    num_heads: int | None = None
    """Attention heads; None: the size's."""
    mlp_ratio: float | None = None
    """Width inside a block's feed-forward over D; None: the size's."""
    patch_size: int | None = None
    """Side of a patch, pixels; None: the published one."""
    layer: int | None = None
    """Blocks after which the tokens are taken, counted from 1, and normalised as the last ones are; None: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "latent_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "layer")
        if self.size is not None and self.size not in self.sizes:
            raise ConfigError(
                f"model.encoder.size '{self.size}' is not a size of {self.name}{did_you_mean(self.size, self.sizes)}"
            )


@dataclass(frozen=True)
class ViTEncoderConfig(TransformerEncoderConfig):
    """A plain vision transformer, trained from pixels."""

    implementation: ClassVar[str] = "jepawm.encoders.vit:ViTEncoder"
    sizes: ClassVar[tuple[str, ...]] = ("tiny", "small", "base", "large")

    name: str = "vit"
    feature: Literal["patch", "class"] = "patch"
    """Tokens that make the latent: all normalised patch tokens, or the class token alone."""


@dataclass(frozen=True)
class DINOv2EncoderConfig(TransformerEncoderConfig):
    """DINOv2."""

    implementation: ClassVar[str] = "jepawm.encoders.dino:DINOv2Encoder"
    sizes: ClassVar[tuple[str, ...]] = ("small", "base", "large", "giant")

    name: str = "dinov2"
    feature: Literal["patch", "class"] = "patch"
    """Tokens that make the latent: all normalised patch tokens, or the class token alone."""
    num_registers: Literal[0, 4] = 0
    """Register tokens."""
    position_grid: int | None = None
    """Side, in patches, of the position table, resized to the frames' grid; None: the published one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "position_grid")
        if self.num_registers not in (0, 4):
            raise ConfigError(f"model.encoder.num_registers of dinov2 is 0 or 4, found {self.num_registers}")


@dataclass(frozen=True)
class DINOv3EncoderConfig(TransformerEncoderConfig):
    """DINOv3."""

    implementation: ClassVar[str] = "jepawm.encoders.dino:DINOv3Encoder"
    sizes: ClassVar[tuple[str, ...]] = ("small", "small_plus", "base", "large", "huge_plus")

    name: str = "dinov3"
    feature: Literal["patch", "class"] = "patch"
    """Tokens that make the latent: all normalised patch tokens, or the class token alone."""


@dataclass(frozen=True)
class VideoEncoderConfig(TransformerEncoderConfig):
    """What all V-JEPA encoders have."""

    implementation: ClassVar[str] = "jepawm.encoders.vjepa:VJEPAEncoder"
    takes_images: ClassVar[bool] = False

    weights_part: Literal["target_encoder", "encoder"] = "target_encoder"
    """Which network of a published file: the moving average, or the one that was trained."""
    tokenization: Tokenization = "frame"
    """Video encoders take pairs of frames. `frame`: each frame doubled and encoded by itself; `duplicated`: each frame
    doubled, all attend to each other; `clip`: pairs of frames, so T frames give T / 2 latents; `image` (vjepa2_1): each
    frame encoded by itself as an image."""

    @property
    def frames_per_latent(self) -> int:
        """Frames that one latent stands for."""
        return 2 if self.tokenization == "clip" else 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenization == "image" and not self.takes_images:
            raise ConfigError(
                f"model.encoder.tokenization 'image' has no meaning for {self.name}, which takes pairs of frames; "
                "use 'frame', or model.encoder.name vjepa2_1"
            )


@dataclass(frozen=True)
class VJEPA1EncoderConfig(VideoEncoderConfig):
    """V-JEPA."""

    sizes: ClassVar[tuple[str, ...]] = ("large",)

    name: str = "vjepa1"
    position_grid: int | None = None
    """Side, in patches, of the position table, resized to the frames' grid; None: the published one."""
    position_times: int | None = None
    """Pairs of frames that the position table is made for; None: the published 8."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "position_grid", "position_times")


@dataclass(frozen=True)
class VJEPA2EncoderConfig(VideoEncoderConfig):
    """V-JEPA 2."""

    sizes: ClassVar[tuple[str, ...]] = ("tiny", "small", "base", "large", "huge", "giant")

    name: str = "vjepa2"
    rotary_pairing: RotaryPairing = "published"
    """Rotary position embedding as the checkpoints were trained, or with its frequencies paired as they should be."""


@dataclass(frozen=True)
class VJEPA21EncoderConfig(VideoEncoderConfig):
    """V-JEPA 2.1."""

    implementation: ClassVar[str] = "jepawm.encoders.vjepa2_1:VJEPA21Encoder"
    takes_images: ClassVar[bool] = True
    sizes: ClassVar[tuple[str, ...]] = ("base", "large", "giant", "gigantic")

    name: str = "vjepa2_1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth is not None and self.depth < 4:
            raise ConfigError(
                f"model.encoder.depth of vjepa2_1 must be at least 4, for it is read at four depths; found {self.depth}"
            )


@dataclass(frozen=True)
class ResNet18EncoderConfig(EncoderConfig):
    """A ResNet-18, one token per frame."""

    implementation: ClassVar[str] = "jepawm.encoders.resnet:ResNetEncoder"

    name: str = "resnet18"
    weights: str | None = None
    """None: a random start; else a file: a path, `https://...` or `hf://OWNER/REPO/FILE[@REVISION]`."""


@dataclass(frozen=True)
class R3MEncoderConfig(EncoderConfig):
    """R3M: a ResNet-18 pretrained on videos of people, one token per frame."""

    implementation: ClassVar[str] = "jepawm.encoders.resnet:ResNetEncoder"

    name: str = "r3m"
    weights: str | None = None
    """None: a random start; else a file: a path, `https://...` or `hf://OWNER/REPO/FILE[@REVISION]`."""


@dataclass(frozen=True)
class PixelStatisticsEncoderConfig(EncoderConfig):
    """Mean and deviation of the colours in each cell of a coarse grid: what an encoder has to beat."""

    implementation: ClassVar[str] = "jepawm.encoders.pixel_statistics:PixelStatisticsEncoder"

    name: str = "pixel_statistics"
    trainable: bool = False
    """It has no weights; must be off."""
    cells: int = 8
    """Rows and columns of the grid; they divide the side of the frames."""

    @property
    def has_weights(self) -> bool:
        """It has none."""
        return False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "cells")
        unread_by(self, "trainable", "model.encoder.name 'pixel_statistics', which has no weights")
        if self.normalization == "data":
            raise ConfigError(
                "model.encoder.normalization 'data' is taken when an encoder trains, and 'pixel_statistics' never does"
            )


@dataclass(frozen=True)
class AbsentEncoderConfig(EncoderConfig):
    """No encoder: latents are given."""

    implementation: ClassVar[str] = "jepawm.encoders.absent:AbsentEncoder"

    name: str = "none"
    latent_dim: int = 0
    """Latent width D; must be given."""
    patch_size: int = 0
    """Side of a patch, pixels; must be given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "latent_dim", "patch_size")
        if not (self.latent_dim and self.patch_size):
            raise ConfigError("model.encoder.name 'none' needs model.encoder.latent_dim and model.encoder.patch_size")


def with_weights(config: EncoderConfig, source: str | None) -> EncoderConfig:
    """The same encoder with its weights from elsewhere; None: a random start.

    Raises:
        ConfigError: An encoder that takes no weights.
    """
    if not hasattr(config, "weights"):
        if source is None:
            return config
        raise ConfigError(f"model.encoder.name '{config.name}' takes no weights, found '{source}'")
    return config.with_source(source)


def without_weights(config: EncoderConfig) -> EncoderConfig:
    """The same encoder with a random start."""
    return with_weights(config, None)


def shaping_settings(config: EncoderConfig) -> dict[str, Any]:
    """Settings that decide what an encoder makes of a frame, besides its weights, as plain data."""
    found = {key: value for key, value in to_dict(config).items() if key not in ("weights", "trainable")}
    if found.get("layer", 0) is None:
        # Features that were stored before there was a choice of layers are those of the last one.
        del found["layer"]
    # The defaults were written out by name once; features that were stored then stay valid.
    return found | {"normalization": config.pixel_normalization, "resize": config.resampling}
