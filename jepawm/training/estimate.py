"""What a training will need, computed before it: a step of the full model without memory and without arithmetic.

torch's fake tensors have shapes and no content, so that a step of a model of a billion parameters is walked through in
seconds on any machine. Arithmetic and what the backward pass keeps are counted, not guessed; hours then follow from a
stated share of a GPU's published peak.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from jepawm.config.encoder import without_weights
from jepawm.config.pretrain import PATCH_SIZE
from jepawm.config.pretraining_model import PretrainingModelConfig
from jepawm.config.training import TrainingPlan
from jepawm.pretraining.objective import build_pretraining
from jepawm.training.compute import prepare_compute_
from jepawm.training.step import TrainingObjective
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

_FLOAT32 = 4
# Weights, gradients and AdamW's two moments.
_COPIES = 4
# Windows of the step that is walked through; batch normalisation and moments need more than one.
_WINDOWS = 2


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
        flops_per_window: Operations of forward and backward pass, a multiplication and an addition counted as two; the
            backward pass counts as twice the forward pass of what trains.
        kept_bytes_per_window: What the forward pass keeps for the backward pass.
        fixed_bytes: Weights, their copies in 16 bits, gradients, moments and their average.
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
    found = _walk(plan, (action_dim, proprio_dim), half)
    trained = found.parameters - found.frozen
    copies = _COPIES + (plan.optim.ema_decay is not None)
    return TrainingEstimate(
        trained_parameters=trained,
        frozen_parameters=found.frozen,
        flops_per_window=found.flops / _WINDOWS,
        kept_bytes_per_window=found.kept / _WINDOWS,
        fixed_bytes=_FLOAT32 * (copies * trained + found.frozen) + found.weight_copies,
        num_windows=plan.train.num_train_steps * plan.train.batch_size,
        windows_at_once=plan.train.windows_at_once(num_workers),
        half=half,
    )


@dataclass(frozen=True)
class _Walk:
    """Counts of one step of `_WINDOWS` windows.

    Attributes:
        flops: Operations, the backward pass as twice the forward pass of what trains.
        kept: Bytes kept for the backward pass, without weights.
        weight_copies: Bytes of the copies of weights in 16 bits.
        parameters: In all.
        frozen: Of them in a frozen encoder.
    """

    flops: float
    kept: float
    weight_copies: float
    parameters: int
    frozen: int


def _walk(plan: TrainingPlan, widths: tuple[int, int], half: bool) -> _Walk:
    a, R = widths
    statistics = Statistics(*(np.ones(n, np.float32) for n in (a, a, R, R)))
    with torch.device("meta"):
        model = WorldModel(
            replace(plan.model, encoder=without_weights(plan.model.encoder)),
            image_size=plan.image_size,
            frameskip=plan.data.frameskip,
            statistics=statistics,
        )
    prepare_compute_(model, replace(plan.train, compile=False))
    objective = TrainingObjective(model, plan.loss, seed=plan.seed).train()
    T, image = plan.data.num_frames_in_window, plan.image_size
    encoding, rest = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16, enabled=half):
        _make_fake_(objective)
        pixels = torch.zeros(_WINDOWS, T, 3, image, image, dtype=torch.uint8)
        proprio, actions = torch.zeros(_WINDOWS, T, R), torch.zeros(_WINDOWS, T - 1, plan.data.frameskip * a)
        kept: dict[int, tuple[Any, int]] = {}

        def keep(value: Tensor) -> Tensor:
            # The storage itself is remembered as well: its address stays its own while it lives.
            kept[_storage(value)] = (value.untyped_storage(), value.untyped_storage().nbytes())
            return value

        with saved_tensors_hooks(keep, lambda value: value):
            with encoding:
                latents = model.encode(pixels, proprio)
            with rest:
                objective.terms(latents, actions, 0)
    parameters = list(objective.parameters())
    matrices = sum(parameter.numel() for parameter in parameters if parameter.requires_grad and parameter.dim() > 1)
    copies = 2.0 * matrices if half else 0.0
    own = {_storage(parameter) for parameter in parameters}
    trains = 3 if plan.model.encoder.trainable else 1
    return _Walk(
        flops=float(trains * encoding.get_total_flops() + 3 * rest.get_total_flops()),
        kept=max(0.0, sum(size for key, (_, size) in kept.items() if key not in own) - copies),
        weight_copies=copies,
        parameters=sum(parameter.numel() for parameter in parameters),
        frozen=sum(parameter.numel() for parameter in parameters if not parameter.requires_grad),
    )


def _make_fake_(module: nn.Module) -> None:
    """Puts fake tensors, which say that they are on the CPU, in place of parameters and buffers."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)


def pretraining_parameters(config: PretrainingModelConfig) -> tuple[int, int]:
    """Parameters of the encoder and of the mask predictor of a pretraining; nothing of a large model is made."""
    with torch.device("meta"):
        # No parameter depends on the size of the frames; 16 patches a side suit every patch size.
        patch = getattr(config.encoder, "patch_size", None) or PATCH_SIZE
        module = build_pretraining(config, 16 * patch)
    encoder, predictor = (
        sum(part.numel() for part in each.parameters()) for each in (module.encoder, module.predictor)
    )
    return encoder, predictor
