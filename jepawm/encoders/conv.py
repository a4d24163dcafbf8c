"""A small convolutional encoder, trained from pixels: one token per frame."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.encoder import ConvEncoderConfig
from jepawm.encoders.base import FrameEncoder


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
