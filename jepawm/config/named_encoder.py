"""The kinds `timm` and `huggingface` of the section `model.encoder`: any vision model of these two libraries."""

import os
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from jepawm.config.checks import positive
from jepawm.config.encoder import EncoderConfig, Tokenization
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class LibraryEncoderConfig(EncoderConfig):
    """What both kinds have. Unless they are given here, normalisation, size and resampling are the model's own."""

    model: str = ""
    """The model, by the library's name of it; must be given."""
    feature: Literal["patch", "class"] = "patch"
    """Tokens that make the latent: all normalised patch tokens (of a convolutional model: the places of its map), or
    the class token alone."""
    layer: int | None = None
    """Blocks (of a convolutional model: feature maps, as timm counts them) after which the tokens are taken, counted
    from 1, and normalised as the last ones are; None: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "layer")
        if self.normalization == "data":
            raise ConfigError(
                f"model.encoder.normalization 'data' is for encoders of jepawm's own; leave it out, and "
                f"'{self.model}' gets pixels as its configuration says"
            )

    @property
    def pixel_normalization(self) -> str | None:
        """The normalisation; None: what the model's own configuration says."""
        return self.normalization

    @property
    def resampling(self) -> str | None:
        """How frames are resized; None: as the model's own configuration says."""
        return self.resize

    @property
    def name_and_revision(self) -> tuple[str, str | None]:
        """`model` without its `@REVISION`, and the revision; None: the newest.

        Raises:
            ConfigError: No model is named. The command line names a kind before its settings, so that a kind alone
                is not refused earlier.
        """
        if not self.model:
            raise ConfigError(f"model.encoder.name '{self.name}' needs model.encoder.model, the model's name")
        if os.path.isdir(os.path.expanduser(self.model)):
            return os.path.expanduser(self.model), None
        name, _, revision = self.model.partition("@")
        return name, revision or None


@dataclass(frozen=True)
class TimmEncoderConfig(LibraryEncoderConfig):
    """A model of timm: `model` is its name there, with its tag where the weights matter: `vit_base_patch16_224.mae`.

    `NAME@REVISION` pins the revision of timm's repository on the hub.
    """

    implementation: ClassVar[str] = "jepawm.encoders.timm_model:TimmEncoder"

    name: str = "timm"
    weights: str | None = "timm"
    """`timm`: timm's pretrained weights of `model`; None: a random start; else a file in timm's format: a path,
    `https://...` or `hf://OWNER/REPO/FILE[@REVISION]`."""


@dataclass(frozen=True)
class HuggingFaceEncoderConfig(LibraryEncoderConfig):
    """A vision model of transformers: `model` is `OWNER/REPO[@REVISION]`, or a folder with `config.json`.

    Code in the repository is never run.
    """

    implementation: ClassVar[str] = "jepawm.encoders.huggingface:build_huggingface"

    name: str = "huggingface"
    weights: str | None = "huggingface"
    """`huggingface`: the weights beside the configuration of `model`; None: a random start; else a folder with
    `model.safetensors`, or such a file."""
    tokenization: Tokenization | None = None
    """Of video models, which take pairs of frames. `frame`: each frame doubled and encoded by itself; `duplicated`:
    each frame doubled, all attend to each other; `clip`: pairs of frames, so T frames give T / 2 latents. None:
    `frame` with a video model, nothing with any other one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenization == "image":
            raise ConfigError(
                "model.encoder.tokenization 'image' has no meaning for huggingface, whose video models take pairs of "
                "frames; use 'frame', or model.encoder.name vjepa2_1"
            )

    @property
    def frames_per_latent(self) -> int:
        """Frames that one latent stands for."""
        return 2 if self.tokenization == "clip" else 1

    def with_source(self, source: str | None) -> Self:
        """The same encoder with its weights from elsewhere; a folder that moved brings its configuration along."""
        if source is not None and os.path.isfile(os.path.join(os.path.expanduser(source), "config.json")):
            return replace(self, model=source, weights=self.name)
        return super().with_source(source)
