"""Batch normalisation over the global batch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.nn.collectives import num_workers, sum_and_parts
from jepawm.nn.precision import at_least_float32


class GlobalBatchNorm(nn.Module):
    """Batch normalisation whose statistics are those of the GLOBAL batch, exactly, in value and in gradient.

    Every worker must bring the same number of samples. Statistics are computed in float32, also under autocast, and
    the names of weights and buffers are those of `torch.nn.BatchNorm1d`.

    Args:
        num_features: Width `D`.
        eps: Added to the variance.
        momentum: Share of a batch in the running statistics, which evaluation mode uses.

    Reference: Ioffe and Szegedy 2015, Batch Normalization, arXiv 1502.03167, algorithm 1.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Normalises each feature over all leading axes and all workers.

        Args:
            x: `[...,D]`.

        Returns:
            `[...,D]` in the dtype of `x`.

        Raises:
            ValueError: One sample in the global batch while training: its variance is not defined.
        """
        if not self.training:
            scale = self.weight.float() * (self.running_var.float() + self.eps).rsqrt()
            return ((x.float() - self.running_mean.float()) * scale + self.bias.float()).to(x.dtype)
        samples_SD = at_least_float32(x).flatten(0, -2)
        count = len(samples_SD) * num_workers()
        if count < 2:
            raise ValueError(f"batch normalisation needs at least 2 samples in the global batch, found {count}")
        own_mean = samples_SD.mean(dim=0)
        squares, means_WD = sum_and_parts((samples_SD - own_mean).square().sum(dim=0), own_mean)
        mean = means_WD.mean(dim=0)
        # Around each worker's own mean, and of those means around the global one: one exchange for both.
        variance = (squares + len(samples_SD) * (means_WD - mean).square().sum(dim=0)) / count
        centred_SD = samples_SD - mean
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        normalised_SD = centred_SD * ((variance + self.eps).rsqrt() * at_least_float32(self.weight)) + at_least_float32(
            self.bias
        )
        return normalised_SD.view_as(x).to(x.dtype)
