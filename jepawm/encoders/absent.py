"""No encoder: the shape of latents that somebody else makes."""

from jaxtyping import Float, UInt8
from torch import Tensor

from jepawm.config.encoder import AbsentEncoderConfig
from jepawm.encoders.base import Encoder, patch_grid
from jepawm.errors import ConfigError


class AbsentEncoder(Encoder):
    """Stands where a model takes stored or foreign features, and says what shape they have.

    Args:
        config: `latent_dim` and `patch_size`.
        image_size: Side of the frames the features were made from, pixels.

    Raises:
        ConfigError: Frames that the patches do not tile.
    """

    def __init__(self, config: AbsentEncoderConfig, image_size: int) -> None:
        side = config.resize_to or image_size
        super().__init__(grid=patch_grid(side, side, config.patch_size), latent_dim=config.latent_dim)

    def forward(self, pixels_BTCYX: UInt8[Tensor, "B T C Y X"]) -> Float[Tensor, "B T P D"]:
        """Always an error.

        Raises:
            ConfigError: There is no encoder.
        """
        raise ConfigError(
            "this model was made without an encoder (model.encoder.name 'none') and cannot encode pixels; hand its "
            "features to WorldModel.latent(), or name the encoder they come from"
        )
