"""What a model's own files on the Hugging Face hub say of it: its kind, its sizes, and the images it takes."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jepawm.config.named_encoder import HuggingFaceEncoderConfig
from jepawm.encoders.preprocess import PixelFormat
from jepawm.errors import CheckpointError, ConfigError, first_line, require
from jepawm.nn.weights import offline

EXTRA = "huggingface"
_PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
# Pillow's numbers of its filters, which filter where they make smaller: torch's `antialias`.
_RESAMPLING = {2: "antialias", 3: "bicubic", "bilinear": "antialias", "bicubic": "bicubic"}


@dataclass(frozen=True)
class Family:
    """What a kind of model does that its configuration does not say.

    Attributes:
        prefix: Tokens before those of the patches.
        has_class: Whether the first of them is a class token.
        resamples: Whether the model resamples its positions unasked; else it is asked to.
        unnormalised: The final normalisation, where the model applies it to its class token alone.
        no_pooling: What keeps the model from having a pooling layer behind its tokens.
    """

    prefix: Callable[[Any], int]
    has_class: bool = True
    resamples: bool = False
    unnormalised: str | None = None
    no_pooling: str | None = None


def _with_registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


# By `model_type` of config.json, of the tower that sees.
FAMILIES = {
    "vit": Family(lambda _: 1, no_pooling="add_pooling_layer"),
    "deit": Family(lambda _: 2, no_pooling="add_pooling_layer"),
    "ijepa": Family(lambda _: 0, has_class=False, no_pooling="add_pooling_layer"),
    "vit_mae": Family(lambda _: 1),
    "dinov2": Family(lambda _: 1, resamples=True),
    "dinov2_with_registers": Family(_with_registers, resamples=True),
    "dinov3_vit": Family(_with_registers, resamples=True),
    "siglip_vision_model": Family(lambda _: 0, has_class=False),
    "clip_vision_model": Family(lambda _: 1, unnormalised="post_layernorm"),
}
VIDEO = "vjepa2"


@dataclass(frozen=True)
class Card:
    """A model's configuration, read.

    Attributes:
        name: Repository or folder.
        revision: Of the repository.
        config: Of the tower that sees, as transformers has it.
        own: What images it takes.
    """

    name: str
    revision: str | None
    config: Any
    own: PixelFormat


def read_card(config: HuggingFaceEncoderConfig) -> Card:
    """Reads `config.json` and what stands beside it about pixels.

    Raises:
        ConfigError: A model of a kind that is not known here, or files that leave open what no setting says.
        CheckpointError: Files that are missing or damaged.
        MissingDependencyError: transformers is not installed.
    """
    transformers = require("transformers", EXTRA)
    name, revision = config.name_and_revision
    try:
        found = transformers.AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=False, local_files_only=offline()
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"model.encoder.model '{config.model}': its config.json cannot be read: {first_line(error)}; expected "
            "OWNER/REPO[@REVISION] of the hub, or a folder with config.json and model.safetensors"
        ) from error
    # A model of pictures and text: the tower that sees.
    found = getattr(found, "vision_config", found)
    if found.model_type not in (*FAMILIES, VIDEO):
        raise ConfigError(
            f"model.encoder.model '{config.model}' is of type '{found.model_type}', of which jepawm does not know "
            f"where the tokens of patches lie; known: {', '.join((*FAMILIES, VIDEO))}. timm may have the same network: "
            "model.encoder.name timm"
        )
    channels = found.num_channels if hasattr(found, "num_channels") else found.in_chans
    if channels != 3:
        raise ConfigError(f"model.encoder.model '{config.model}' does not take images of three channels")
    return Card(name, revision, found, _pixel_format(config, name, revision, found))


def native_side(card: Card) -> int | None:
    """Side of the images that the position table was made for, pixels."""
    return _side(card.config.image_size)


def patch_size(card: Card) -> int:
    """Side of a patch, pixels.

    Raises:
        ConfigError: Patches that are no squares.
    """
    size = _side(card.config.patch_size)
    if size is None:
        raise ConfigError(f"'{card.name}': patches of {card.config.patch_size} px are no squares, which jepawm expects")
    return size


def _pixel_format(config: HuggingFaceEncoderConfig, name: str, revision: str | None, found: Any) -> PixelFormat:
    """What the files beside `config.json` say of pixels; what a setting decides need not stand there."""
    processor, where = _processor(name, revision)
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if processor.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    if config.normalization is None and (mean is None or std is None or len(mean) != 3 or len(std) != 3):
        raise ConfigError(
            f"model.encoder.model '{config.model}' does not say how pixels are normalised (image_mean and image_std of "
            f"{where}); set model.encoder.normalization"
        )
    rescale = processor.get("rescale_factor", 1 / 255)
    if config.normalization is None and (processor.get("do_rescale") is False or abs(rescale * 255 - 1) > 1e-3):
        raise ConfigError(
            f"model.encoder.model '{config.model}' does not take pixels in [0, 1] ({where}: rescale_factor {rescale}); "
            "set model.encoder.normalization"
        )
    cropped = processor.get("do_center_crop", "crop_size" in processor) and processor.get("crop_size")
    side = _side(
        cropped or processor.get("size") or getattr(found, "image_size", None) or getattr(found, "crop_size", None)
    )
    if side is None and config.resize_to is None:
        raise ConfigError(
            f"model.encoder.model '{config.model}' does not say the size of its images; set model.encoder.resize_to"
        )
    resize = _RESAMPLING.get(processor.get("resample", 2))
    if resize is None and config.resize is None:
        raise ConfigError(
            f"model.encoder.model '{config.model}' resizes by filter {processor['resample']} of Pillow, which jepawm "
            "does not have; set model.encoder.resize"
        )
    return PixelFormat(
        tuple(mean or (0.0,) * 3),
        tuple(std or (1.0,) * 3),
        side or int(config.resize_to or 0),
        resize or str(config.resize),
    )


def _processor(name: str, revision: str | None) -> tuple[dict[str, Any], str]:
    """What the model's own preprocessing is, and the file that says so; nothing where there is no such file."""
    cached_file = importlib.import_module("transformers.utils").cached_file
    for file in _PROCESSORS:
        try:
            path = cached_file(
                name,
                file,
                revision=revision,
                local_files_only=offline(),
                _raise_exceptions_for_missing_entries=False,
            )
            if path is None:
                continue
            with open(path, encoding="utf-8") as opened:
                found = json.load(opened)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{name}: {file} cannot be read: {first_line(error)}") from error
        return found.get("image_processor") or found.get("video_processor") or found, file
    return {}, _PROCESSORS[0]


def _side(size: Any) -> int | None:
    """Side of a square of pixels, of what configurations call a size; None: none is said."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or [size.get("height"), size.get("width")]
    if isinstance(size, list | tuple):
        size = size[0] if len({*size}) == 1 else None
    return int(size) if isinstance(size, int | float) else None
