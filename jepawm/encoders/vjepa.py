"""V-JEPA and V-JEPA 2: video transformers that embed pairs of frames."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepawm.config.encoder import VideoEncoderConfig, VJEPA1EncoderConfig, VJEPA2EncoderConfig
from jepawm.encoders.base import Widths, widths_of
from jepawm.encoders.video import EmbeddedClips, VideoTransformer, normalised_without_parameters
from jepawm.encoders.vjepa_files import load_vjepa
from jepawm.nn.embeddings import sincos_3d
from jepawm.nn.rotary import RotaryTable

# The table of V-JEPA 1: 16 frames of 224 x 224 pixels.
_TABLE_TIMES, _TABLE_SIDE = 8, 14

SIZES = {
    "tiny": Widths(192, 12, 3),
    "small": Widths(384, 12, 6),
    "base": Widths(768, 12, 12),
    "large": Widths(1024, 24, 16),
    "huge": Widths(1280, 32, 16),
    "giant": Widths(1408, 40, 22, 48 / 11),
}


class VJEPAEncoder(VideoTransformer):
    """The encoder of V-JEPA (`vjepa1`) or V-JEPA 2 (`vjepa2`).

    A final layer normalisation follows the blocks; a lower level, where one is asked for, is normalised without
    parameters. V-JEPA 2 turns queries and keys by time, row and column. V-JEPA 1 adds
    a fixed sine and cosine table; of it this is assumed, as in the released code and configurations: the table is made
    for 16 frames of 224 x 224 (`position_times` 8, `position_grid` 14) with an equal share of the channels for time,
    row and column (`uniform_power`); fewer frames at that size take its first entries; any other size is interpolated
    trilinearly, half-pixel centred, over all three axes. A file's own table is compared with it, so a wrong assumption
    is an error.

    Args:
        config: Name, size and its overrides, weights, pixel normalisation, tokenization, rotary pairing.
        image_size: Side of the square input frames, pixels.

    Raises:
        CheckpointError: Weights that are missing, damaged, or of another model.
        ConfigError: Patches or heads that do not come out even.

    Reference: Bardes et al. 2024, V-JEPA, arXiv 2404.08471; Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 2.
    """

    position_table: Tensor

    def __init__(self, config: VideoEncoderConfig, image_size: int) -> None:
        sizes = {name: SIZES[name] for name in config.sizes}
        super().__init__(config, image_size, widths_of(config, sizes))
        self.norm = self._norm()
        self.uses_table = isinstance(config, VJEPA1EncoderConfig)
        if isinstance(config, VJEPA1EncoderConfig):
            side = config.position_grid or _TABLE_SIDE
            table = sincos_3d(self.latent_dim, (config.position_times or _TABLE_TIMES, side, side))
            self.register_buffer("position_table", table, persistent=False)
        if isinstance(config, VJEPA2EncoderConfig):
            self.rotary_pairing = config.rotary_pairing
        self._initialise()
        if config.weights is not None:
            load_vjepa(self, config.weights, part=config.weights_part)
        self._drop_blocks_behind_the_layer()

    def own_settings(self) -> dict[str, Any]:
        """Settings of `model.encoder` that the weights were trained with and need, as plain data."""
        if self.uses_table:
            times, side = self.position_table.shape[:2]
            return {**super().own_settings(), "position_grid": side, "position_times": times}
        return {**super().own_settings(), "rotary_pairing": self.rotary_pairing}

    def embed(self, clip_BCTYX: Float[Tensor, "B C T Y X"]) -> EmbeddedClips:
        """Patches of clips as tokens, with V-JEPA 1's positions; see `tokens`."""
        clips = super().embed(clip_BCTYX)
        if not self.uses_table:
            return clips
        return EmbeddedClips(clips.tokens_BLD + self._positions(*clips.grid).to(clips.tokens_BLD.dtype), clips.grid)

    def _normalised(self, x_BLD: Tensor, level: int, num_levels: int) -> Tensor:
        if level + 1 < num_levels:
            return normalised_without_parameters(x_BLD)
        last: Tensor = self.norm(x_BLD)
        return last

    def _rotary(self, clips: EmbeddedClips) -> RotaryTable | None:
        return None if self.uses_table else super()._rotary(clips)

    def _positions(self, times: int, rows: int, columns: int) -> Tensor:
        """The table at another size, `[times*rows*columns,D]`."""
        table = self.position_table
        if table.shape[1:3] == (rows, columns) and times <= len(table):
            return table[:times].flatten(0, 2)
        volume = table.permute(3, 0, 1, 2)[None]
        return F.interpolate(volume, size=(times, rows, columns), mode="trilinear")[0].flatten(1).T
