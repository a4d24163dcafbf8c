"""Small convolutional encoders, trained from pixels: one token per frame, or one per place of the last map."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.encoder import ConvEncoderConfig, ConvMapEncoderConfig
from jepawm.encoders.base import FrameEncoder
from jepawm.errors import ConfigError


class ConvEncoder(FrameEncoder):
    """Strided convolutions, then two linear layers; no normalisation layer, so the loss alone shapes the latents.

    Args:
        config: Channels, kernels, strides and widths.
        image_size: Side of the square input frames, pixels.
    """

    def __init__(self, config: ConvEncoderConfig, image_size: int) -> None:
        super().__init__(config, image_size, grid=(1, 1), latent_dim=config.latent_dim)
        layers: list[nn.Module] = []
        before, side = 3, self.preprocess.side
        for channels, kernel, stride in zip(config.channels, config.kernel_sizes, config.strides, strict=True):
            layers += [nn.Conv2d(before, channels, kernel, stride, padding=kernel // 2), nn.ReLU(inplace=True)]
            before, side = channels, (side + 2 * (kernel // 2) - kernel) // stride + 1
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(before * side * side, config.hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden_dim, self.latent_dim),
        )

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N 1 D"]:
        return self.head(self.convolutions(images_NCYX)).unsqueeze(1)


class ConvMapEncoder(FrameEncoder):
    """Strided convolutions and nothing behind them: a latent that keeps where things are.

    ReLU stands between the layers, none after the last; weights begin as He et al. draw them, biases at 0. A layer of
    stride `s` divides the side of its input by `s`.

    Args:
        config: Channels, kernels and strides.
        image_size: Side of the square input frames, pixels.

    Raises:
        ConfigError: Frames that the strides do not divide.

    Reference: He et al. 2015, arXiv 1502.01852 (initialisation).
    """

    def __init__(self, config: ConvMapEncoderConfig, image_size: int) -> None:
        side, stride = config.resize_to or image_size, math.prod(config.strides)
        if side % stride:
            raise ConfigError(
                f"model.encoder.strides {list(config.strides)} divide a frame's side by {stride}; frames of {side} px "
                "leave a remainder"
            )
        grid = (side // stride, side // stride)
        super().__init__(config, image_size, grid=grid, latent_dim=config.channels[-1])
        layers: list[nn.Module] = []
        before = 3
        for channels, kernel, step in zip(config.channels, config.kernel_sizes, config.strides, strict=True):
            # Rounded up: an odd excess of the kernel over the stride is padded once more, and the output is the same.
            convolution = nn.Conv2d(before, channels, kernel, step, padding=(kernel - step + 1) // 2)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [convolution, nn.ReLU(inplace=True)]
            before = channels
        self.convolutions = nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last)

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        return self.convolutions(images_NCYX).flatten(2).transpose(1, 2)
