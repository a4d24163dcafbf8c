"""One update of the weights: forward, backward, clip, step."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

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

# Gradients that travel at once between workers on CPUs.
CPU_BUCKET_MIB = 25


def data_parallel(objective: nn.Module, device: torch.device) -> DistributedDataParallel:
    """What computes an objective and shares its gradients among the workers of the process group.

    Buffers are equal on all workers without being sent: they begin as rank 0 has them, and what changes them is
    computed from the global batch.

    Args:
        objective: On the device.
        device: Where it lives.
    """
    on_gpu = device.type == "cuda"
    shared = DistributedDataParallel(
        objective,
        device_ids=[device] if on_gpu else None,
        gradient_as_bucket_view=True,
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
    parts = zip(*(part.chunk(train.micro_batches) for part in to_device(batch, device)), strict=True)
    means: dict[str, Tensor] = {}
    with _dropout_of(state, device):
        for number, part in enumerate(parts, start=1):
            with _unshared(compute, train.micro_batches - number):
                with autocast(train.precision, device):
                    terms: dict[str, Tensor] = compute(*part, state.train_step)
                state.scaler.scale(terms["loss"] / train.micro_batches).backward()
            for name, value in terms.items():
                share = value.detach() / train.micro_batches
                means[name] = means[name] + share if name in means else share
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.objective.parameters(), optim.largest_gradient_norm)
    if state.scaler.is_enabled():
        finite = torch.isfinite(norm)
        means["skipped"] = (~finite).float()
        norm = torch.where(finite, norm, torch.zeros_like(norm))
    means["gradient_norm"] = norm
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update(state.objective.model)
    return means


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
