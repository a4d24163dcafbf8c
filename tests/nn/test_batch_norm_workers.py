"""One worker with the whole batch = two workers with half of it each: batch normalisation in the projector."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from two_workers import on_two_workers

from jepawm.nn.projector import Projector
from jepawm.training.update import data_parallel

B, T, P, D, HIDDEN = 8, 3, 2, 6, 16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(D, D)
        self.projector = Projector(D, HIDDEN, D)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (self.projector(self.body(x)) - target).square().mean()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    # Windows differ in mean, so that half a batch has other statistics than the whole.
    x = torch.randn(B, T, P, D, generator=generator) + torch.arange(B).view(B, 1, 1, 1)
    return x, torch.randn(B, T, P, D, generator=generator)


def step(share: slice, wrap: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    net = Net()
    compute: nn.Module = net
    if wrap:
        if dist.get_rank() == 1:
            # Rank 0's are sent at the beginning.
            net.projector.norm.running_mean.add_(7)
        shared = data_parallel(net, torch.device("cpu"))
        assert not shared.will_sync_module_buffers()
        compute = shared
    x, target = (each[share].clone() for each in data())
    x.requires_grad_()
    loss = compute(x, target)
    loss.backward()
    return {
        "loss": float(loss.detach()),
        "gradients": {name: parameter.grad for name, parameter in net.named_parameters()},
        "of_input": x.grad,
        "buffers": dict(net.named_buffers()),
    }


def half(rank: int) -> dict[str, Any]:
    return step(slice(4 * rank, 4 * rank + 4), wrap=True)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_workers(half, tmp_path_factory.mktemp("two_workers"))


def test_loss_and_gradients_of_two_workers_are_those_of_one(two_workers: list[dict[str, Any]]) -> None:
    one, alone = step(slice(0, 8), wrap=False), step(slice(0, 4), wrap=False)
    mean = sum(found["loss"] for found in two_workers) / 2
    assert mean == pytest.approx(one["loss"], rel=1e-6)
    for name, gradient in one["gradients"].items():
        for found in two_workers:
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-4, atol=1e-6)
    # What the comparison is worth: half a batch alone gives something else.
    apart = max((alone["gradients"][name] - one["gradients"][name]).abs().max() for name in one["gradients"])
    assert apart > 1e-2
    # Each worker's input gradient is that of the SUM of losses; the whole batch's loss is their mean.
    inputs = torch.cat([found["of_input"] for found in two_workers]) / 2
    torch.testing.assert_close(inputs, one["of_input"], rtol=1e-4, atol=1e-7)


def test_running_statistics_are_those_of_the_global_batch(two_workers: list[dict[str, Any]]) -> None:
    one = step(slice(0, 8), wrap=False)["buffers"]
    assert set(one) == {f"projector.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    for name, buffer in one.items():
        for found in two_workers:
            torch.testing.assert_close(found["buffers"][name], buffer, rtol=1e-5, atol=1e-6)
