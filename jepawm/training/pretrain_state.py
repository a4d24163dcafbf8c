"""What a pretraining changes, and its checkpoints.

```
FOLDER/
  training_state.pt     encoder, predictor, teacher, optimizer, loss scale, mask strategies with theirs, counters
```
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from jepawm.config.masking import MaskConfig
from jepawm.config.pretrain import PretrainPlan
from jepawm.errors import CheckpointError, first_line
from jepawm.pretraining.masks import MaskStrategy, build_masks
from jepawm.pretraining.objective import Pretraining, build_pretraining
from jepawm.seeding import stream_seed
from jepawm.training.checkpoint import DAMAGE, checkpoint_folder, copied_to_cpu, load_moments, save_state
from jepawm.training.compute import checkpoint_activations_
from jepawm.training.optim import build_optimizer

STATE_FILE = "training_state.pt"


@dataclass
class PretrainState:
    """All that an update of a pretraining changes.

    Attributes:
        module: Context encoder, predictor and teacher.
        optimizer: Of encoder and predictor.
        masks: The strategy of each stage; stages with equal settings share one.
        mask_optimizer: Of the strategies that are trained along; None: none is.
        scaler: Scales the loss under float16; off otherwise.
        train_step: Updates made.
        seconds: Training time spent, over all resumes.
        drawn: Number of a group of clips -> how often masks were drawn for it in the current stage.
    """

    module: Pretraining
    optimizer: torch.optim.Optimizer
    masks: tuple[MaskStrategy, ...]
    mask_optimizer: torch.optim.Optimizer | None = None
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    train_step: int = 0
    seconds: float = 0.0
    drawn: dict[int, int] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """Everything that training goes on from."""
        return {
            "train_step": self.train_step,
            "seconds": self.seconds,
            "drawn": dict(self.drawn),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "masks": _distinct(self.masks).state_dict(),
            "mask_optimizer": None if self.mask_optimizer is None else self.mask_optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
        }


def fresh_pretrain_state(config: PretrainPlan, device: torch.device) -> PretrainState:
    """A seeded state before the first update: the same weights for the same seed on every worker.

    Raises:
        ConfigError: Widths, levels or masks that do not go together.
        CheckpointError: The weights of `model.encoder.weights` are missing, damaged, or another encoder's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        # The exported encoder takes frames of the size that training ends with.
        module = build_pretraining(config.model, config.stages[-1].image_size)
        torch.manual_seed(stream_seed(config.seed, "masks"))
        known: list[tuple[MaskConfig, MaskStrategy]] = []
        masks = []
        for number in range(len(config.stages)):
            wanted = config.masks_of(number)
            found = next((strategy for each, strategy in known if each == wanted), None)
            if found is None:
                found = build_masks(wanted, module.encoder.latent_dim)
                known.append((wanted, found))
            masks.append(found.to(device))
    if config.train.activation_checkpointing:
        checkpoint_activations_(module)
    module.to(device)
    trained = _distinct(tuple(masks))
    return PretrainState(
        module,
        build_optimizer(module, config.optim),
        tuple(masks),
        build_optimizer(trained, config.optim) if any(True for _ in trained.parameters()) else None,
        torch.amp.GradScaler(device.type, enabled=config.train.precision == "float16"),
    )


def _distinct(masks: tuple[MaskStrategy, ...]) -> nn.ModuleList:
    """Each strategy once, in the order of the stages."""
    return nn.ModuleList(dict.fromkeys(masks))


@dataclass(frozen=True)
class PretrainSnapshot:
    """What a checkpoint holds, copied to the CPU: training may go on while it is written.

    Attributes:
        train_step: Updates made.
        data: See `PretrainState.as_data`.
    """

    train_step: int
    data: Mapping[str, Any]

    @classmethod
    def of(cls, state: PretrainState) -> "PretrainSnapshot":
        """Copies a state."""
        return cls(state.train_step, copied_to_cpu(state.as_data()))

    def write(self, folder: str) -> None:
        """Writes a checkpoint folder; it appears under its name only when it is whole.

        Raises:
            CheckpointError: The disk is full or takes no files, or the run's folder is gone; nothing of the checkpoint
                stays.
        """
        with checkpoint_folder(folder) as temporary:
            save_state(dict(self.data), temporary / STATE_FILE)


def restore_pretraining(folder: str, state: PretrainState) -> None:
    """Puts a checkpoint into a fresh state.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, or of another configuration.
    """
    path = os.path.join(folder, STATE_FILE)
    device = next(state.module.parameters()).device
    try:
        # weights_only: a checkpoint from elsewhere can hold no code.
        saved = torch.load(path, map_location=device, weights_only=True)
        train_step, seconds = int(saved["train_step"]), float(saved["seconds"])
        drawn = {int(group): int(count) for group, count in saved["drawn"].items()}
        parts = {name: saved[name] for name in ("module", "optimizer", "masks", "mask_optimizer", "scaler")}
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged or not one of ours ({first_line(error)}); remove this checkpoint to go on from an "
            "older one"
        ) from error
    try:
        state.module.load_state_dict(parts["module"])
        load_moments(state.optimizer, parts["optimizer"])
        _distinct(state.masks).load_state_dict(parts["masks"])
        if state.mask_optimizer is not None:
            load_moments(state.mask_optimizer, parts["mask_optimizer"])
        if state.scaler.is_enabled() and parts["scaler"] is not None:
            state.scaler.load_state_dict(parts["scaler"])
    except DAMAGE as error:
        raise CheckpointError(f"{path} does not fit its configuration: {first_line(error)}") from error
    state.train_step, state.seconds, state.drawn = train_step, seconds, drawn
