"""Mean and deviation of colours in a coarse grid: a control that every encoder has to beat."""

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.encoder import PixelStatisticsEncoderConfig
from jepawm.encoders.base import FrameEncoder
from jepawm.errors import ConfigError


class PixelStatisticsEncoder(FrameEncoder):
    """Each cell of a grid is a token of six numbers: mean and standard deviation of each normalised colour in it.

    It has no weights, so what a world model does on these latents owes nothing to learned vision.

    Args:
        config: Cells of the grid.
        image_size: Side of the square input frames, pixels.

    Raises:
        ConfigError: A grid that does not divide the frames.
    """

    def __init__(self, config: PixelStatisticsEncoderConfig, image_size: int) -> None:
        side = config.resize_to or image_size
        if side % config.cells:
            raise ConfigError(
                f"model.encoder.cells {config.cells} do not divide frames of {side} px; choose a divisor, or set "
                "model.encoder.resize_to"
            )
        super().__init__(config, image_size, grid=(config.cells, config.cells), latent_dim=6)
        self.cells = config.cells

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P 6"]:
        cells_NCRYQX = images_NCYX.unflatten(3, (self.cells, -1)).unflatten(2, (self.cells, -1))
        found = [cells_NCRYQX.mean(dim=(3, 5)), cells_NCRYQX.std(dim=(3, 5), correction=0)]
        return torch.cat(found, dim=1).flatten(2).transpose(1, 2)
