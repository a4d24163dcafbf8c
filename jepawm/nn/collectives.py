"""Sums over data-parallel workers, inside the graph."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, used_alike: bool) -> Tensor:
        ctx.used_alike = used_alike
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # What one worker put in, every worker's loss may depend on: this is the gradient of the SUM of their losses.
        # Data parallelism divides by the number of workers afterwards, and the sum becomes their mean.
        if ctx.used_alike:
            return grads[0] * num_workers(), None
        total = grads[0].clone()
        dist.all_reduce(total)
        return total, None


def num_workers() -> int:
    """Data-parallel workers of this run; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share_of_batch(num_samples: int) -> slice:
    """Where this worker's samples lie in the global batch, for draws that must not depend on the number of workers.

    Args:
        num_samples: Samples on this worker, the same on each.
    """
    rank = dist.get_rank() if num_workers() > 1 else 0
    return slice(rank * num_samples, (rank + 1) * num_samples)


def sum_over_workers(local: Tensor, *, used_alike: bool = False) -> Tensor:
    """Sum of a tensor over all workers, differentiable.

    Every worker must call it, as often and with the same shape. Gradients are right when the workers' gradients are
    averaged afterwards, as `DistributedDataParallel` does.

    Args:
        local: This worker's summand, any shape.
        used_alike: The loss depends on the sum through a term that is the same on every worker, so its gradient is the
            same as well and need not be added up.

    Returns:
        The sum, the same on every worker; `local` itself where there is one worker.
    """
    if num_workers() > 1:
        return _SumOverWorkers.apply(local, used_alike)  # type: ignore[no-untyped-call, no-any-return]
    return local


def sum_and_parts(summand: Tensor, part: Tensor, *, used_alike: bool = False) -> tuple[Tensor, Tensor]:
    """Sum of one tensor over all workers, and another tensor of each worker, in one exchange; differentiable.

    Args:
        summand: This worker's summand, any shape.
        part: This worker's part, any shape.
        used_alike: See `sum_over_workers`.

    Returns:
        The sum, and the parts `[W,*part]` of all workers by rank.
    """
    workers = num_workers()
    if workers == 1:
        return summand, part[None]
    rank = dist.get_rank()
    before, after = part.new_zeros(rank * part.numel()), part.new_zeros((workers - rank - 1) * part.numel())
    packed = torch.cat([summand.flatten(), before, part.flatten(), after])
    total = sum_over_workers(packed, used_alike=used_alike)
    return total[: summand.numel()].view(summand.shape), total[summand.numel() :].view(workers, *part.shape)
