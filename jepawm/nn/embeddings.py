"""Fixed sine and cosine position tables."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def _sincos(dim: int, positions: np.ndarray) -> np.ndarray:
    frequencies = 10000.0 ** (-np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = positions.reshape(-1)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(dim: int, rows: int, columns: int) -> Float[Tensor, "L D"]:
    """`[rows*columns,dim]` table; the first half of the channels tells the column, the second the row.

    Args:
        dim: Width, divisible by 4.
        rows: Rows of patches.
        columns: Columns of patches.

    Reference: He et al. 2022, MAE, arXiv 2111.06377 (as released).
    """
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    table = np.concatenate([_sincos(dim // 2, column), _sincos(dim // 2, row)], axis=1)
    return torch.from_numpy(table).float()


def sincos_3d(dim: int, shape: tuple[int, int, int]) -> Float[Tensor, "T H W D"]:
    """Fixed sines and cosines of time, row and column, a third of the channels each; the last third is cut to fit.

    Args:
        dim: Width `D`.
        shape: Times, rows and columns.

    Reference: Bardes et al. 2024, V-JEPA, arXiv 2404.08471 (as released, `uniform_power`).
    """
    share = 2 * -(-dim // 6)
    frequencies = 10000.0 ** (-torch.arange(share // 2, dtype=torch.float64) / (share / 2))
    parts = []
    for axis, length in enumerate(shape):
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        place = [1, 1, 1, share]
        place[axis] = length
        parts.append(torch.cat([angles.sin(), angles.cos()], dim=1).view(place).expand(*shape, share))
    return torch.cat(parts, dim=-1)[..., :dim].float()
