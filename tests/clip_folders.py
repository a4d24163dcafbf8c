"""Small folders of episodes, videos and pictures that clips are cut from."""

from pathlib import Path
from typing import Any

import numpy as np
from published_datasets import frames_of, short_gop_video, video_bytes

from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.types import ActionSpec, Episode, VectorSpec


def write_episodes(path: Path, lengths: tuple[int, ...], *, control_hz: float = 8.0, **pixels: Any) -> EpisodeDataset:
    """A dataset of noise, whose frames all differ."""
    shape = {"height": 20, "width": 24, **pixels}
    spec = DatasetSpec("noise", control_hz, PixelSpec(**shape), ActionSpec(1, (-1.0,), (1.0,)), VectorSpec(0))
    with EpisodeWriter(path, spec, shard_frames=60, chunk_frames=8) as writer:
        for number, frames in enumerate(lengths):
            rng = np.random.default_rng([3, number])
            writer.write(
                Episode(
                    10 + 3 * number,
                    rng.integers(0, 256, (frames, *spec.pixels.shape), dtype=np.uint8),
                    rng.normal(size=(frames - 1, 1)).astype(np.float32),
                    np.zeros((frames, 0), dtype=np.float32),
                )
            )
    return EpisodeDataset(path)


def write_videos(path: Path, lengths: tuple[int, ...], *, fps: int = 8) -> list[Path]:
    """Videos in nested folders, in the order in which they are found."""
    files = []
    for number, frames in enumerate(lengths):
        file = path / f"class_{number % 2}" / f"video_{number}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(video_bytes(frames_of(number, frames), fps=fps))
        files.append(file)
    return sorted(files)


def write_irregular_video(path: Path) -> Path:
    """A video of nine frames whose distances vary, so that none can be sought by its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(short_gop_video(frames_of(5, 9), times=(0, 1, 2, 3, 7, 8, 9, 10, 11)))
    return path


def write_pictures(path: Path, count: int) -> None:
    """Pictures of 24 by 20 px."""
    from PIL import Image

    path.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng([4, number])
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path / f"{number}.png")
