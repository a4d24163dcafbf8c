"""Sums over data-parallel workers, inside the graph."""

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        # What one worker put in, every worker's loss may depend on: this is the gradient of the SUM of their losses.
        # Data parallelism divides by the number of workers afterwards, and the sum becomes their mean.
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


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


def sum_over_workers(local: Tensor) -> Tensor:
    """Sum of a tensor over all workers, differentiable.

    Every worker must call it, as often and with the same shape. Gradients are right when the workers' gradients are
    averaged afterwards, as `DistributedDataParallel` does.

    Args:
        local: This worker's summand, any shape.

    Returns:
        The sum, the same on every worker; `local` itself where there is one worker.
    """
    if num_workers() > 1:
        return _SumOverWorkers.apply(local)  # type: ignore[no-untyped-call, no-any-return]
    return local
