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
