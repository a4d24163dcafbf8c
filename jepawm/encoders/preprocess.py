"""From uint8 frames to what an encoder takes: resized, and normalised as its weights were trained."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.config import EncoderConfig
from jepawm.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PixelFormat:
    """What a model's own configuration says of the images it takes.

    Attributes:
        mean: Of red, green and blue, of pixels in [0, 1].
        std: Their deviations.
        side: Side of the square images, pixels.
        resize: How frames are resized: `antialias` (bilinear) or `bicubic`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int
    resize: str


def _scale_and_offset(normalization: str | PixelFormat) -> tuple[Tensor, Tensor]:
    """Normalisation of pixels 0 to 255 as `pixel * scale + offset`, `[3]` each."""
    mean, std = torch.tensor(IMAGENET_MEAN, dtype=torch.float64), torch.tensor(IMAGENET_STD, dtype=torch.float64)
    if isinstance(normalization, PixelFormat):
        mean, std = (torch.tensor(part, dtype=torch.float64) for part in (normalization.mean, normalization.std))
        scale, offset = 1 / (255 * std), -mean / std
    elif normalization == "imagenet":
        scale, offset = 1 / (255 * std), -mean / std
    elif normalization == "imagenet_after_symmetric":
        scale, offset = 1 / (127.5 * std), -(1 + mean) / std
    else:
        scale, offset = torch.full_like(std, 1 / 127.5), torch.full_like(std, -1.0)
    return scale.float(), offset.float()


class Preprocess(nn.Module):
    """Checks, resizes and normalises frames.

    Args:
        config: `normalization`, `resize_to` and `resize`.
        image_size: Side of the square frames, pixels.
        own: What the model's own configuration says, where it has one; `config` decides where it says something.

    Attributes:
        side: Side of the images that come out, pixels.

    Reference: resizing and normalisation of the released JEPA-WMs (Terver et al. 2025, arXiv 2512.24497: bilinear
        without antialiasing) and of DINO-WM (Zhou et al. 2024, arXiv 2411.04983: to 196 px with antialiasing).
    """

    scale: Tensor
    offset: Tensor
    mean_picture: Tensor
    deviation: Tensor

    def __init__(self, config: EncoderConfig, image_size: int, own: PixelFormat | None = None) -> None:
        super().__init__()
        self.normalization = config.normalization or ("own" if own else "symmetric")
        resize = config.resize or (own.resize if own else "bilinear")
        self.mode = "bicubic" if resize == "bicubic" else "bilinear"
        self.antialias = resize != "bilinear"
        self.image_size = image_size
        self.side = config.resize_to or (own.side if own else image_size)
        self.resizes = config.resize_to is not None
        scale, offset = _scale_and_offset(own if own and not config.normalization else self.normalization)
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("offset", offset.view(3, 1, 1), persistent=False)
        if self.normalization == "data":
            self.register_buffer("mean_picture", torch.zeros(3, self.side, self.side))
            self.register_buffer("deviation", torch.ones(()))

    def set_picture(self, mean_picture_CYX: Tensor, deviation: float) -> None:
        """Fixes what frames are normalised by, with `normalization` data.

        Args:
            mean_picture_CYX: `[3,side,side]` mean of the training frames, 0 to 255.
            deviation: Root mean square of their differences from it, over all pixels; above 0.
        """
        self.mean_picture.copy_(mean_picture_CYX)
        self.deviation.fill_(deviation)

    def forward(self, pixels_NCYX: Shaped[Tensor, "N C Y X"], dtype: torch.dtype) -> Float[Tensor, "N 3 side side"]:
        """Normalised images.

        Args:
            pixels_NCYX: `[N,3,Y,X]` uint8, 0 to 255. Square; of `image_size` unless they are resized.
            dtype: Of the images.

        Returns:
            `[N,3,side,side]`, channels last in memory.

        Raises:
            ConfigError: Frames of another kind, number of channels or size.
        """
        self._check(pixels_NCYX)
        if self.normalization == "data":
            images = pixels_NCYX.to(dtype).contiguous(memory_format=torch.channels_last)
            # In the memory order of the images; in another one the subtraction takes several times as long.
            mean_1CYX = self.mean_picture.to(dtype)[None].contiguous(memory_format=torch.channels_last)
            return images.sub_(mean_1CYX).mul_((1 / self.deviation).to(dtype))
        resized = self.side != pixels_NCYX.shape[-1]
        if self.normalization == "symmetric" and not resized:
            # Converting before any permute keeps the memory order; frames stored channels-last stay so for the
            # convolution.
            images = pixels_NCYX.to(dtype).contiguous(memory_format=torch.channels_last)
            return images.mul_(1 / 127.5).sub_(1)
        images = pixels_NCYX.float().contiguous(memory_format=torch.channels_last)
        if resized:
            images = F.interpolate(
                images, size=(self.side, self.side), mode=self.mode, align_corners=False, antialias=self.antialias
            )
            if self.mode == "bicubic":
                # Cubic weights overshoot at edges; no pixel is darker than black or brighter than white.
                images = images.clamp_(0, 255)
        images = images.mul_(self.scale.float()).add_(self.offset.float())
        return images.to(dtype).contiguous(memory_format=torch.channels_last)

    def _check(self, pixels: Tensor) -> None:
        C, Y, X = pixels.shape[1:]
        if pixels.dtype != torch.uint8:
            raise ConfigError(f"the encoder expects uint8 frames, 0 to 255, found {pixels.dtype}")
        if C != 3 or Y != X or (self.image_size != Y and not self.resizes):
            expected = "[3,S,S]" if self.resizes else f"[3,{self.image_size},{self.image_size}]"
            raise ConfigError(f"the encoder expects frames [C,Y,X] = {expected}, found [{C},{Y},{X}]")
