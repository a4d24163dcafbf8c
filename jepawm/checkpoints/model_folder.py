"""A world model on disk: a folder that names its format, is read strictly and executes nothing.

```
FOLDER/
  format_version        "1"
  config.yaml           the resolved run configuration
  model.safetensors     weights of the world model; a frozen, pretrained encoder is named instead (source, fingerprint)
  stats.json            action and proprio statistics, action specification, fingerprint of a frozen encoder
  heads/                heads that were trained on its latents, see `head_folder`
```
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from jepawm.config.compact import frozen_encoder
from jepawm.config.data import DataConfig
from jepawm.config.encoder import with_weights, without_weights
from jepawm.config.env import EnvConfig
from jepawm.config.model import ModelConfig
from jepawm.config.objective import ObjectiveConfig
from jepawm.config.planner import PlannerConfig
from jepawm.config.yaml_io import from_dict, read_yaml, save_yaml, to_dict
from jepawm.encoders import FrozenEncoder, build_encoder
from jepawm.errors import CheckpointError, ConfigError
from jepawm.files import atomic_folder
from jepawm.nn import weights
from jepawm.types import ActionSpec, Statistics
from jepawm.world_model import WorldModel

FORMAT_VERSION = 1
FILES = ("format_version", "config.yaml", "model.safetensors", "stats.json")
HEADS = "heads"


@dataclass(frozen=True)
class ModelSpec:
    """What fixes a world model besides its weights, and what is known of where it was trained.

    Attributes:
        model: The architecture.
        image_size: Side of the square frames it sees, pixels.
        frameskip: Environment steps per model step.
        statistics: Of raw actions and proprio in the training episodes.
        action: One environment step's action.
        run: The configuration of the run that trained it, as plain data; sections that are missing have their defaults.
        folder: The model folder that it was read from, with its heads; None: from none.
    """

    model: ModelConfig
    image_size: int
    frameskip: int
    statistics: Statistics
    action: ActionSpec
    run: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = field(default=None, compare=False)

    @property
    def planner(self) -> PlannerConfig:
        """How the model plans unless the caller says otherwise."""
        return from_dict(PlannerConfig, self.run.get("planner", {}))

    @property
    def objective(self) -> ObjectiveConfig:
        """What its plans minimise unless the caller says otherwise."""
        return from_dict(ObjectiveConfig, self.run.get("objective", {}))

    def with_encoder_weights(self, source: str | None) -> "ModelSpec":
        """The same model with the weights of its encoder elsewhere; None: a random start."""
        return replace(self, model=replace(self.model, encoder=with_weights(self.model.encoder, source)))


def build_world_model(spec: ModelSpec) -> WorldModel:
    """A fresh world model."""
    return WorldModel(spec.model, image_size=spec.image_size, frameskip=spec.frameskip, statistics=spec.statistics)


def check_buildable(model: ModelConfig, *, image_size: int, frameskip: int) -> dict[str, int]:
    """Builds a model once, so that the caller learns of widths and weights that do not fit before any other work.

    Nothing is kept: the world model is built without memory, a pretrained encoder's file is read and let go.

    Args:
        model: The architecture.
        image_size: Side of the square frames, pixels.
        frameskip: Environment steps per model step.

    Returns:
        Size of each parameter that a checkpoint holds, by its name in `model.safetensors`.

    Raises:
        ConfigError: Parts that do not go together.
        CheckpointError: Weights that are missing, damaged, or of another model.
    """
    if any(part.weights_source is not None for part in (model.encoder, frozen_encoder(model.encoder))):
        built = build_encoder(model.encoder, image_size)
        if isinstance(built.storable, FrozenEncoder):
            built.storable.backbone()
    # The widths of action and proprio are the episodes'; only poses are known to have seven numbers.
    width = 7 if model.proprio.update == "integrate_pose" else 2
    return parameter_sizes(model, image_size=image_size, frameskip=frameskip, widths=(width, width))


def parameter_sizes(model: ModelConfig, *, image_size: int, frameskip: int, widths: tuple[int, int]) -> dict[str, int]:
    """Size of each parameter of a world model, by its name in `model.safetensors`; the model takes no memory.

    Args:
        model: The architecture.
        image_size: Side of the square frames, pixels.
        frameskip: Environment steps per model step.
        widths: Numbers of an action and of proprio.
    """
    action, proprio = (np.ones(width, np.float32) for width in widths)
    with torch.device("meta"):
        built_without_memory = WorldModel(
            replace(model, encoder=without_weights(model.encoder)),
            image_size=image_size,
            frameskip=frameskip,
            statistics=Statistics(action, action, proprio, proprio),
        )
    return {name: parameter.numel() for name, parameter in built_without_memory.named_parameters()}


@dataclass(frozen=True)
class ModelFiles:
    """What a model folder holds, in memory; later changes of the model do not reach it.

    Attributes:
        sections: Of `config.yaml`.
        stats: Content of `stats.json`.
        tensors: Copies of the weights, on the CPU.
    """

    sections: Mapping[str, Any]
    stats: Mapping[str, Any]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, model: WorldModel, spec: ModelSpec) -> "ModelFiles":
        """Copies a model."""
        sections = {
            **spec.run,
            "model": to_dict(spec.model),
            "env": {**spec.run.get("env", {}), "image_size": spec.image_size},
            "data": {**spec.run.get("data", {}), "frameskip": spec.frameskip},
        }
        frozen = model.encoder.storable
        stats = {
            "statistics": spec.statistics.to_dict(),
            "action": spec.action.to_dict(),
            "encoder_sha256": frozen.sha256() if isinstance(frozen, FrozenEncoder) else None,
        }
        tensors = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in model.state_dict().items()}
        return cls(sections, stats, tensors)

    def write(self, folder: Path) -> None:
        """Writes the files into a folder that exists."""
        (folder / "format_version").write_text(f"{FORMAT_VERSION}\n")
        save_yaml(dict(self.sections), folder / "config.yaml")
        (folder / "stats.json").write_text(json.dumps(self.stats, indent=2))
        save_file(self.tensors, folder / "model.safetensors")


def save_world_model(folder: str | os.PathLike[str], model: WorldModel, spec: ModelSpec) -> None:
    """Writes a model folder; it appears under its name only when it is whole.

    Args:
        folder: Path of the new folder; an older one of that name is replaced.
        model: The weights.
        spec: What fixes the model besides its weights.
    """
    with atomic_folder(folder) as temporary:
        ModelFiles.of(model, spec).write(temporary)


def read_spec(folder: str) -> ModelSpec:
    """The specification of a model, without its weights.

    Raises:
        CheckpointError: A missing file, or a newer format.
    """
    return _read(folder)[0]


def encoder_sha256(folder: str) -> str | None:
    """Fingerprint of the frozen encoder's weights that a model was trained on; None where it has none.

    Raises:
        CheckpointError: See `read_spec`.
    """
    return _read(folder)[1]


def _read(folder: str) -> tuple[ModelSpec, str | None]:
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
    run = read_yaml(os.path.join(folder, "config.yaml"))
    where = f"{folder}/config.yaml"
    try:
        stats = json.loads(Path(folder, "stats.json").read_text())
        statistics, action = Statistics.from_dict(stats["statistics"]), ActionSpec.from_dict(stats["action"])
        fingerprint = stats.get("encoder_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/stats.json is damaged: {error!r}") from error
    spec = ModelSpec(
        model=from_dict(ModelConfig, run.get("model", {}), where),
        image_size=from_dict(EnvConfig, run.get("env", {}), where).image_size,
        frameskip=from_dict(DataConfig, run.get("data", {}), where).frameskip,
        statistics=statistics,
        action=action,
        run=run,
        folder=folder,
    )
    return spec, fingerprint


def model_dir(path: str) -> str:
    """The model folder at a path: the folder itself, or the one in a run's folder."""
    inside = os.path.join(path, "model")
    return inside if os.path.isdir(inside) else path


def load_weights(model: WorldModel, folder: str) -> None:
    """Puts a folder's weights into a model of its configuration, strictly.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit.
    """
    fingerprint = encoder_sha256(folder)
    path = os.path.join(folder, "model.safetensors")
    weights.load_strict(model, weights.read_tensors(path), path)
    if isinstance(model.encoder.storable, FrozenEncoder):
        model.encoder.storable.expected_sha256 = fingerprint


def load_world_model(
    folder: str, device: str | torch.device = "cpu", *, encoder_weights: str | None = None
) -> tuple[WorldModel, ModelSpec]:
    """Reads a world model, strictly.

    Args:
        folder: A model folder.
        device: Where the weights go.
        encoder_weights: Where the weights of a frozen, pretrained encoder are now; None: where they were. They must be
            the ones the model was trained on.

    Returns:
        The model in evaluation mode, and its specification.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the configuration.
        ConfigError: `encoder_weights` for a model whose encoder is in the folder.
    """
    spec = read_spec(folder)
    encoder = spec.model.encoder
    if encoder_weights is not None:
        if encoder.weights_source is None or encoder.trainable:
            raise ConfigError(f"{folder} holds its encoder; encoder_weights are for frozen, pretrained ones")
        spec = spec.with_encoder_weights(encoder_weights)
    # A pretrained encoder that went on training is in the folder, and the file it began with is not needed.
    model = build_world_model(spec.with_encoder_weights(None) if encoder.trainable else spec)
    load_weights(model, folder)
    return model.to(device).eval(), spec


def copy_model(source: str, folder: str) -> str:
    """Copies what planning needs of a model or checkpoint folder; returns the SHA-256 of its weights.

    Heads beside an older model of the same weights stay; those of other weights go with the model they belong to.
    """
    read_spec(source)
    with atomic_folder(folder) as temporary:
        for name in FILES:
            shutil.copyfile(os.path.join(source, name), temporary / name)
        heads, older = os.path.join(folder, HEADS), os.path.join(folder, "model.safetensors")
        same = os.path.isfile(older) and weights.sha256(older) == weights_sha256(os.fspath(temporary))
        if same and os.path.isdir(heads):
            shutil.copytree(heads, temporary / HEADS)
    return weights_sha256(folder)


def weights_sha256(folder: str) -> str:
    """SHA-256 of a model folder's weights file."""
    return weights.sha256(os.path.join(folder, "model.safetensors"))
