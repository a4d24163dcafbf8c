"""Rotary position embedding over time, row and column."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pairing = Literal["published", "corrected"]


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines that rotate queries and keys.

    Attributes:
        cos: `[L,h]`, one row a token, or `[B,1,L,h]`; 1 where a channel is not rotated.
        sin: The same shape, 0 where a channel is not rotated.
    """

    cos: Tensor
    sin: Tensor

    def rows(self, index: slice | Tensor) -> "RotaryTable":
        """The rows of some tokens; `[...,M]` indices of a table `[L,h]` give `[...,M,h]`."""
        return RotaryTable(self.cos[..., index, :], self.sin[..., index, :])


def rotary_table(
    head_dim: int,
    positions_L3: Int[Tensor, "L 3"] | Float[Tensor, "L 3"],
    *,
    pairing: Pairing = "published",
    base: float = 10000.0,
) -> RotaryTable:
    """Angles of tokens at (time, row, column).

    A head's channels are `[time | row | column | rest]`, each axis `2 * floor(floor(h / 3) / 2)` wide; the rest is not
    rotated. Channels `2j` and `2j + 1` of an axis form a pair.

    Args:
        head_dim: Width `h` of a head.
        positions_L3: `[L,3]` time, row and column of every token; a token at (t, 0, 0) is rotated in time alone.
        pairing: `corrected`: both members of a pair turn by the same angle, a true rotation. `published`: the
            frequencies are tiled where the pairs are interleaved, so the members of a pair turn by different angles;
            that is what every published checkpoint was trained with.
        base: Wave length of the slowest channel, in positions over 2 pi.

    Reference: Su et al. 2021, RoFormer, arXiv 2104.09864; over three axes in Assran et al. 2025, V-JEPA 2,
        arXiv 2506.09985, section 2.
    """
    axis_dim = 2 * ((head_dim // 3) // 2)
    positions = positions_L3.float()
    frequencies = base ** (-torch.arange(axis_dim // 2, device=positions.device) / (axis_dim / 2))
    angles_L3f = positions[:, :, None] * frequencies
    if pairing == "published":
        angles_L3d = torch.cat([angles_L3f, angles_L3f], dim=-1)
    else:
        angles_L3d = angles_L3f.repeat_interleave(2, dim=-1)
    angles_Ld = angles_L3d.flatten(1)
    still = angles_Ld.new_zeros(len(positions), head_dim - 3 * axis_dim)
    angles_Lh = torch.cat([angles_Ld, still], dim=-1)
    return RotaryTable(angles_Lh.cos(), angles_Lh.sin())


def rotate(x: Float[Tensor, "B heads L h"], table: RotaryTable) -> Float[Tensor, "B heads L h"]:
    """Turns queries or keys `[B,heads,L,h]` by the angles of their tokens, in their own dtype."""
    cos, sin = table.cos.to(x.dtype), table.sin.to(x.dtype)
    if x.shape[-1] % 2:
        # An odd head keeps its last channel as it is; it is never part of a pair.
        return torch.cat([rotate(x[..., :-1], RotaryTable(cos[..., :-1], sin[..., :-1])), x[..., -1:]], dim=-1)
    pairs = x.unflatten(-1, (-1, 2))
    turned = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
    return torch.addcmul(x * cos, turned, sin)


@lru_cache(maxsize=64)
def frame_rotary_table(
    head_dim: int,
    num_frames: int,
    grid: tuple[int, int],
    num_condition_tokens: int,
    pairing: Pairing,
    device: torch.device,
    *,
    span: float | None = None,
) -> RotaryTable:
    """The table of `num_frames` frames, each `[condition tokens | patches row by row]`.

    Condition tokens (action, proprio) are rotated in time alone. Tables are kept, for an unroll asks for the same few
    at every step.

    Args:
        head_dim: Width `h` of a head.
        num_frames: Frames `T`; they are numbered from 0 in every window.
        grid: Rows and columns of patches.
        num_condition_tokens: Tokens in front of a frame's patches.
        pairing: See `rotary_table`.
        device: Where the table lives.
        span: Position of the last row and of the last column, whatever their number, as in V-JEPA 2.1; None: rows and
            columns are counted, as in V-JEPA 2.
    """
    # A table made under inference mode could not be used in a later training step.
    with torch.inference_mode(False), torch.no_grad():
        time = torch.arange(num_frames, device=device)
        row, column = (_counted(size, span, device) for size in grid)
        patches = torch.cartesian_prod(row, column).reshape(-1, 2)
        condition = patches.new_zeros(num_condition_tokens, 2)
        in_frame_S2 = torch.cat([condition, patches])
        size = len(in_frame_S2)
        positions = torch.cat([time.repeat_interleave(size)[:, None], in_frame_S2.repeat(num_frames, 1)], dim=1)
        return rotary_table(head_dim, positions, pairing=pairing)


def _counted(size: int, span: float | None, device: torch.device) -> Tensor:
    """Positions of `size` rows or columns: 0, 1, ..., or as many from 0 to `span`."""
    places = torch.arange(size, device=device)
    return places if span is None else places * (span / max(1, size - 1))
