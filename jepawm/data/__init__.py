"""Episodes on disk, the windows cut from them, and the readers that hand windows to training.

`episodes.py` documents the on-disk format, which is the one public contract. Names are loaded on first use,
so that `import jepawm.data` costs nothing: no pyarrow and no OpenCV until a dataset is touched.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepawm.data.episodes import DatasetSpec, EpisodeDataset, PixelSpec
    from jepawm.data.inspect.check import Violation, check_dataset
    from jepawm.data.inspect.show import contact_sheet
    from jepawm.data.loading.frame_cache import CacheReader, FrameCache
    from jepawm.data.loading.shard_reader import ShardReader
    from jepawm.data.loading.stream import decode_window_batch, windows_of_groups
    from jepawm.data.loading.windows import WindowIndex, WindowReader, WindowSampler, split_episodes
    from jepawm.data.statistics import RunningMoments, compute_statistics
    from jepawm.data.writer import EpisodeWriter, finish_dataset

_HOME_OF = {
    "CacheReader": "loading.frame_cache",
    "DatasetSpec": "episodes",
    "EpisodeDataset": "episodes",
    "EpisodeWriter": "writer",
    "FrameCache": "loading.frame_cache",
    "PixelSpec": "episodes",
    "RunningMoments": "statistics",
    "ShardReader": "loading.shard_reader",
    "Violation": "inspect.check",
    "WindowIndex": "loading.windows",
    "WindowReader": "loading.windows",
    "WindowSampler": "loading.windows",
    "check_dataset": "inspect.check",
    "compute_statistics": "statistics",
    "contact_sheet": "inspect.show",
    "decode_window_batch": "loading.stream",
    "finish_dataset": "writer",
    "split_episodes": "loading.windows",
    "windows_of_groups": "loading.stream",
}

__all__ = [
    "CacheReader",
    "DatasetSpec",
    "EpisodeDataset",
    "EpisodeWriter",
    "FrameCache",
    "PixelSpec",
    "RunningMoments",
    "ShardReader",
    "Violation",
    "WindowIndex",
    "WindowReader",
    "WindowSampler",
    "check_dataset",
    "compute_statistics",
    "contact_sheet",
    "decode_window_batch",
    "finish_dataset",
    "split_episodes",
    "windows_of_groups",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'jepawm.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"jepawm.data.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
