"""How near drawn frames are to true ones: MSE, PSNR, SSIM and LPIPS, in the ranges they are defined in.

torchmetrics computes all but the first; it comes with the extra `metrics`. Colours are in [0, 1] and the peak is 1.
DINO-WM and JEPA-WMs print numbers in other ranges, which do not compare with these.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.errors import CheckpointError, require
from jepawm.nn import weights

LPIPSNetwork = Literal["vgg", "alex", "squeeze"]

EXTRA = "metrics"
_FRAMES_AT_ONCE = 64
# Names that torchvision gives the networks, and the enumerations of their published weights.
_NETWORKS: dict[LPIPSNetwork, tuple[str, str]] = {
    "vgg": ("vgg16", "VGG16_Weights"),
    "alex": ("alexnet", "AlexNet_Weights"),
    "squeeze": ("squeezenet1_1", "SqueezeNet1_1_Weights"),
}


def can_measure() -> bool:
    """Whether torchmetrics is installed; without it the mean squared error is all there is."""
    return importlib.util.find_spec("torchmetrics") is not None


class LPIPS(nn.Module):
    """Learned perceptual distance of frames: 0 for equal ones; its weights never train.

    torchmetrics holds the weights that were fitted to human judgement. Those of the network under them are a file of
    torchvision, which is given, so that nothing is downloaded unasked.

    Args:
        source: A path, a URL, or `hf://OWNER/REPO/FILE`: the network's ImageNet weights, as torchvision publishes them.
        network: Whose features are compared.

    Raises:
        CheckpointError: A file that cannot be had, is damaged, or is another network's.
        MissingDependencyError: torchmetrics or torchvision is not installed.

    Reference: Zhang et al. 2018, The unreasonable effectiveness of deep features, arXiv 1801.03924.
    """

    def __init__(self, source: str, network: LPIPSNetwork = "vgg") -> None:
        super().__init__()
        lpips = require("torchmetrics.image.lpip", EXTRA)
        models = require("torchvision.models", EXTRA)
        path = weights.locate(source)
        name, enumeration = _NETWORKS[network]
        with torch.device("meta"):
            empty = getattr(models, name)(weights=None)
        expected = {key: value.shape for key, value in empty.state_dict().items()}
        found = weights.only_tensors(weights.read_tensors(path), path)
        if {key: value.shape for key, value in found.items()} != expected:
            raise CheckpointError(
                f"{path} does not hold the weights of {name}: its {len(found)} tensors are not the {len(expected)} "
                "of that network; give the file that torchvision publishes"
            )
        published = getattr(models, enumeration).DEFAULT.url
        with _hub_with(path, os.path.basename(published)):
            self.distance = lpips.LearnedPerceptualImagePatchSimilarity(net_type=network).net
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "LPIPS":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, drawn: Float[Tensor, "N 3 Y X"], true: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, " N"]:
        """`[N]` distances of frames in [0, 1]; drawn colours outside are taken as they are, so their gradient lives."""
        distance: Tensor = self.distance(drawn, true, normalize=True)
        return distance.flatten()


def at_size(pixels: UInt8[Tensor, "N 3 Y X"], size: Sequence[int]) -> Float[Tensor, "N 3 y x"]:
    """Frames in [0, 1] with the rows and columns that a head draws, resized bilinearly with antialiasing."""
    images = pixels.float() / 255
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)


@torch.no_grad()
def image_metrics(
    drawn: UInt8[Tensor, "N 3 y x"], true: UInt8[Tensor, "N 3 Y X"], lpips: LPIPS | None = None
) -> dict[str, float]:
    """Means over frames.

    Args:
        drawn: `[N,3,y,x]` uint8 frames.
        true: The frames that they should be; compared at the size of the drawn ones.
        lpips: On the frames' device; None: LPIPS is left out.

    Returns:
        `mse` of colours in [0, 1] and, where torchmetrics is installed, `psnr` in dB (infinite for an equal frame),
        `ssim` with the usual Gaussian window of 11 pixels, and `lpips`.

    Reference: Wang et al. 2004, Image quality assessment: from error visibility to structural similarity.
    """
    sums: dict[str, float] = {}
    for at in range(0, len(drawn), _FRAMES_AT_ONCE):
        part = slice(at, at + _FRAMES_AT_ONCE)
        a, b = drawn[part].float() / 255, at_size(true[part], drawn.shape[-2:])
        for name, value_N in _per_frame(a, b, lpips).items():
            sums[name] = sums.get(name, 0.0) + float(value_N.double().sum())
    return {name: total / len(drawn) for name, total in sums.items()}


def _per_frame(a: Tensor, b: Tensor, lpips: LPIPS | None) -> Mapping[str, Tensor]:
    found = {"mse": (a - b).square().mean(dim=(1, 2, 3))}
    if can_measure():
        functional = require("torchmetrics.functional.image", EXTRA)
        found["psnr"] = functional.peak_signal_noise_ratio(a, b, data_range=1.0, dim=(1, 2, 3), reduction="none")
        found["ssim"] = functional.structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        if lpips is not None:
            found["lpips"] = lpips(a, b)
    return {name: value.reshape(len(a)) for name, value in found.items()}


@contextmanager
def _hub_with(path: str, name: str) -> Iterator[None]:
    """Torch's download folder is one that holds a file under a name; what looks for that name finds the file."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "checkpoints")
        files.mkdir()
        (files / name).symlink_to(os.path.abspath(path))
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
