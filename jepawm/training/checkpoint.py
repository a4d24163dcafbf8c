"""Training checkpoints: a model folder with the state that training goes on from.

```
FOLDER/
  ...                   the files of a model folder, see jepawm.checkpoints.model_folder
  training_state.pt     optimizer, training-only head, train step, loss scale; the weights beside their average
```
"""

import contextlib
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from jepawm.checkpoints.model_folder import ModelFiles, ModelSpec, build_world_model, load_weights, model_dir
from jepawm.config.training import TrainingPlan
from jepawm.errors import CheckpointError, first_line
from jepawm.files import atomic_folder
from jepawm.training.compute import prepare_compute_
from jepawm.training.freezing import freeze_
from jepawm.training.loop import TrainingState
from jepawm.training.step import TrainingObjective

# What reading a damaged file of torch raises is a matter of luck.
DAMAGE = (pickle.UnpicklingError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError)


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds, copied to the CPU: training may go on while it is written.

    Attributes:
        train_step: Updates made.
        model: The model that plans.
        training_state: The rest, which training goes on from.
    """

    train_step: int
    model: ModelFiles
    training_state: dict[str, Any]

    @classmethod
    def of(cls, state: TrainingState, spec: ModelSpec) -> "Snapshot":
        """Copies a state.

        Args:
            state: Weights, optimizer and train step.
            spec: What fixes the model besides its weights.
        """
        head = state.objective.inverse_dynamics
        kept = {
            "train_step": state.train_step,
            "seconds": state.seconds,
            "optimizer": state.optimizer.state_dict(),
            "inverse_dynamics": None if head is None else head.state_dict(),
        }
        if state.scaler.is_enabled():
            kept["scaler"] = state.scaler.state_dict()
        if state.average is not None:
            # The model folder holds the average, which plans; training goes on from the weights.
            kept["weights"] = state.objective.model.state_dict()
        copied: dict[str, Any] = copied_to_cpu(kept)
        with state.planning_weights():
            return cls(state.train_step, ModelFiles.of(state.objective.model, spec), copied)

    def write(self, folder: str) -> None:
        """Writes a checkpoint folder; it appears under its name only when it is whole.

        Args:
            folder: Path of the new folder; an older one of that name is replaced.

        Raises:
            CheckpointError: The disk is full or takes no files, or the run's folder is gone; nothing of the checkpoint
                stays.
        """
        with checkpoint_folder(folder) as temporary:
            self.model.write(temporary)
            save_state(self.training_state, temporary / "training_state.pt")


def save_checkpoint(folder: str, state: TrainingState, spec: ModelSpec) -> None:
    """Writes a checkpoint folder at once, see `Snapshot`.

    Raises:
        CheckpointError: The disk is full or takes no files; nothing of the checkpoint stays.
    """
    Snapshot.of(state, spec).write(folder)


def copied_to_cpu(value: Any) -> Any:
    """The same nested dictionaries, lists and tuples with copies of their tensors, on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied_to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied_to_cpu(item) for item in value)
    return value


@contextlib.contextmanager
def checkpoint_folder(folder: str) -> Iterator[Path]:
    """A folder to fill, which takes the name of a checkpoint when the block ends without an error.

    Args:
        folder: Path of the checkpoint; an older one of that name is replaced.

    Raises:
        CheckpointError: The disk is full or takes no files, or the run's folder is gone; nothing of the checkpoint
            stays.
    """
    try:
        # Of the folders above, only the nearest one is made. Where the run's own folder is gone, its file system is
        # no longer mounted, and a checkpoint on the bare mount point would be lost.
        Path(folder).absolute().parent.mkdir(exist_ok=True)
        with atomic_folder(folder) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        raise CheckpointError(cannot_write(folder, error)) from error


def save_state(kept: dict[str, Any], path: Path) -> None:
    """Writes what `torch.load` reads with `weights_only`.

    Raises:
        OSError: The disk is full or takes no files.
    """
    try:
        torch.save(kept, path)
    except RuntimeError as error:
        # torch's writer says that a position is unexpected, whatever the system told it.
        raise OSError(f"{path.name} was cut short while torch wrote it") from error


def cannot_write(folder: str, error: Exception) -> str:
    """Why a checkpoint was not written, with the free space and what to do."""
    if isinstance(error, FileNotFoundError):
        return f"the checkpoint {folder} could not be written: a folder above it is gone ({first_line(error)})"
    above = os.path.dirname(os.path.abspath(folder))
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    free = shutil.disk_usage(above).free
    return (
        f"the checkpoint {folder} could not be written ({first_line(error)}); {free / 2**30:.2f} GiB are free there. "
        "Free some space or lower train.num_checkpoints_kept, then the same command goes on from the one before"
    )


def restore_training(folder: str, state: TrainingState) -> None:
    """Puts weights, optimizer and train step of a checkpoint into a fresh state.

    Raises:
        CheckpointError: The checkpoint holds no training state, a damaged one, or another model's.
    """
    path = os.path.join(folder, "training_state.pt")
    load_weights(state.objective.model, folder)
    if not os.path.isfile(path):
        raise CheckpointError(f"{folder} is an exported model without training_state.pt; training cannot resume there")
    device = next(state.objective.parameters()).device
    head = state.objective.inverse_dynamics
    try:
        # weights_only: a checkpoint from elsewhere can hold no code. What it raises for damage is a matter of luck.
        saved = torch.load(path, map_location=device, weights_only=True)
        head_weights, moments = saved["inverse_dynamics"], saved["optimizer"]
        train_step, seconds = int(saved["train_step"]), float(saved["seconds"])
        scaler, weights = saved.get("scaler"), saved.get("weights")
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged or not one of ours ({first_line(error)}); remove this checkpoint to go on from an "
            "older one"
        ) from error
    if (head is None) != (head_weights is None):
        raise CheckpointError(f"{path}: the inverse-dynamics head is on in one of checkpoint and configuration only")
    if (weights is None) != (state.average is None):
        raise CheckpointError(f"{path}: optim.ema_decay is set in one of checkpoint and configuration only")
    try:
        if head is not None:
            head.load_state_dict(head_weights)
        load_moments(state.optimizer, moments)
        if state.scaler.is_enabled() and scaler is not None:
            state.scaler.load_state_dict(scaler)
        if state.average is not None:
            average = state.objective.model.state_dict()
            state.average.weights = {name: value.detach().clone() for name, value in average.items()}
            state.objective.model.load_state_dict(weights)
    except DAMAGE as error:
        raise CheckpointError(f"{path} does not fit the model of its configuration: {first_line(error)}") from error
    state.train_step, state.seconds = train_step, seconds


def load_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Any]) -> None:
    """Loads AdamW's moments. Its settings stay those of the configuration, which a sweep may have changed since."""
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(moments)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


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


def fresh_state(plan: TrainingPlan, spec: ModelSpec, device: torch.device) -> TrainingState:
    """A seeded state before the first update: the same weights for the same seed on every worker.

    Raises:
        CheckpointError: The weights of `train.init_from` are missing, damaged, or of another model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        objective = TrainingObjective(build_world_model(spec), plan.loss, seed=plan.seed)
    if plan.train.init_from is not None:
        load_weights(objective.model, model_dir(plan.train.init_from))
        freeze_(objective.model, plan.train.freeze)
    prepare_compute_(objective.model, plan.train)
    return TrainingState.fresh(objective.to(device), plan.optim, plan.train)
