"""Any model of timm that gives feature maps: vision transformers and convolutional networks."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.named_encoder import TimmEncoderConfig
from jepawm.encoders.base import FrameEncoder, check_layer, patch_grid
from jepawm.encoders.preprocess import PixelFormat
from jepawm.errors import CheckpointError, ConfigError, did_you_mean, first_line, require
from jepawm.nn.weights import load_strict, locate, read_tensors
from jepawm.nn.wrapped import network_tensors

# timm resamples with Pillow, which filters where it makes smaller: torch's `antialias`.
_RESAMPLING = {"bilinear": "antialias", "bicubic": "bicubic"}
# What timm's models raise on images of a size that they cannot take.
_REFUSED = (AssertionError, ValueError, RuntimeError, TypeError, NotImplementedError)


class TimmEncoder(FrameEncoder):
    """Patch tokens, or the class token, of a model of timm; of a convolutional one each place of a map is a token.

    The parts behind the tokens (classifier, pooling, blocks behind `config.layer`) are left out. Where frames get
    another size than the model was trained with, timm resamples its position table once.

    Args:
        config: The model's name, its weights, and which tokens make the latent.
        image_size: Side of the square input frames, pixels.

    Raises:
        ConfigError: No such model, a layer or a token that it does not have, a size that it cannot take.
        CheckpointError: A weight file that is missing, damaged, or of another model.
        MissingDependencyError: timm is not installed.
    """

    def __init__(self, config: TimmEncoderConfig, image_size: int) -> None:
        card = _card(config)
        own = _pixel_format(config, card)
        side = config.resize_to or own.side
        is_class = config.feature == "class"
        with torch.device("meta"):
            layer, grid, width = _measure(config, card, side)
        super().__init__(config, image_size, grid=(1, 1) if is_class else grid, latent_dim=width, own=own)
        self.model_name = config.model
        self.is_class = is_class
        self.layer = layer
        self.backbone = _network(config, card, side, load=True)
        self.backbone.prune_intermediate_layers([layer - 1], prune_norm=False, prune_head=True)

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        if self.is_class:
            ((_, prefix_NLD),) = _intermediates(self.backbone, images_NCYX, [self.layer - 1], return_prefix_tokens=True)
            return prefix_NLD[:, :1]
        (map_NDYX,) = _intermediates(self.backbone, images_NCYX, [self.layer - 1])
        return map_NDYX.flatten(2).transpose(1, 2)


def _intermediates(network: Any, images_NCYX: Tensor, indices: list[int] | None, **keys: Any) -> list[Any]:
    """Maps `[N,D,Y,X]` after some layers, normalised as the last one is."""
    found: list[Any] = network.forward_intermediates(
        images_NCYX, indices=indices, norm=True, output_fmt="NCHW", intermediates_only=True, **keys
    )
    return found


def _card(config: TimmEncoderConfig) -> Any:
    """What timm knows of the model: size, normalisation, where its weights are."""
    timm = require("timm", "vision")
    name, _ = config.name_and_revision
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ConfigError(f"model.encoder.model: timm has no '{architecture}'{_close(architecture, timm)}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ConfigError(f"model.encoder.model: timm's '{architecture}' has no tag '{tag}'{did_you_mean(tag, tags)}")
    card = timm.get_pretrained_cfg(name)
    if card is None:
        raise ConfigError(f"model.encoder.model: timm has no configuration of '{name}', so its pixels are not known")
    return card


def _close(word: str, timm: Any) -> str:
    """The closest of timm's names; all of them would be more than a thousand."""
    close = did_you_mean(word, timm.list_models())
    return close if "did you mean" in close else " (timm.list_models() lists its models)"


def _pixel_format(config: TimmEncoderConfig, card: Any) -> PixelFormat:
    channels, rows, columns = card.input_size
    resampling = _RESAMPLING.get(card.interpolation)
    if channels != 3 or rows != columns:
        raise ConfigError(
            f"model.encoder.model '{config.model}' takes images [C,Y,X] = {list(card.input_size)}, expected [3,S,S]"
        )
    if resampling is None and config.resize is None:
        raise ConfigError(
            f"model.encoder.model '{config.model}' resizes by '{card.interpolation}', which jepawm does not have; set "
            "model.encoder.resize"
        )
    return PixelFormat(tuple(card.mean), tuple(card.std), rows, resampling or str(config.resize))


def _measure(config: TimmEncoderConfig, card: Any, side: int) -> tuple[int, tuple[int, int], int]:
    """The layer that is computed, rows and columns of its map, and its width, of a model without memory."""
    network = _network(config, card, side, load=False)
    if not hasattr(network, "forward_intermediates"):
        raise ConfigError(f"model.encoder.model: timm's '{config.model}' does not hand out its feature maps")
    if config.feature == "class":
        found = inspect.signature(network.forward_intermediates).parameters
        if "return_prefix_tokens" not in found or getattr(network, "cls_token", None) is None:
            raise ConfigError(f"model.encoder.feature 'class': timm's '{config.model}' has no class token")
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if patch is not None:
        patch_grid(side, side, patch if isinstance(patch, int) else patch[0])
    try:
        with torch.no_grad():
            maps = _intermediates(network.eval(), torch.zeros(1, 3, side, side), None)
    except _REFUSED as error:
        raise _refusal(config, card, side, error) from error
    layer = check_layer(config.layer, len(maps), "layers that timm hands out")
    _, width, rows, columns = maps[layer - 1].shape
    return layer, (rows, columns), width


def _network(config: TimmEncoderConfig, card: Any, side: int, *, load: bool) -> Any:
    """The model without its classifier, with its weights if they are asked for, for images of a size."""
    timm = require("timm", "vision")
    name, _ = config.name_and_revision
    network = timm.create_model(name, pretrained=False, num_classes=0)
    if load and config.weights is not None:
        _load(network, config, card)
    if side == card.input_size[-1]:
        return network
    if hasattr(network, "set_input_size"):
        try:
            network.set_input_size(img_size=(side, side))
        except _REFUSED as error:
            raise _refusal(config, card, side, error) from error
    elif card.fixed_input_size:
        raise _refusal(config, card, side, None)
    return network


def _refusal(config: TimmEncoderConfig, card: Any, side: int, error: Exception | None) -> ConfigError:
    why = f": {first_line(error)}" if error is not None else ", whose position table timm cannot resample"
    return ConfigError(
        f"model.encoder.resize_to: timm's '{config.model}' cannot take images of {side} x {side} px{why}; its own size "
        f"is {card.input_size[-1]}"
    )


def _load(network: Any, config: TimmEncoderConfig, card: Any) -> None:
    """Reads weights, strictly; the classifier of a file is left out."""
    name, revision = config.name_and_revision
    source, hint = str(config.weights), f"give a file of timm's '{name}'"
    if source == "timm":
        if card.hf_hub_id:
            file = f"hf://{card.hf_hub_id}/{card.hf_hub_filename or 'model.safetensors'}"
            source = file + (f"@{revision}" if revision else "")
        elif card.url:
            source = card.url
        else:
            raise ConfigError(f"model.encoder.weights 'timm': timm has no weights of '{name}'; {hint}")
    path = locate(source, hint=hint)
    found = network_tensors(read_tensors(path), path)
    heads = card.classifier or ()
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    tensors = {key: value for key, value in found.items() if not (prefixes and key.startswith(prefixes))}
    expected = network.state_dict()
    if not tensors.keys() <= expected.keys():
        tensors = _converted(network, tensors, path)
    load_strict(network, tensors, path, cause=f"expected timm's '{name}'")


def _converted(network: Any, found: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors by timm's names, from a file of the original authors that timm can read."""
    table, expected = found.get("pos_embed"), network.state_dict().get("pos_embed")
    # A file may hold positions of prefix tokens that timm adds to the tokens themselves; timm would resample others.
    prefix = getattr(network, "num_prefix_tokens", 0)
    if table is not None and expected is not None and abs(table.shape[1] - expected.shape[1]) > prefix:
        raise CheckpointError(
            f"{where} does not fit the model: pos_embed has shape {list(table.shape)}, expected {list(expected.shape)}"
        )
    convert = getattr(importlib.import_module(type(network).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return dict(found)
    try:
        converted: dict[str, Tensor] = convert(dict(found), network)
    except (*_REFUSED, LookupError, AttributeError) as error:
        raise CheckpointError(f"{where} is no file of this model: {first_line(error)}") from error
    return converted
