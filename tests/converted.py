"""What tests of conversions share: which episodes were read, and whether two datasets are the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import (
    EpisodeSource,
)
from jepawm.data.importers.conversion import read_serially


class Counting:
    """Reads serially, and keeps the numbers that were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self, source: EpisodeSource, codec: str, numbers: Sequence[int]) -> Any:
        for number in numbers:
            self.read.append(number)
            yield from read_serially(source, codec, [number])


def content(path: Path) -> list[Any]:
    dataset = EpisodeDataset(path)
    assert check_dataset(path) == []
    return [dataset.read_episode(number) for number in dataset.episode_ids.tolist()]


def same(left: Path, right: Path) -> None:
    for a, b in zip(content(left), content(right), strict=True):
        assert (a.episode_id, a.info) == (b.episode_id, b.info)
        for name in ("pixels", "actions", "proprio", "sim_state"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
