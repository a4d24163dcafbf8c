"""Vision models of Hugging Face's transformers: image models, and V-JEPA 2, which takes tubelets."""

import importlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from jepawm.config.named_encoder import HuggingFaceEncoderConfig
from jepawm.encoders.base import Encoder, FrameEncoder, as_clips, check_layer, compute_dtype, patch_grid
from jepawm.encoders.huggingface_card import EXTRA, FAMILIES, VIDEO, Card, Family, native_side, patch_size, read_card
from jepawm.encoders.preprocess import Preprocess
from jepawm.errors import CheckpointError, ConfigError, first_line, require
from jepawm.nn.precision import at_least_float32
from jepawm.nn.weights import offline, read_tensors

# Parts of a published file beside the network that gives tokens.
_OTHER_PARTS = (
    *("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias"),
    *("decoder.", "predictor.", "pooler.", "classifier.", "head.", "vision_model.head.", "lm_head."),
)


def build_huggingface(config: HuggingFaceEncoderConfig, image_size: int) -> Encoder:
    """The encoder of a model of transformers.

    Args:
        config: The model, its weights, and which tokens make the latent.
        image_size: Side of the square frames, pixels.

    Raises:
        ConfigError: A model that is unknown, that jepawm cannot read tokens of, or that contradicts the settings.
        CheckpointError: Files that are missing, damaged, or of another model.
        MissingDependencyError: transformers is not installed.
    """
    card = read_card(config)
    if card.config.model_type == VIDEO:
        return HuggingFaceVideoEncoder(config, image_size, card)
    return HuggingFaceImageEncoder(config, image_size, card)


class HuggingFaceImageEncoder(FrameEncoder):
    """Patch tokens, or the class token, of an image model.

    Args:
        config: Which tokens make the latent, and where the weights are.
        image_size: Side of the square input frames, pixels.
        card: The model's own configuration.

    Raises:
        ConfigError: A token or a layer that the model does not have, a size that patches do not divide.
        CheckpointError: Weights that are missing, damaged, or of another model.
    """

    def __init__(self, config: HuggingFaceEncoderConfig, image_size: int, card: Card) -> None:
        family = FAMILIES[card.config.model_type]
        side, is_class = config.resize_to or card.own.side, config.feature == "class"
        if is_class and not family.has_class:
            raise ConfigError(f"model.encoder.feature 'class': '{config.model}' has no class token")
        if config.tokenization is not None:
            raise ConfigError(
                f"model.encoder.tokenization is for video models, and '{config.model}' ({card.config.model_type}) sees "
                "frames one by one: leave it out"
            )
        grid = patch_grid(side, side, patch_size(card))
        width = int(card.config.hidden_size)
        super().__init__(config, image_size, grid=(1, 1) if is_class else grid, latent_dim=width, own=card.own)
        self.model_name = config.model
        self.is_class = is_class
        self.prefix = family.prefix(card.config)
        self.backbone = _network(config, card, family)
        _keep_layers(self.backbone, config, card)
        # By its name: a part that is registered twice would be saved twice.
        self.norm_name = next(
            (name for name, _ in self.backbone.named_modules() if name and name.endswith(family.unnormalised or "/")),
            None,
        )
        self.keys: dict[str, Any] = {}
        if not family.resamples and side != native_side(card):
            self.keys["interpolate_pos_encoding"] = True
        self.sees_all = card.config.model_type == "vit_mae"
        self.num_tokens = self.prefix + grid[0] * grid[1]

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        keys = dict(self.keys)
        if self.sees_all:
            # MAE sorts patches by noise and drops the last ones: none is dropped, and ascending noise keeps the order.
            patches = self.num_tokens - self.prefix
            keys["noise"] = torch.arange(patches, device=images_NCYX.device).float().expand(len(images_NCYX), -1)
        x_NLD = self.backbone(images_NCYX, **keys).last_hidden_state
        if x_NLD.shape[1] != self.num_tokens:
            raise ConfigError(
                f"'{self.model_name}' gives {x_NLD.shape[1]} tokens, expected {self.num_tokens}: this version of "
                "transformers orders them in another way"
            )
        x_NPD = x_NLD[:, :1] if self.is_class else x_NLD[:, self.prefix :]
        return x_NPD if self.norm_name is None else self.backbone.get_submodule(self.norm_name)(x_NPD)


class HuggingFaceVideoEncoder(Encoder):
    """Patch tokens of V-JEPA 2, which embeds pairs of frames; see `VJEPAEncoder`.

    Args:
        config: How frames become clips, which tokens make the latent, and where the weights are.
        image_size: Side of the square input frames, pixels.
        card: The model's own configuration.

    Raises:
        ConfigError: A layer that the model does not have, a size that patches do not divide.
        CheckpointError: Weights that are missing, damaged, or of another model.
    """

    def __init__(self, config: HuggingFaceEncoderConfig, image_size: int, card: Card) -> None:
        side = config.resize_to or card.own.side
        if config.feature == "class":
            raise ConfigError(f"model.encoder.feature 'class': '{config.model}' has no class token")
        if card.config.tubelet_size != 2:
            raise ConfigError(
                f"'{config.model}' embeds {card.config.tubelet_size} frames at a time; jepawm gives frames in pairs"
            )
        # The layers work out from it where a token lies.
        card.config.crop_size = side
        super().__init__(
            grid=patch_grid(side, side, patch_size(card)),
            latent_dim=int(card.config.hidden_size),
            frames_per_latent=config.frames_per_latent,
        )
        self.tokenization = config.tokenization or "frame"
        self.tubelet = int(card.config.tubelet_size)
        self.preprocess = Preprocess(config, image_size, card.own)
        self.backbone = _network(config, card, Family(lambda _: 0)).encoder
        _keep_layers(self.backbone, config, card)

    def forward(self, pixels_BTCYX: Shaped[Tensor, "B T C Y X"]) -> Float[Tensor, "B U P D"]:
        """See `VJEPAEncoder.forward`."""
        B, T = pixels_BTCYX.shape[:2]
        images = self.preprocess(pixels_BTCYX.flatten(0, 1), compute_dtype(self, pixels_BTCYX.device))
        clip_NCUYX = as_clips(images.unflatten(0, (B, T)), self.tokenization, self.tubelet)
        x_NLD = self.backbone(clip_NCUYX.transpose(1, 2)).last_hidden_state
        return at_least_float32(x_NLD).reshape(B, T // self.frames_per_latent, self.num_patches, self.latent_dim)


def _network(config: HuggingFaceEncoderConfig, card: Card, family: Family) -> Any:
    """The network that gives tokens, with its weights if they are asked for."""
    from safetensors import SafetensorError

    transformers = require("transformers", EXTRA)
    if card.config.model_type == "vit_mae":
        card.config.mask_ratio = 0.0
    if card.config.model_type == "siglip_vision_model":
        card.config.vision_use_head = False
    if card.config.model_type == "dinov3_vit":
        _prepare_dinov3(card)
    keys: dict[str, Any] = {family.no_pooling: False} if family.no_pooling else {}
    if config.weights is None:
        return transformers.AutoModel.from_config(card.config, trust_remote_code=False, dtype=torch.float32, **keys)
    where, revision, state = card.name, card.revision, None
    if config.weights != config.name:
        where, revision = os.path.expanduser(config.weights), None
    if os.path.isfile(where):
        state = read_tensors(where)
    elif config.weights != config.name and not os.path.isdir(where):
        raise CheckpointError(f"model.encoder.weights: there is no folder and no file {where}")
    with torch.device("meta"):
        # A single file does not say the class of its model, as a folder does.
        model_class = type(transformers.AutoModel.from_config(card.config, trust_remote_code=False, **keys))
    try:
        with _quiet(transformers.utils.logging):
            network, loaded = model_class.from_pretrained(
                None if state is not None else where,
                config=card.config,
                state_dict=state,
                revision=revision,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                local_files_only=offline(),
                output_loading_info=True,
                **keys,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{where}: its weights cannot be read: {first_line(error)}") from error
    _check_loaded(loaded, where)
    return network


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No bar, and no table of the tensors that are left out; `_check_loaded` says what is wrong with them."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _prepare_dinov3(card: Card) -> None:
    """Positions without chance, and without a store that outlives the network."""
    for name in ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"):
        setattr(card.config, name, None)
    # The store is the process's. A tensor without values, of a network that is only measured, would stay in it.
    module = importlib.import_module("transformers.models.dinov3_vit.modeling_dinov3_vit")
    module.get_patches_center_coordinates = inspect.unwrap(module.get_patches_center_coordinates)  # type: ignore[attr-defined]


def _check_loaded(loaded: dict[str, Any], where: str) -> None:
    """Refuses weights that leave a part of the network as chance made it, or that are of another network."""
    problems = [f"missing {key}" for key in sorted(loaded["missing_keys"])]
    problems += [f"unexpected {key}" for key in sorted(loaded["unexpected_keys"]) if not _of_another_part(key)]
    for each in loaded["mismatched_keys"]:
        key, *shapes = each
        problems.append(f"{key} has shape {', expected '.join(str(list(shape)) for shape in shapes)}")
    problems += [str(each) for each in loaded.get("error_msgs", ())]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{where} does not fit the model: {'; '.join(problems[:10])}{more}")


def _of_another_part(key: str) -> bool:
    return key.startswith(_OTHER_PARTS) or key.endswith(("position_ids", "mask_token"))


def _keep_layers(network: nn.Module, config: HuggingFaceEncoderConfig, card: Card) -> None:
    """Leaves out mask tokens, and the blocks behind the chosen layer, whose tokens are then the normalised ones."""
    depth = int(card.config.num_hidden_layers)
    stacks = [
        (name, part)
        for name, part in network.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == depth and "layer" in name.rpartition(".")[2]
    ]
    if len(stacks) != 1:
        raise ConfigError(f"'{config.model}': its blocks are not found; this version of transformers names them anew")
    for part in network.modules():
        # Only pretraining reads it.
        if part._parameters.get("mask_token") is not None:
            part._parameters["mask_token"] = None
    name, blocks = stacks[0]
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, blocks[: check_layer(config.layer, depth)])
