"""Image metrics in the ranges they are defined in, and LPIPS with weights from a file."""

import math
from pathlib import Path

import pytest
import torch

from jepawm.errors import CheckpointError
from jepawm.training import image_metrics as module
from jepawm.training.image_metrics import LPIPS, at_size, image_metrics

needs_torchmetrics = pytest.mark.skipif(not module.can_measure(), reason="the extra metrics is not installed")


def frames(number: int, seed: int = 0, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, side, side), generator=generator, dtype=torch.uint8)


def plain(level: int) -> torch.Tensor:
    return torch.full((2, 3, 32, 32), level, dtype=torch.uint8)


@needs_torchmetrics
def test_equal_frames_are_perfect() -> None:
    assert image_metrics(frames(3), frames(3)) == pytest.approx({"mse": 0.0, "psnr": math.inf, "ssim": 1.0})


@needs_torchmetrics
def test_a_known_difference_has_its_known_metrics() -> None:
    found = image_metrics(plain(51), plain(102))
    # Colours 0.2 and 0.4, peak 1; SSIM of plain frames has its luminance term alone, with C1 = 0.01 ** 2.
    expected_ssim = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    expected = {"mse": 0.04, "psnr": -10 * math.log10(0.04), "ssim": expected_ssim}
    assert found == pytest.approx(expected, rel=1e-4)


@needs_torchmetrics
def test_metrics_are_means_over_frames_however_many_there_are() -> None:
    a, b = frames(70, 1, side=16), frames(70, 2, side=16)
    whole = image_metrics(a, b)
    parts = [image_metrics(a[i : i + 1], b[i : i + 1]) for i in range(70)]
    for name, value in whole.items():
        assert value == pytest.approx(sum(part[name] for part in parts) / 70, rel=1e-5)


def test_without_torchmetrics_the_squared_error_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_measure", lambda: False)
    assert image_metrics(plain(0), plain(255)) == {"mse": 1.0}


def test_true_frames_are_compared_at_the_size_of_the_drawn_ones() -> None:
    assert torch.equal(at_size(frames(2), (32, 32)), frames(2).float() / 255)
    assert at_size(frames(2), (16, 8)).shape == (2, 3, 16, 8)
    assert image_metrics(plain(51)[..., :16, :16], plain(51))["mse"] == pytest.approx(0.0, abs=1e-12)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the smallest network's weights, of its shapes and random."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@needs_torchmetrics
def test_lpips_takes_its_network_from_the_file_and_never_trains(squeezenet: Path) -> None:
    before = torch.hub.get_dir()
    lpips = LPIPS(str(squeezenet), "squeeze")
    assert torch.hub.get_dir() == before
    given = torch.load(squeezenet, weights_only=True)["features.0.weight"]
    assert any(value.shape == given.shape and torch.equal(value, given) for value in lpips.state_dict().values())
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    assert not lpips.train().training

    true = frames(2, side=64).float() / 255
    torch.testing.assert_close(lpips(true, true), torch.zeros(2))
    drawn = true.flip(-1).clone().requires_grad_()
    distance = lpips(drawn, true)
    assert distance.shape == (2,)
    assert (distance > 0).all()
    (gradient,) = torch.autograd.grad(distance.sum(), drawn)
    assert gradient.abs().max() > 0
    assert image_metrics(frames(2, side=64), frames(2, side=64), lpips)["lpips"] == pytest.approx(0.0, abs=1e-6)


@needs_torchmetrics
def test_lpips_refuses_the_weights_of_another_network(squeezenet: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not hold the weights of vgg16: its 52 tensors"):
        LPIPS(str(squeezenet))
    with pytest.raises(CheckpointError, match=r"weight file not found: .*absent\.pth"):
        LPIPS(str(tmp_path / "absent.pth"), "squeeze")
