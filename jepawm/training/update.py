"""One update of the weights: forward, backward, clip, step."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jepawm.config.optim import OptimConfig
from jepawm.config.training import TrainConfig
from jepawm.device import autocast
from jepawm.seeding import stream_seed
from jepawm.training.optim import schedule_
from jepawm.training.step import to_device
from jepawm.types import WindowBatch

if TYPE_CHECKING:
    from jepawm.training.loop import TrainingState

Part = TypeVar("Part")

# Gradients that travel at once between workers on CPUs.
CPU_BUCKET_MIB = 25


def data_parallel(objective: nn.Module, device: torch.device, *, some_unused: bool = False) -> DistributedDataParallel:
    """What computes an objective and shares its gradients among the workers of the process group.

    Buffers are sent once, from rank 0. Those of our own layers stay equal, because what changes them is computed from
    the global batch. Batch normalisation inside a backbone of timm counts each worker's own samples; only rank 0's
    statistics are saved.

    Args:
        objective: On the device.
        device: Where it lives.
        some_unused: Whether a train step may leave parameters out.
    """
    on_gpu = device.type == "cuda"
    shared = DistributedDataParallel(
        objective,
        device_ids=[device] if on_gpu else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=some_unused,
        # On a GPU a small first bucket begins to travel while the others are computed. A CPU computes nothing faster
        # meanwhile, and each further bucket is one more time that workers wait for each other.
        bucket_cap_mb=None if on_gpu else CPU_BUCKET_MIB,
    )
    # Set afterwards, so that buffers are sent once: the name of the argument differs among versions of torch, and with
    # the older one buffers are not even sent at the beginning.
    shared.broadcast_buffers = False
    return shared


def update(
    compute: nn.Module,
    state: "TrainingState",
    batch: WindowBatch,
    *,
    train: TrainConfig,
    optim: OptimConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """One update of the state's weights.

    Args:
        compute: The state's objective, or what shares its gradients among workers.
        state: Changed in place, except for its train step.
        batch: This worker's share of the batch.
        train: Precision, micro-batches, number of train steps.
        optim: Optimizer and schedules.
        device: Where the objective lives.

    Returns:
        The terms of the loss and the gradient norm, on the device. With a scaled loss also `skipped`:
        1 where a gradient overflowed and no weight changed; the norm is 0 then.
    """
    schedule_(state.optimizer, optim, state.train_step, train.num_train_steps)
    state.optimizer.zero_grad(set_to_none=True)
    parts = list(zip(*(part.chunk(train.micro_batches) for part in to_device(batch, device)), strict=True))

    def forward(part: tuple[Tensor, ...]) -> dict[str, Tensor]:
        with autocast(train.precision, device):
            terms: dict[str, Tensor] = compute(*part, state.train_step)
        return terms

    with _dropout_of(state, device):
        means = backward_of_parts(compute, parts, forward, state.scaler)
    means |= apply_gradients(state.objective, state.optimizer, state.scaler, optim.largest_gradient_norm)
    if state.average is not None:
        state.average.update(state.objective.model)
    return means


def backward_of_parts(
    compute: nn.Module,
    parts: Sequence[Part],
    forward: Callable[[Part], dict[str, Tensor]],
    scaler: torch.amp.GradScaler,
) -> dict[str, Tensor]:
    """Forward and backward of each part of a batch, one after the other; gradients add up to the batch's.

    Args:
        compute: What shares gradients among workers; they do so once, after the last part.
        parts: Equal parts of this worker's share.
        forward: The terms of one part, means over its samples; `loss` is what gradients are of.
        scaler: Scales the loss under float16.

    Returns:
        Means of the terms over the parts that have them, without gradient.
    """
    found: dict[str, list[Tensor]] = {}
    for number, part in enumerate(parts, start=1):
        with _unshared(compute, len(parts) - number):
            terms = forward(part)
            scaler.scale(terms["loss"] / len(parts)).backward()
        for name, value in terms.items():
            found.setdefault(name, []).append(value.detach())
    return {name: torch.stack(values).mean() for name, values in found.items()}


def apply_gradients(
    module: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, largest_norm: float
) -> dict[str, Tensor]:
    """Clips the gradients and moves the weights.

    Args:
        module: What trains.
        optimizer: Of its parameters.
        scaler: Scaled the loss; with a scaled loss, weights stay where a gradient overflowed.
        largest_norm: Norm that gradients are clipped to.

    Returns:
        `gradient_norm`; with a scaled loss also `skipped`, 1 where no weight changed, and the norm is 0 then.
    """
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), largest_norm)
    terms: dict[str, Tensor] = {}
    if scaler.is_enabled():
        finite = torch.isfinite(norm)
        terms["skipped"] = (~finite).float()
        norm = torch.where(finite, norm, torch.zeros_like(norm))
    terms["gradient_norm"] = norm
    scaler.step(optimizer)
    scaler.update()
    return terms


def _unshared(compute: nn.Module, parts_to_come: int) -> contextlib.AbstractContextManager[None]:
    """Workers share the gradients of a batch once, after its last part."""
    if parts_to_come and isinstance(compute, DistributedDataParallel):
        return compute.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def _dropout_of(state: "TrainingState", device: torch.device) -> Iterator[None]:
    """Dropout draws from (run seed, train step), so that a resumed run draws what an uninterrupted one does."""
    seed = stream_seed(state.objective.seed, "dropout", state.train_step)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Not `torch.manual_seed`: for each kind of device that is not there it formats a stack trace.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
