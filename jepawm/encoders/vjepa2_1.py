"""V-JEPA 2.1: images and videos, four levels of tokens, positions that do not grow with the frames."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.encoder import VJEPA21EncoderConfig
from jepawm.encoders.base import Widths, widths_of
from jepawm.encoders.video import EmbeddedClips, VideoTransformer
from jepawm.encoders.vjepa_files import load_vjepa21
from jepawm.errors import ConfigError
from jepawm.nn.rotary import Pairing

NUM_LEVELS = 4
# Position of the last row and column: that of 256 px cut into patches of 16.
SPAN = 15.0
_VECTOR_STD = 1e-6

SIZES = {
    "base": Widths(768, 12, 12),
    "large": Widths(1024, 24, 16),
    "giant": Widths(1408, 40, 22, 48 / 11),
    "gigantic": Widths(1664, 48, 26, 64 / 13),
}


class VJEPA21Encoder(VideoTransformer):
    """The encoder of V-JEPA 2.1.

    It differs from V-JEPA 2's in four points. A single frame is an image: it has a linear map of patches of its own,
    and images and videos are told apart by a vector that is added to every token. Tokens are read at four depths, each
    with its own layer normalisation; latents are the last. Rows and columns lie between 0 and 15 whatever the size of
    the frames, while times are counted. Both channels of a rotated pair turn by the same angle.

    Parameters that the tokenization never uses (of images or of videos, and the three lower normalisations) do not
    train, until a pretraining calls `train_every_part`.

    Args:
        config: Size and its overrides, weights, pixel normalisation, tokenization.
        image_size: Side of the square input frames, pixels.

    Raises:
        CheckpointError: Weights that are missing, damaged, or of another model.
        ConfigError: Patches or heads that do not come out even.

    Reference: V-JEPA 2.1 as released in March 2026 (facebookresearch/vjepa2, app/vjepa_2_1).
    """

    takes_images = True
    rotary_pairing: Pairing = "corrected"
    rotary_span = SPAN

    def __init__(self, config: VJEPA21EncoderConfig, image_size: int) -> None:
        super().__init__(config, image_size, widths_of(config, SIZES))
        self.patch_embed_image = self._patch_embedding(1)
        self.image_vector, self.video_vector = (
            nn.Parameter(_VECTOR_STD * torch.randn(1, 1, self.latent_dim)) for _ in range(2)
        )
        self.norms = nn.ModuleList(self._norm() for _ in range(NUM_LEVELS))
        self._initialise()
        if config.weights is not None:
            load_vjepa21(self, config.weights, part=config.weights_part)
        depths = super().level_depths(NUM_LEVELS)
        # A layer that is one of the levels has a normalisation of its own.
        self._last_norm = depths.index(config.layer) if config.layer in depths else NUM_LEVELS - 1
        self._drop_blocks_behind_the_layer()
        of_images = [self.patch_embed_image.weight, self.patch_embed_image.bias, self.image_vector]
        of_videos = [self.patch_embed.weight, self.patch_embed.bias, self.video_vector]
        others = [norm for number, norm in enumerate(self.norms) if number != self._last_norm]
        lower = [parameter for norm in others for parameter in norm.parameters()]
        for parameter in [*lower, *(of_videos if config.tokenization == "image" else of_images)]:
            assert parameter is not None
            parameter.requires_grad_(False)

    def embed(self, clip_BCTYX: Float[Tensor, "B C T Y X"]) -> EmbeddedClips:
        """Patches of clips, or of images where `T` is 1, as tokens; see `tokens`."""
        clips = super().embed(clip_BCTYX)
        vector = self.image_vector if clips.images else self.video_vector
        return EmbeddedClips(clips.tokens_BLD + vector.to(clips.tokens_BLD.dtype), clips.grid, clips.images)

    def level_depths(self, num_levels: int) -> tuple[int, ...]:
        """Numbers of blocks, from 1, behind which the levels are read.

        Raises:
            ConfigError: Neither the last level alone nor all four.
        """
        if num_levels not in (1, NUM_LEVELS):
            raise ConfigError(f"model.loss.target_levels of vjepa2_1 must be 1 or {NUM_LEVELS}, found {num_levels}")
        return super().level_depths(num_levels)

    def _patches(self, clip_BCTYX: Tensor, images: bool) -> Tensor:
        patches: Tensor = self.patch_embed_image(clip_BCTYX) if images else super()._patches(clip_BCTYX, images)
        return patches

    def _normalised(self, x_BLD: Tensor, level: int, num_levels: int) -> Tensor:
        found: Tensor = self.norms[level if num_levels > 1 else self._last_norm](x_BLD)
        return found
