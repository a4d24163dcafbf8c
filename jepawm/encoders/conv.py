"""A small convolutional encoder, trained from pixels: one token per frame."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepawm.config import EncoderConfig
from jepawm.errors import ConfigError


class ConvEncoder(nn.Module):
    """Strided convolutions, then two linear layers; no normalisation layer, so the loss alone shapes the latents.

    Args:
        config: Channels, kernels, strides and widths.
        image_size: Side of the square input frames, pixels.
    """

    def __init__(self, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.num_patches = 1
        self.latent_dim = config.latent_dim
        layers: list[nn.Module] = []
        before, side = 3, image_size
        for channels, kernel, stride in zip(config.channels, config.kernel_sizes, config.strides, strict=True):
            layers += [nn.Conv2d(before, channels, kernel, stride, padding=kernel // 2), nn.ReLU(inplace=True)]
            before, side = channels, (side + 2 * (kernel // 2) - kernel) // stride + 1
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(before * side * side, config.hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden_dim, config.latent_dim),
        )

    def forward(self, pixels_BTCYX: UInt8[Tensor, "B T C Y X"]) -> Float[Tensor, "B T P D"]:
        """Encodes frames one by one.

        Args:
            pixels_BTCYX: `[B,T,C,Y,X]` uint8, 0 to 255.

        Returns:
            `[B,T,1,D]` latents, float32.

        Raises:
            ConfigError: Frames of another size than the encoder was built for.
        """
        B, T, C, Y, X = pixels_BTCYX.shape
        expected = (3, self.image_size, self.image_size)
        if expected != (C, Y, X):
            raise ConfigError(
                f"the encoder expects frames [C,Y,X] = [3,{self.image_size},{self.image_size}], found [{C},{Y},{X}]"
            )
        device_type = pixels_BTCYX.device.type
        autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else next(self.parameters()).dtype
        # Converting before any permute keeps the memory order; frames stored channels-last stay so for the convolution.
        images = pixels_BTCYX.flatten(0, 1).to(dtype)
        images = images.contiguous(memory_format=torch.channels_last).mul_(1 / 127.5).sub_(1)
        return self.head(self.convolutions(images)).float().view(B, T, 1, self.latent_dim)
