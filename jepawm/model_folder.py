"""A world model on disk: a folder that names its format, is read strictly and executes nothing.

```
FOLDER/
  format_version        "1"
  config.yaml           the resolved run configuration
  model.safetensors     weights of the world model; a frozen, pretrained encoder is named instead (source, fingerprint)
  stats.json            action and proprio statistics, action specification, fingerprint of a frozen encoder
```
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from jepawm import weights
from jepawm.config import RunConfig
from jepawm.config_io import load_yaml, save_yaml
from jepawm.encoders import FrozenEncoder, build_encoder
from jepawm.errors import CheckpointError, ConfigError
from jepawm.types import ActionSpec, Statistics
from jepawm.world_model import WorldModel

FORMAT_VERSION = 1
FILES = ("format_version", "config.yaml", "model.safetensors", "stats.json")


@dataclass(frozen=True)
class ModelSpec:
    """What, with the configuration, fixes a world model's interface: where it was trained.

    Attributes:
        statistics: Of the training episodes.
        action: One environment step's action.
    """

    statistics: Statistics
    action: ActionSpec


def build_world_model(config: RunConfig, spec: ModelSpec) -> WorldModel:
    """A fresh world model for a configuration and a dataset's statistics."""
    return WorldModel(
        config.model,
        image_size=config.env.image_size,
        frameskip=config.data.frameskip,
        statistics=spec.statistics,
    )


def check_buildable(config: RunConfig) -> None:
    """Builds the model once, so that widths and weights that do not fit are told before any work is done.

    Nothing is kept: the world model is built without memory, a pretrained encoder's file is read and let go.

    Raises:
        ConfigError: Parts that do not go together.
        CheckpointError: Weights that are missing, damaged, or of another model.
    """
    encoder = config.model.encoder
    if encoder.weights is not None:
        built = build_encoder(encoder, config.env.image_size)
        if isinstance(built, FrozenEncoder):
            built.backbone()
    # The widths of action and proprio are the episodes'; only poses are known to have seven numbers.
    width = 7 if config.model.proprio.update == "integrate_pose" else 2
    numbers = np.ones(width, np.float32)
    without = replace(config.model, encoder=replace(encoder, weights=None))
    with torch.device("meta"):
        WorldModel(
            without,
            image_size=config.env.image_size,
            frameskip=config.data.frameskip,
            statistics=Statistics(numbers, numbers, numbers, numbers),
        )


def write_model(folder: Path, model: WorldModel, config: RunConfig, spec: ModelSpec) -> None:
    """Writes the files of a model into a folder that exists."""
    (folder / "format_version").write_text(f"{FORMAT_VERSION}\n")
    save_yaml(config, str(folder / "config.yaml"))
    stats = {
        "statistics": spec.statistics.to_dict(),
        "action": spec.action.to_dict(),
        "encoder_sha256": model.encoder.sha256() if isinstance(model.encoder, FrozenEncoder) else None,
    }
    (folder / "stats.json").write_text(json.dumps(stats, indent=2))
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()},
        folder / "model.safetensors",
    )


def save_world_model(folder: str, model: WorldModel, config: RunConfig, spec: ModelSpec) -> None:
    """Writes a model folder; it appears under its name only when it is whole.

    Args:
        folder: Path of the new folder; an older one of that name is replaced.
        model: The weights.
        config: The resolved configuration.
        spec: Statistics and action specification.
    """
    temporary = Path(f"{folder}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_model(temporary, model, config, spec)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def read_spec(folder: str) -> tuple[RunConfig, ModelSpec]:
    """The configuration and specification of a model, without its weights.

    Raises:
        CheckpointError: A missing file, or a newer format.
    """
    return _read(folder)[:2]


def encoder_sha256(folder: str) -> str | None:
    """Fingerprint of the frozen encoder's weights that a model was trained on; None where it has none.

    Raises:
        CheckpointError: See `read_spec`.
    """
    return _read(folder)[2]


def _read(folder: str) -> tuple[RunConfig, ModelSpec, str | None]:
    if not os.path.isdir(folder):
        published = "; a published file becomes a folder with jepawm ckpt convert" if os.path.isfile(folder) else ""
        raise CheckpointError(f"checkpoint folder not found: {folder}{published}")
    missing = [name for name in FILES if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise CheckpointError(f"{folder} is not a whole checkpoint: missing {', '.join(missing)}")
    version = Path(folder, "format_version").read_text().strip()
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{folder}/format_version is '{version}', this jepawm reads '{FORMAT_VERSION}'; install a newer jepawm"
        )
    config = load_yaml(RunConfig, os.path.join(folder, "config.yaml"))
    try:
        stats = json.loads(Path(folder, "stats.json").read_text())
        spec = ModelSpec(Statistics.from_dict(stats["statistics"]), ActionSpec.from_dict(stats["action"]))
        fingerprint = stats.get("encoder_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/stats.json is damaged: {error!r}") from error
    return config, spec, fingerprint


def load_weights(model: WorldModel, folder: str) -> None:
    """Puts a folder's weights into a model of its configuration, strictly.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit.
    """
    fingerprint = encoder_sha256(folder)
    path = os.path.join(folder, "model.safetensors")
    weights.load_strict(model, weights.read_tensors(path), path)
    if isinstance(model.encoder, FrozenEncoder):
        model.encoder.expected_sha256 = fingerprint


def load_world_model(
    folder: str, device: str | torch.device = "cpu", *, encoder_weights: str | None = None
) -> tuple[WorldModel, RunConfig, ModelSpec]:
    """Reads a world model, strictly.

    Args:
        folder: A model folder.
        device: Where the weights go.
        encoder_weights: Where the weights of a frozen, pretrained encoder are now; None: where they were. They must be
            the ones the model was trained on.

    Returns:
        The model in evaluation mode, the configuration and the specification it was trained with.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the configuration.
        ConfigError: `encoder_weights` for a model whose encoder is in the folder.
    """
    config, spec = read_spec(folder)
    encoder = config.model.encoder
    if encoder_weights is not None:
        if encoder.weights is None or encoder.trainable:
            raise ConfigError(f"{folder} holds its encoder; encoder_weights are for frozen, pretrained ones")
        encoder = replace(encoder, weights=encoder_weights)
        config = replace(config, model=replace(config.model, encoder=encoder))
    # A pretrained encoder that went on training is in the folder, and the file it began with is not needed.
    built = replace(config.model, encoder=replace(encoder, weights=None)) if encoder.trainable else config.model
    model = build_world_model(replace(config, model=built), spec)
    load_weights(model, folder)
    return model.to(device).eval(), config, spec


def copy_model(source: str, folder: str) -> str:
    """Copies what planning needs of a model or checkpoint folder; returns the SHA-256 of its weights."""
    read_spec(source)
    temporary = f"{folder}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    for name in FILES:
        shutil.copyfile(os.path.join(source, name), os.path.join(temporary, name))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    return weights_sha256(folder)


def weights_sha256(folder: str) -> str:
    """SHA-256 of a model folder's weights file."""
    return weights.sha256(os.path.join(folder, "model.safetensors"))
