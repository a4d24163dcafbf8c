"""Mean and standard deviation of each raw dimension, in one pass over data that need not fit into memory.

Reference: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances", 1979 (merging the moments of two sets).
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jepawm.errors import DataError
from jepawm.types import Statistics

if TYPE_CHECKING:
    from jepawm.data.episodes import EpisodeDataset

# A spread below the resolution of float32 at the mean is rounding, not motion.
_CONSTANT = float(np.finfo(np.float32).eps)


class RunningMoments:
    """Count, mean and sum of squared deviations per dimension, float64."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        self.squares = np.zeros(dim)

    def update(self, values: np.ndarray) -> None:
        """Takes in `[n,dim]` values."""
        if len(values) == 0:
            return
        values = values.astype(np.float64)
        mean = values.mean(axis=0)
        total = self.count + len(values)
        delta = mean - self.mean
        self.squares += ((values - mean) ** 2).sum(axis=0) + delta**2 * self.count * len(values) / total
        self.mean += delta * len(values) / total
        self.count = total

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """`(mean, std)` of the population, float64 `[dim]`; the std of a constant dimension is exactly 0."""
        std = np.sqrt(self.squares / max(self.count, 1))
        std[std <= _CONSTANT * np.abs(self.mean)] = 0.0
        return self.mean.copy(), std


def statistics_of(actions: RunningMoments, proprio: RunningMoments, where: str) -> Statistics:
    """Turns moments into `Statistics`; a constant dimension gets std 1, so that normalising leaves it at 0.

    Args:
        actions: Moments of the raw actions.
        proprio: Moments of proprio.
        where: Name of the dataset in the warning.

    Warns:
        UserWarning: Names each constant dimension.

    Raises:
        DataError: No values.
    """
    parts: dict[str, np.ndarray] = {}
    for name, moments in (("action", actions), ("proprio", proprio)):
        if moments.count == 0:
            raise DataError(f"{where}: there are no {name} values to take statistics of")
        mean, std = moments.mean_std()
        constant = np.flatnonzero(std == 0)
        if len(constant):
            warnings.warn(
                f"{where}: {name} dimension(s) {constant.tolist()} never change; their std is set to 1",
                stacklevel=3,
            )
            std[constant] = 1.0
        parts[f"{name}_mean"], parts[f"{name}_std"] = mean.astype(np.float32), std.astype(np.float32)
    return Statistics(**parts)


def compute_statistics(dataset: "EpisodeDataset", episode_ids: Sequence[int] | np.ndarray | None = None) -> Statistics:
    """Statistics over some episodes of a dataset; give the training split, so that held-out data stays
    unseen.

    Args:
        dataset: The dataset.
        episode_ids: Which episodes; all by default.

    Warns:
        UserWarning: A dimension is constant; its std is set to 1.

    Raises:
        DataError: A value is NaN or infinite (names file and row), or there is nothing to take statistics of.
    """
    moments = {name: RunningMoments(dataset.spec.widths[name]) for name in ("actions", "proprio")}
    for shard, chunk in dataset.iter_chunks(["actions", "proprio"], episode_ids):
        for name, running in moments.items():
            values = getattr(chunk, name)
            if not np.isfinite(values).all():
                raise DataError(
                    f"{shard.path}: row {chunk.row} (episode {chunk.episode_id}): '{name}' holds NaN or infinity"
                )
            running.update(values)
    return statistics_of(moments["actions"], moments["proprio"], str(dataset.path))
