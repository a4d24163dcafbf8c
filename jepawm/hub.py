"""Published checkpoints to world models, strictly, and without running anything that is in a file."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepawm.checkpoints.head_folder import load_head as read_head
from jepawm.checkpoints.head_folder import model_dir_of
from jepawm.checkpoints.model_folder import ModelSpec, build_world_model
from jepawm.checkpoints.pickled import read_modules
from jepawm.checkpoints.zoo import (
    DECODERS,
    ENVS,
    FILE_SERVER,
    HUB_REPOSITORY,
    IMAGE_SIZE,
    ZOO,
    model_config,
    predictor_key,
    published,
    published_run,
    strip_wrappers,
)
from jepawm.config import ModelConfig, ProprioConfig
from jepawm.config.encoder import AbsentEncoderConfig, DINOv2EncoderConfig, EncoderConfig, with_weights
from jepawm.config.predictor import FeaturePredictorConfig
from jepawm.errors import CheckpointError, ConfigError
from jepawm.heads.image import ImageHead, load_image_head
from jepawm.heads.vqvae import VQVAEDecoder, vqvae_from_published
from jepawm.nn import weights
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

_STATISTICS = {"action_mean", "action_std", "proprio_mean", "proprio_std"}


def load_published(
    name: str,
    checkpoint: str | None = None,
    *,
    device: str | torch.device = "cpu",
    encoder_weights: str | None = None,
) -> WorldModel:
    """A published world model with its statistics, ready to plan with; no dataset is needed.

    The file holds the predictor alone. The encoder is the published backbone; its weights are read when pixels are
    first encoded.

    Args:
        name: One of `jepawm.checkpoints.zoo.ZOO`, e.g. `jepa_wm_wall`.
        checkpoint: A path, URL or `hf://` source; None: fetched from the hub.
        device: Where the model goes.
        encoder_weights: Source of the backbone's weights; None: the published one. `none`: no encoder, latents are
            given to `WorldModel.latent`.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: No such model.
        CheckpointError: The file cannot be had, is damaged, or is another model's.
    """
    return load_published_run(name, checkpoint, device=device, encoder_weights=encoder_weights)[0]


def load_published_run(
    name: str,
    checkpoint: "str | PublishedFile | None" = None,
    *,
    device: str | torch.device = "cpu",
    encoder_weights: str | None = None,
) -> tuple[WorldModel, ModelSpec]:
    """`load_published`, with the specification that `load_world_model` gives for our own.

    `checkpoint` may be what `read_published` gave, so that a file is read once.
    """
    found = published(name)
    encoder = None if encoder_weights == "none" else found.encoder
    if encoder is not None and encoder_weights is not None:
        encoder = with_weights(encoder, encoder_weights)
    spec = _published_spec(name, model_config(found.fields, encoder))
    file = _opened(
        checkpoint or f"hf://{HUB_REPOSITORY}/{name}.pth.tar",
        hint=f"the file is {name}.pth.tar in the hub repository {HUB_REPOSITORY}, or {FILE_SERVER}/{found.file}; "
        "give a downloaded one as checkpoint=PATH",
    )
    if file.pickled:
        raise CheckpointError(
            f"{file.path} is an original DINO-WM checkpoint, of pickled modules; load it with jepawm.hub.load_dino_wm"
        )
    model = build_world_model(spec)
    tensors = _tensors_of(file.parts, file.path)
    _fill(model, tensors, file.path, cause=lambda: _whose(tensors, name))
    return model.to(device).eval(), spec


def _published_spec(name: str, model: ModelConfig) -> ModelSpec:
    env = ENVS[published(name).env]
    return ModelSpec(model, IMAGE_SIZE, env.frameskip, env.statistics, env.action, published_run(name))


def world_model_from_published(
    config: Mapping[str, Any],
    checkpoint: str | os.PathLike[str],
    *,
    statistics: Statistics | None = None,
    encoder: EncoderConfig | None = None,
    device: str | torch.device = "cpu",
) -> WorldModel:
    """A world model from published fields and a published file.

    Args:
        config: The fields of `jepawm.checkpoints.zoo.model_config`.
        checkpoint: Path, URL or `hf://` source.
        statistics: Of raw actions and proprio; None: mean 0 and deviation 1, for inputs that are normalised already.
        encoder: Makes the latents; None: they are given to `WorldModel.latent`.
        device: Where the model goes.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: Fields that describe no published model.
        CheckpointError: The file cannot be had, is damaged, or does not fit the fields.
    """
    architecture = model_config(config, encoder)
    frameskip = int(config["frameskip"])
    if config["action_dim"] % frameskip:
        raise ConfigError(f"action_dim {config['action_dim']} is not a multiple of frameskip {frameskip}")
    if statistics is None:
        statistics = unit_statistics(config["action_dim"] // frameskip, config.get("proprio_dim", 0))
    path = weights.locate(os.fspath(checkpoint))
    found = weights.read_tensors(path)
    tensors = _tensors_of(found, path)
    raw = tensors.get("proprio_encoder.weight")
    if raw is not None and architecture.proprio.encoding != "none" and raw.shape[-1] != config["proprio_dim"]:
        raise CheckpointError(
            f"{path} reads proprio of {raw.shape[-1]} numbers, proprio_dim is {config['proprio_dim']}"
        )
    model = WorldModel(architecture, image_size=config["img_size"], frameskip=frameskip, statistics=statistics)
    _fill(model, tensors, path, cause=lambda: "do the fields describe this file?")
    return model.to(device).eval()


def load_dino_wm(
    checkpoint: "str | PublishedFile",
    env: str,
    *,
    device: str | torch.device = "cpu",
    encoder_weights: str | None = None,
) -> tuple[WorldModel, ModelSpec]:
    """An original DINO-WM checkpoint (`model_latest.pth`): whole pickled modules, of which only tensors are taken.

    Widths, depth and history are read off the tensors. The encoder is a DINOv2 ViT-S/14 on frames of 196 px.

    Args:
        checkpoint: Path, URL or `hf://` source, or what `read_published` gave.
        env: `pusht`, `pointmaze` or `wall`: whose statistics the data had.
        device: Where the model goes.
        encoder_weights: As in `load_published`.

    Returns:
        The model in evaluation mode, and its specification.

    Raises:
        ConfigError: No such environment.
        CheckpointError: The file is damaged, hostile, or no DINO-WM checkpoint.
    """
    if env not in ("pusht", "pointmaze", "wall"):
        raise ConfigError(f"DINO-WM's checkpoints are of pusht, pointmaze and wall, found '{env}'")
    file = _opened(checkpoint)
    path = file.path
    if not file.pickled:
        raise CheckpointError(
            f"{path} holds tensors, an original DINO-WM checkpoint holds pickled modules; is it the file of "
            f"load_published('dino_wm_{env}')?"
        )
    tensors = _tensors_of(file.parts, path)
    spec = _published_spec(f"dino_wm_{env}", _dino_wm_architecture(tensors, path, encoder_weights))
    model = build_world_model(spec)
    _fill(model, tensors, path, cause=lambda: f"is it a DINO-WM checkpoint of {env}?")
    return model.to(device).eval(), spec


def load_dino_wm_decoder(checkpoint: str, *, device: str | torch.device = "cpu") -> VQVAEDecoder:
    """The image decoder in an original DINO-WM checkpoint; its widths are read off the tensors.

    Args:
        checkpoint: Path, URL or `hf://` source.
        device: Where it goes.

    Raises:
        CheckpointError: The file is damaged or hostile, or holds no such decoder.
    """
    path = weights.locate(checkpoint)
    found = read_modules(path).get("decoder")
    shaped = {"quantize_b.embed": 2, "dec.blocks.0.weight": 4, "dec.blocks.1.conv.1.weight": 4}
    if not isinstance(found, Mapping) or any(
        name not in found or found[name].dim() != dimensions for name, dimensions in shaped.items()
    ):
        raise CheckpointError(f"{path} holds no VQ-VAE 'decoder'; was it trained with the decoder of single tokens?")
    residual = {key.split(".")[2] for key in found if re.fullmatch(r"dec\.blocks\.\d+\.conv\.1\.weight", key)}
    latent_dim, num_codes = found["quantize_b.embed"].shape
    channels = found["dec.blocks.0.weight"].shape[0]
    head = VQVAEDecoder(
        latent_dim,
        channels=channels,
        num_codes=num_codes,
        num_residual=len(residual),
        residual_channels=found["dec.blocks.1.conv.1.weight"].shape[0],
    )
    vqvae_from_published(head, found, f"{path}: decoder")
    return head.to(device).eval()


def load_decoder(name: str, checkpoint: str | None = None, *, device: str | torch.device = "cpu") -> ImageHead:
    """A published image decoder: latents to pictures.

    Args:
        name: One of `jepawm.checkpoints.zoo.DECODERS`, or a published model, for the decoder of its latents.
        checkpoint: A path, URL or `hf://` source; None: fetched from the hub.
        device: Where it goes.

    Raises:
        ConfigError: No such decoder.
        CheckpointError: The file cannot be had, is damaged, or is another head's.
    """
    key = name if name in DECODERS else published(name).decoder
    facts = DECODERS[key]
    source = checkpoint or f"hf://{HUB_REPOSITORY}/{key}.pth.tar"
    head = load_image_head(source, normalization=facts.normalization)
    if head.latent_dim != facts.embed_dim:
        raise CheckpointError(
            f"{source} decodes latents of width {head.latent_dim}, {key} has {facts.embed_dim}; is it {key}'s?"
        )
    return head.to(device).eval()


def load_head(model: str | os.PathLike[str], name: str, *, device: str | torch.device = "cpu") -> nn.Module:
    """A head that `jepawm train-head` trained on a model's latents.

    Args:
        model: A run, or a model folder.
        name: Of the head's folder in the model's `heads`, e.g. `image`.
        device: Where it goes.

    Returns:
        The head, in evaluation mode. Heads that draw have `decode`: latents `[B,T,P,D]` to uint8 frames.

    Raises:
        CheckpointError: No such head, a damaged file, or a head that was trained on other weights.
    """
    return read_head(model_dir_of(os.fspath(model)), name, device)[0]


def unit_statistics(action_dim: int, proprio_dim: int) -> Statistics:
    """Mean 0 and deviation 1: raw numbers are what the model takes."""
    ones, zeros = (lambda n: np.ones(n, np.float32)), (lambda n: np.zeros(n, np.float32))
    return Statistics(zeros(action_dim), ones(action_dim), zeros(proprio_dim), ones(proprio_dim))


@dataclass(frozen=True)
class PublishedFile:
    """What a published file holds.

    Attributes:
        path: Of the file.
        pickled: Whether it is an original DINO-WM checkpoint, of pickled modules.
        parts: Its content: tensors by name, or numbers and texts.
    """

    path: str
    pickled: bool
    parts: Mapping[str, Any]

    def fitting_models(self) -> list[str]:
        """Published models with the names and shapes of this file; several may differ in nothing else."""
        if not isinstance(self.parts.get("predictor"), Mapping):
            return []
        return _fitting_models(_tensors_of(self.parts, self.path))


def read_published(source: str) -> PublishedFile:
    """Reads a file of either kind, executing nothing.

    Args:
        source: A path, URL or `hf://` source.

    Raises:
        CheckpointError: The file cannot be had, is damaged, or holds what no checkpoint has use for.
    """
    return _opened(source)


def _opened(source: str | PublishedFile, *, hint: str = "") -> PublishedFile:
    if isinstance(source, PublishedFile):
        return source
    path = weights.locate(source, hint=hint)
    try:
        return PublishedFile(path, False, weights.read_tensors(path))
    except weights.MoreThanTensorsError:
        return PublishedFile(path, True, read_modules(path))


def _fitting_models(tensors: Mapping[str, Tensor]) -> list[str]:
    found = {name: value.shape for name, value in tensors.items()}
    fitting = []
    for name, model in ZOO.items():
        env = ENVS[model.env]
        with torch.device("meta"):
            empty = WorldModel(
                model_config(model.fields), image_size=IMAGE_SIZE, frameskip=env.frameskip, statistics=env.statistics
            )
        expected = {key: value.shape for key, value in empty.state_dict().items() if key not in _STATISTICS}
        if found == expected:
            fitting.append(name)
    return fitting


def _whose(tensors: Mapping[str, Tensor], name: str) -> str:
    others = _fitting_models(tensors)
    return f"its shapes are those of {' and '.join(others)}" if others else f"is it {name}'s?"


def _fill(model: WorldModel, tensors: dict[str, Tensor], path: str, *, cause: Callable[[], str]) -> None:
    """The file's tensors beside what is ours already (encoder, statistics): the whole must fit, strictly."""
    ours = {key: value for key, value in model.state_dict().items() if key.startswith("encoder.") or key in _STATISTICS}
    weights.load_strict(model, {**ours, **tensors}, path, cause=cause)


def _tensors_of(found: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """Tensors of a published file under the names they have in `WorldModel`.

    Raises:
        CheckpointError: It has no predictor, or parts that are not tensors by name.
    """
    if not isinstance(found.get("predictor"), Mapping):
        held = ", ".join(map(str, list(found)[:5])) + (", ..." if len(found) > 5 else "") or "nothing"
        raise CheckpointError(f"{path} is not a published world model: it has no 'predictor' (it holds {held})")
    tensors: dict[str, Tensor] = {}
    for key, value in weights.only_tensors(found["predictor"], f"{path}: predictor").items():
        ours = predictor_key(key)
        if ours is not None:
            tensors[f"predictor.{ours}"] = value
    for part, ours in (("action_encoder", "predictor.action"), ("proprio_encoder", "proprio_encoder")):
        if found.get(part) is None:
            continue
        for key, value in weights.only_tensors(found[part], f"{path}: {part}").items():
            # A convolution over time with kernel 1 is a linear map.
            name = strip_wrappers(key).removeprefix("patch_embed.")
            tensors[f"{ours}.{name}"] = value.squeeze(-1) if value.dim() == 3 else value
    return tensors


def _dino_wm_architecture(tensors: Mapping[str, Tensor], path: str, encoder_weights: str | None) -> ModelConfig:
    needed = ("predictor.positions", "predictor.action.weight", "proprio_encoder.weight", "predictor.norm.weight")
    shapes = dict(zip(needed, (3, 2, 2, 1), strict=True))
    missing = [name for name in needed if name not in tensors or tensors[name].dim() != shapes[name]]
    if missing:
        raise CheckpointError(f"{path} is not a DINO-WM checkpoint: it lacks {', '.join(missing)}")
    width = tensors["predictor.norm.weight"].shape[0]
    action, proprio = (tensors[name].shape[0] for name in needed[1:3])
    patches = 14 * 14
    encoder: EncoderConfig = DINOv2EncoderConfig(
        size="small",
        weights=encoder_weights or "timm",
        trainable=False,
        normalization="symmetric",
        resize_to=196,
        resize="antialias",
    )
    if encoder_weights == "none":
        encoder = AbsentEncoderConfig(latent_dim=width - action - proprio, patch_size=14, resize_to=196)
    frames, rest = divmod(tensors["predictor.positions"].shape[1], patches)
    depth = len({name.split(".")[2] for name in tensors if name.startswith("predictor.blocks.")})
    qkv = tensors.get("predictor.blocks.0.attn.qkv.weight")
    if rest or not frames or not depth or qkv is None:
        raise CheckpointError(f"{path} is not a DINO-WM checkpoint on 14 x 14 patches")
    return ModelConfig(
        encoder,
        FeaturePredictorConfig(
            context_window=frames,
            depth=depth,
            num_heads=qkv.shape[0] // 3 // 64,
            dropout=0.1,
            num_positions=frames,
            action_dims=action,
        ),
        ProprioConfig("feature", proprio),
    )
