"""Masks that follow motion: where pixels change much, tokens are hidden more often."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from jepawm.errors import ConfigError
from jepawm.pretraining.masks.base import Cue, Cues, MaskSet, MaskStrategy, TokenGrid
from jepawm.pretraining.masks.sampling import draw_share


class MotionMasks(MaskStrategy):
    """Places, or tokens, are drawn without replacement with weights that grow with the motion of their pixels.

    A clip without any motion has equal weights everywhere, so it is masked as `tubes` or `tokens` would mask it.
    """

    needs: frozenset[Cue] = frozenset({"pixels"})

    def draw(
        self,
        grid: TokenGrid,
        *,
        num_clips: int,
        rows: slice,
        counter: int,
        generator: torch.Generator,
        cues: Cues,
    ) -> tuple[MaskSet, ...]:
        if cues.pixels_BTCYX is None:
            raise ConfigError("masks.name 'motion' needs the clips' frames; give Cues(pixels_BTCYX=...)")
        change_BTS = _pixel_change(cues.pixels_BTCYX, grid)
        change_BU = change_BTS.sum(1) if self.config.unit == "tubes" else change_BTS.flatten(1)
        # Changes of pixels are whole numbers, so weights are equal however clips are spread over workers.
        total_B1 = change_BU.sum(1, keepdim=True)
        relative_BU = change_BU * change_BU.shape[1] / total_B1.clamp(min=1).double()
        logits_BU = (relative_BU + self.config.still_weight).log() / self.config.temperature
        return tuple(
            draw_share(
                share, grid, logits_BU, unit=self.config.unit, num_clips=num_clips, rows=rows, generator=generator
            )
            for share in self.config.sets
        )


def motion_energy(pixels_BTCYX: UInt8[Tensor, "B T C Y X"], grid: TokenGrid) -> Float[Tensor, "B L"]:
    """How much the pixels of each token change from frame to frame.

    Args:
        pixels_BTCYX: `[B,T,C,Y,X]` uint8 frames.
        grid: Tokens of a clip.

    Returns:
        `[B,L]` float64 on the CPU: mean absolute change of a pixel from one frame to the next, 0 to 255. A frame's
        change is the mean over its neighbours in time, a token's the mean over its frames. 0 for a single frame.

    Raises:
        ConfigError: Frames or pixels are no multiple of the grid.
    """
    change_BTS = _pixel_change(pixels_BTCYX, grid)
    _, frames, C, Y, X = pixels_BTCYX.shape
    pixels_of_a_token = C * (frames // grid.times) * (Y // grid.rows) * (X // grid.columns)
    return change_BTS.flatten(1) / (2 * pixels_of_a_token)


def _pixel_change(pixels_BTCYX: UInt8[Tensor, "B T C Y X"], grid: TokenGrid) -> Int[Tensor, "B times S"]:
    """`[B,times,S]` int64 on the CPU: twice the sum of absolute changes over a token's pixels and frames."""
    B, frames, _, Y, X = pixels_BTCYX.shape
    if frames % grid.times or Y % grid.rows or X % grid.columns:
        raise ConfigError(
            f"clips of {frames} frames of {Y} x {X} px do not divide into {grid.times} x {grid.rows} x {grid.columns} "
            "tokens; expected multiples"
        )
    changes = [_frame_change(frames_TCYX, grid).cpu() for frames_TCYX in pixels_BTCYX]
    change_BTS = torch.stack(changes) if changes else torch.zeros(0, frames, grid.num_places, dtype=torch.int64)
    return change_BTS.view(B, grid.times, frames // grid.times, grid.num_places).sum(2)


def _frame_change(frames_TCYX: UInt8[Tensor, "T C Y X"], grid: TokenGrid) -> Int[Tensor, "T S"]:
    """`[T,S]` int64: change to the frame before plus change to the frame after; the first and last frame have one
    neighbour, which counts twice."""
    T, C, Y, X = frames_TCYX.shape
    wide = frames_TCYX.to(torch.int16)
    steps = (wide[1:] - wide[:-1]).abs()
    patches = steps.view(T - 1, C, grid.rows, Y // grid.rows, grid.columns, X // grid.columns)
    steps_TS = patches.sum(dim=(1, 3, 5)).flatten(1)
    change_TS = torch.zeros(T, grid.num_places, dtype=torch.int64, device=frames_TCYX.device)
    change_TS[1:] += steps_TS
    change_TS[:-1] += steps_TS
    if T > 1:
        change_TS[0] += steps_TS[0]
        change_TS[-1] += steps_TS[-1]
    return change_TS
