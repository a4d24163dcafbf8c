"""What a training will need, computed before it: a step of the full model without memory and without arithmetic.

torch's fake tensors have shapes and no content, so that a step of a model of a billion parameters is walked through in
seconds on any machine. Arithmetic and what the backward pass keeps are counted, not guessed; hours then follow from a
stated share of a GPU's published peak.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from jepawm.config.encoder import without_weights
from jepawm.config.training import TrainingPlan
from jepawm.training.compute import prepare_compute_
from jepawm.training.step import TrainingObjective
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

_FLOAT32 = 4
# Weights, gradients and AdamW's two moments.
_COPIES = 4


@dataclass(frozen=True)
class GPU:
    """A GPU's published peak, for dense matrices.

    Attributes:
        name: Its name.
        half_flops: Operations per second in bfloat16 or float16.
        float_flops: In float32, without TF32.
        memory_gib: Its memory.
    """

    name: str
    half_flops: float
    float_flops: float
    memory_gib: int


GPUS = {
    "h100": GPU("NVIDIA H100 SXM", 989e12, 67e12, 80),
    "a100": GPU("NVIDIA A100", 312e12, 19.5e12, 80),
    "rtx4090": GPU("NVIDIA RTX 4090", 165e12, 82.6e12, 24),
}
# Share of the peak that a transformer of this size reaches in training.
UTILISATION = 0.35


@dataclass(frozen=True)
class TrainingEstimate:
    """Counts of one training.

    Attributes:
        trained_parameters: Parameters that train.
        frozen_parameters: Parameters of a frozen encoder.
        flops_per_window: Operations of forward and backward pass, a multiplication and an addition counted as two.
        kept_bytes_per_window: What the forward pass keeps for the backward pass.
        fixed_bytes: Weights, gradients, moments and their average.
        num_windows: Windows of the whole training.
        windows_at_once: Windows of one forward pass.
        half: Whether matrices are multiplied in a format of 16 bits.
    """

    trained_parameters: int
    frozen_parameters: int
    flops_per_window: float
    kept_bytes_per_window: float
    fixed_bytes: float
    num_windows: int
    windows_at_once: int
    half: bool

    @property
    def memory_gib(self) -> float:
        """GPU memory of one worker, without what lives for a moment inside a layer, GiB."""
        return (self.fixed_bytes + self.windows_at_once * self.kept_bytes_per_window) / 2**30

    def hours(self, gpu: GPU) -> float:
        """Hours on one GPU that never waits for data, at `UTILISATION` of its peak."""
        peak = gpu.half_flops if self.half else gpu.float_flops
        return self.num_windows * self.flops_per_window / (UTILISATION * peak) / 3600


def estimate_training(
    plan: TrainingPlan, *, action_dim: int, proprio_dim: int, num_workers: int = 1
) -> TrainingEstimate:
    """Counts what a training needs.

    Args:
        plan: The training.
        action_dim: Width a of an environment step's action.
        proprio_dim: Width R of proprio.
        num_workers: Workers that share a batch.

    Raises:
        ConfigError: Parts of the model that do not go together.
    """
    half = plan.train.precision != "float32"
    small, large = (_walk(plan, windows, (action_dim, proprio_dim), half) for windows in (2, 4))
    per_window = (large.kept - small.kept) / 2
    encoder_trains = plan.model.encoder.trainable
    frozen = 0 if encoder_trains else small.encoder_parameters
    trained = small.parameters - frozen
    copies = _COPIES + (plan.optim.ema_decay is not None)
    return TrainingEstimate(
        trained_parameters=trained,
        frozen_parameters=frozen,
        flops_per_window=(large.flops - small.flops) / 2,
        kept_bytes_per_window=per_window,
        fixed_bytes=_FLOAT32 * (copies * trained + frozen) + max(0.0, small.kept - 2 * per_window),
        num_windows=plan.train.num_train_steps * plan.train.batch_size,
        windows_at_once=plan.train.windows_at_once(num_workers),
        half=half,
    )


@dataclass(frozen=True)
class _Walk:
    """Counts of one step: operations, bytes kept for the backward pass, parameters in all and of the encoder."""

    flops: float
    kept: float
    parameters: int
    encoder_parameters: int


def _walk(plan: TrainingPlan, windows: int, widths: tuple[int, int], half: bool) -> _Walk:
    a, R = widths
    statistics = Statistics(*(np.ones(n, np.float32) for n in (a, a, R, R)))
    train = replace(plan.train, compile=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = WorldModel(
            replace(plan.model, encoder=without_weights(plan.model.encoder)),
            image_size=plan.image_size,
            frameskip=plan.data.frameskip,
            statistics=statistics,
        )
        prepare_compute_(model, train)
        objective = TrainingObjective(model, plan.loss, seed=plan.seed).train()
        T = plan.data.num_frames_in_window
        pixels = torch.zeros(windows, T, 3, plan.image_size, plan.image_size, dtype=torch.uint8)
        proprio, actions = torch.zeros(windows, T, R), torch.zeros(windows, T - 1, plan.data.frameskip * a)
        weights = {_storage(parameter) for parameter in objective.parameters()}
        kept: dict[int, tuple[Any, int]] = {}

        def keep(value: Tensor) -> Tensor:
            # The storage itself is remembered as well: its address stays its own while it lives.
            storage = value.untyped_storage()
            if _storage(value) not in weights:
                kept[_storage(value)] = (storage, storage.nbytes())
            return value

        with FlopCounterMode(display=False) as counter:
            with saved_tensors_hooks(keep, lambda value: value), torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = objective(pixels, proprio, actions, 0)["loss"]
            loss.backward()
    return _Walk(
        flops=float(counter.get_total_flops()),
        kept=float(sum(size for _, size in kept.values())),
        parameters=sum(parameter.numel() for parameter in objective.parameters()),
        encoder_parameters=sum(parameter.numel() for parameter in model.encoder.parameters()),
    )


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
