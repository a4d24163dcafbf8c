"""Training checkpoints: a model folder with the state that training goes on from.

```
FOLDER/
  ...                   the files of a model folder, see jepawm.checkpoints.model_folder
  training_state.pt     optimizer, training-only head, train step
```
"""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from jepawm.checkpoints.model_folder import ModelSpec, build_world_model, load_weights, write_model
from jepawm.config.training import TrainingPlan
from jepawm.errors import CheckpointError
from jepawm.files import atomic_folder
from jepawm.nn.weights import first_line
from jepawm.training.loop import TrainingState
from jepawm.training.step import TrainingObjective

_DAMAGE = (pickle.UnpicklingError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError)


def save_checkpoint(folder: str, state: TrainingState, spec: ModelSpec) -> None:
    """Writes a checkpoint folder; it appears under its name only when it is whole.

    Args:
        folder: Path of the new folder; an older one of that name is replaced.
        state: Weights, optimizer and train step.
        spec: What fixes the model besides its weights.

    Raises:
        CheckpointError: The disk is full or takes no files; nothing of the checkpoint stays.
    """
    head = state.objective.inverse_dynamics
    kept = {
        "train_step": state.train_step,
        "seconds": state.seconds,
        "optimizer": state.optimizer.state_dict(),
        "inverse_dynamics": None if head is None else head.state_dict(),
    }
    try:
        with atomic_folder(folder) as temporary:
            write_model(temporary, state.objective.model, spec)
            _save_state(kept, temporary / "training_state.pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(cannot_write(folder, error)) from error


def _save_state(kept: dict[str, Any], path: Path) -> None:
    try:
        torch.save(kept, path)
    except RuntimeError as error:
        # torch's writer says that a position is unexpected, whatever the system told it.
        raise OSError(f"{path.name} was cut short while torch wrote it") from error


def cannot_write(folder: str, error: Exception) -> str:
    """Why a checkpoint was not written, with the free space and what to do."""
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
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged or not one of ours ({first_line(error)}); remove this checkpoint to go on from an "
            "older one"
        ) from error
    if (head is None) != (head_weights is None):
        raise CheckpointError(f"{path}: the inverse-dynamics head is on in one of checkpoint and configuration only")
    try:
        if head is not None:
            head.load_state_dict(head_weights)
        state.optimizer.load_state_dict(moments)
    except _DAMAGE as error:
        raise CheckpointError(f"{path} does not fit the model of its configuration: {first_line(error)}") from error
    state.train_step, state.seconds = train_step, seconds


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
    """A seeded, untrained state: the same weights for the same seed on every worker."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        objective = TrainingObjective(build_world_model(spec), plan.loss, seed=plan.seed)
    return TrainingState.fresh(objective.to(device), plan.optim)
