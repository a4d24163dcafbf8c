"""Checkpoints: a folder that names its format, is read strictly and executes nothing.

```
FOLDER/
  format_version        "1"
  config.yaml           the resolved run configuration
  model.safetensors     weights of the world model
  stats.json            action and proprio statistics, action specification
  training_state.pt     optimizer, training-only head, train step (absent in an exported model)
```
"""

import hashlib
import json
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from jepawm.config import RunConfig
from jepawm.config_io import load_yaml, save_yaml
from jepawm.errors import CheckpointError
from jepawm.training.loop import TrainingState
from jepawm.training.step import TrainingObjective
from jepawm.types import ActionSpec, Statistics
from jepawm.world_model import WorldModel

FORMAT_VERSION = 1
_FILES = ("format_version", "config.yaml", "model.safetensors", "stats.json")
_DAMAGE = (pickle.UnpicklingError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError)


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


def save_checkpoint(folder: str, state: TrainingState, config: RunConfig, spec: ModelSpec) -> None:
    """Writes a checkpoint folder; it appears under its name only when it is whole.

    Args:
        folder: Path of the new folder; an older one of that name is replaced.
        state: Weights, optimizer and train step.
        config: The resolved configuration.
        spec: Statistics and action specification.
    """
    temporary = Path(f"{folder}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    (temporary / "format_version").write_text(f"{FORMAT_VERSION}\n")
    save_yaml(config, str(temporary / "config.yaml"))
    stats = {"statistics": spec.statistics.to_dict(), "action": spec.action.to_dict()}
    (temporary / "stats.json").write_text(json.dumps(stats, indent=2))
    model = state.objective.model
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()},
        temporary / "model.safetensors",
    )
    head = state.objective.inverse_dynamics
    torch.save(
        {
            "train_step": state.train_step,
            "seconds": state.seconds,
            "optimizer": state.optimizer.state_dict(),
            "inverse_dynamics": None if head is None else head.state_dict(),
        },
        temporary / "training_state.pt",
    )
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def read_spec(folder: str) -> tuple[RunConfig, ModelSpec]:
    """The configuration and specification of a checkpoint, without its weights.

    Raises:
        CheckpointError: A missing file, or a newer format.
    """
    if not os.path.isdir(folder):
        raise CheckpointError(f"checkpoint folder not found: {folder}")
    missing = [name for name in _FILES if not os.path.isfile(os.path.join(folder, name))]
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
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/stats.json is damaged: {error!r}") from error
    return config, spec


def load_world_model(folder: str, device: str | torch.device = "cpu") -> tuple[WorldModel, RunConfig, ModelSpec]:
    """Reads a world model, strictly.

    Args:
        folder: A checkpoint folder.
        device: Where the weights go.

    Returns:
        The model in evaluation mode, the configuration and the specification it was trained with.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the configuration.
    """
    config, spec = read_spec(folder)
    model = build_world_model(config, spec)
    _load_weights(model, os.path.join(folder, "model.safetensors"))
    return model.to(device).eval(), config, spec


def restore_training(folder: str, state: TrainingState) -> None:
    """Puts weights, optimizer and train step of a checkpoint into a fresh state.

    Raises:
        CheckpointError: The checkpoint holds no training state, a damaged one, or another model's.
    """
    path = os.path.join(folder, "training_state.pt")
    read_spec(folder)
    if not os.path.isfile(path):
        raise CheckpointError(f"{folder} is an exported model without training_state.pt; training cannot resume there")
    _load_weights(state.objective.model, os.path.join(folder, "model.safetensors"))
    device = next(state.objective.parameters()).device
    head = state.objective.inverse_dynamics
    try:
        # weights_only: a checkpoint from elsewhere can hold no code. What it raises for damage is a matter of luck.
        saved = torch.load(path, map_location=device, weights_only=True)
        head_weights, moments = saved["inverse_dynamics"], saved["optimizer"]
        train_step, seconds = int(saved["train_step"]), float(saved["seconds"])
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged or not one of ours ({_first_line(error)}); remove this checkpoint to go on from an "
            "older one"
        ) from error
    if (head is None) != (head_weights is None):
        raise CheckpointError(f"{path}: the inverse-dynamics head is on in one of checkpoint and configuration only")
    try:
        if head is not None:
            head.load_state_dict(head_weights)
        state.optimizer.load_state_dict(moments)
    except _DAMAGE as error:
        raise CheckpointError(f"{path} does not fit the model of its configuration: {_first_line(error)}") from error
    state.train_step, state.seconds = train_step, seconds


def export_model(checkpoint: str, folder: str) -> str:
    """Copies what planning needs of a checkpoint, and returns the SHA-256 of its weights."""
    read_spec(checkpoint)
    temporary = f"{folder}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    for name in _FILES:
        shutil.copyfile(os.path.join(checkpoint, name), os.path.join(temporary, name))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    return weights_sha256(folder)


def checkpoint_name(train_step: int) -> str:
    """Folder name of a checkpoint; names sort as the steps do."""
    return f"step-{train_step:08d}"


def checkpoint_step(folder: str | None) -> int | None:
    """Train step of a checkpoint folder, by its name."""
    return None if folder is None else int(os.path.basename(os.path.normpath(folder)).removeprefix("step-"))


def list_checkpoints(folder: str) -> list[str]:
    """Names of the whole checkpoints in a folder, oldest first."""
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if name.startswith("step-") and ".tmp" not in name)


def newest_checkpoint(folder: str) -> str | None:
    """Path of the newest whole checkpoint, or None."""
    names = list_checkpoints(folder)
    return os.path.join(folder, names[-1]) if names else None


def weights_sha256(folder: str) -> str:
    """SHA-256 of a checkpoint's weights file."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _load_weights(module: nn.Module, path: str) -> None:
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from error
    expected = module.state_dict()
    problems = [f"missing {key}" for key in expected if key not in found]
    problems += [f"unexpected {key}" for key in found if key not in expected]
    problems += [
        f"{key} has shape {list(found[key].shape)}, expected {list(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{path} does not fit the model of its configuration: {'; '.join(problems[:10])}{more}")
    module.load_state_dict(found)


def fresh_state(config: RunConfig, spec: ModelSpec, device: torch.device) -> TrainingState:
    """A seeded, untrained state: the same weights for the same seed on every worker."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        objective = TrainingObjective(build_world_model(config, spec), config.loss, seed=config.seed)
    return TrainingState.fresh(objective.to(device), config.optim)
