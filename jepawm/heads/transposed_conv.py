"""DINO-WM's decoder of latents that are a single token."""

import itertools
from collections.abc import Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.heads.image import Normalization, to_pixels
from jepawm.heads.vit import grid_of, published_head
from jepawm.nn import weights


class TransposedConvDecoder(nn.Module):
    """One token grows to a frame through transposed convolutions, each three times as wide: 1, 3, 9, 27, 81, 243.

    Args:
        latent_dim: Width `D` of the latents.
        image_size: Side of the frames, pixels; what the convolutions give is resized bilinearly to it.
        depth: Channels before the last convolution; the first has 32 times as many.
        kernel_size: Side of the kernels.
        stride: Of the convolutions.
        normalization: Of the frames it was or will be trained to draw.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983; after Hafner et al. 2020, Dreamer, arXiv 1912.01603.
    """

    def __init__(
        self,
        latent_dim: int = 384,
        *,
        image_size: int = 224,
        depth: int = 64,
        kernel_size: int = 5,
        stride: int = 3,
        normalization: Normalization = "symmetric",
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_size = image_size
        self.normalization: Normalization = normalization
        channels = [32 * depth, 8 * depth, 4 * depth, 2 * depth, depth, 3]
        self.embed = nn.Linear(latent_dim, channels[0])
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(before, after, kernel_size, stride, padding=1)
            for before, after in itertools.pairwise(channels)
        )
        for layer in (self.embed, *self.convolutions):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, latents_BTPD: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T 3 Y X"]:
        """Draws frames.

        Args:
            latents_BTPD: `[B,T,1,D]` latents.

        Returns:
            `[B,T,3,Y,X]` normalised frames, float32.

        Raises:
            ConfigError: Latents of another width or of more than one patch.
        """
        grid_of(latents_BTPD, self.latent_dim, (1, 1))
        x = self.embed(latents_BTPD.flatten(0, 2))[:, :, None, None]
        for layer in self.convolutions[:-1]:
            x = F.relu(layer(x))
        side = (self.image_size, self.image_size)
        frames = F.interpolate(self.convolutions[-1](x).float(), size=side, mode="bilinear")
        return frames.unflatten(0, latents_BTPD.shape[:2])

    @torch.no_grad()
    def decode(self, latents_BTPD: Float[Tensor, "B T P D"]) -> UInt8[Tensor, "B T 3 Y X"]:
        """`[B,T,1,D]` latents to `[B,T,3,Y,X]` uint8 frames; see `to_pixels` for the rounding."""
        return to_pixels(self(latents_BTPD), self.normalization)


def load_transposed_conv_decoder(head: TransposedConvDecoder, source: str, *, part: str = "decoder") -> None:
    """Loads a file that holds the published decoder's tensors under one key.

    Args:
        head: Changed in place.
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.
        part: Key of the tensors in the file.

    Raises:
        CheckpointError: The file is missing, damaged, or of another head.
    """
    hint = "take a checkpoint from the DINO-WM release"
    transposed_conv_from_published(head, *published_head(source, part, hint))


def transposed_conv_from_published(head: TransposedConvDecoder, tensors: Mapping[str, Tensor], where: str) -> None:
    """Puts the published decoder's tensors into a head, strictly.

    Published is one sequence, `network`: the linear layer at place 0, and after two reshapes a convolution at every
    second place from 3 on.

    Args:
        head: Changed in place.
        tensors: By published name, without `module.`.
        where: File, for errors.

    Raises:
        CheckpointError: Names or shapes that do not fit.
    """
    layers = {"network.0": "embed"}
    layers |= {f"network.{3 + 2 * i}": f"convolutions.{i}" for i in range(len(head.convolutions))}
    names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in layers.items() for kind in ("weight", "bias")}
    weights.load_strict(head, tensors, where, rename=lambda key: names.get(key, key))
