"""Batch normalisation on one worker, and the projector; several workers are in test_equivalence_batch_norm.py."""

import pytest
import torch
from torch import nn

from jepawm.nn.batch_norm import GlobalBatchNorm
from jepawm.nn.projector import Projector


def test_batch_normalisation_is_torchs_on_one_worker() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = GlobalBatchNorm(6), nn.BatchNorm1d(6)
    weights = {"weight": torch.rand(6, generator=generator) + 0.5, "bias": torch.randn(6, generator=generator)}
    ours.load_state_dict(theirs.state_dict() | weights)
    theirs.load_state_dict(theirs.state_dict() | weights)
    upstream = torch.randn(40, 6, generator=generator)
    for _ in range(3):
        x = (torch.randn(40, 6, generator=generator) * 3 + 5).requires_grad_()
        y = x.detach().clone().requires_grad_()
        found, expected = ours(x.view(4, 5, 2, 6)).view(40, 6), theirs(y)
        found.mul(upstream).sum().backward()
        expected.mul(upstream).sum().backward()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-5, atol=1e-4)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_statistics_are_float32_under_autocast() -> None:
    x = torch.randn(4096, 4, generator=torch.Generator().manual_seed(0)) + 30
    norm = GlobalBatchNorm(4)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x.bfloat16())
    assert out.dtype == torch.bfloat16
    expected = 0.1 * x.bfloat16().float().mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-6, atol=1e-6)
    assert out.float().mean().abs() < 0.01


def test_one_sample_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="at least 2 samples in the global batch, found 1"):
        GlobalBatchNorm(4)(torch.randn(1, 1, 1, 4))


def test_a_projector_is_its_formula() -> None:
    torch.manual_seed(0)
    projector, x = Projector(5, 7, 3), torch.randn(4, 2, 3, 5)
    hidden = projector.fc1(x).flatten(0, 2)
    hidden = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, unbiased=False) + 1e-5).sqrt()
    expected = projector.fc2(0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))).view(4, 2, 3, 3)
    torch.testing.assert_close(projector(x), expected, rtol=1e-4, atol=1e-5)
