"""Folders of videos behind one protocol: datasets in the episode format, video files, and pictures."""

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from jepawm.config.clips import ClipsConfig, ClipSourceConfig
from jepawm.data.clips.video_index import index_videos, list_videos
from jepawm.data.codecs import FrameError, decode_frame
from jepawm.data.episodes import EpisodeDataset
from jepawm.data.importers.reading import decode_image, files_below, has_below
from jepawm.data.loading.frame_cache import FrameCache
from jepawm.data.loading.split import Split
from jepawm.data.loading.windows import split_episodes
from jepawm.data.meta import META_FILE
from jepawm.data.shards import Chunk
from jepawm.data.video import SUFFIXES, is_video_name, read_frames
from jepawm.errors import DataError
from jepawm.pictures import SUFFIXES as PICTURE_SUFFIXES


@runtime_checkable
class ClipSource(Protocol):
    """Videos of one folder, numbered from 0. Threads may read at the same time.

    Attributes:
        path: The folder.
        num_frames_each: `[V]` int64, frames of each video.
        fps_each: `[V]` float64, frames per second of each video.
    """

    path: Path
    num_frames_each: np.ndarray
    fps_each: np.ndarray

    def name(self, video: int) -> str:
        """What errors call a video."""
        ...

    def read(self, video: int, frames: np.ndarray) -> np.ndarray:
        """Reads frames of a video.

        Args:
            video: Its number.
            frames: `[T]` int64, ascending; a frame may come several times.

        Returns:
            `[T,C,Y,X]` uint8, three channels; a view of frames that lie channels last.

        Raises:
            DataError: The frames cannot be decoded; names the file.
        """
        ...

    def split(self, held_out_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the videos that clips are cut from, and of those that are held out, each ascending."""
        ...


def open_source(config: ClipSourceConfig, clips: ClipsConfig) -> ClipSource:
    """Opens a folder.

    Args:
        config: The folder and its kind.
        clips: What all sources share.

    Raises:
        DataError: No such folder, nothing in it that is known, or videos that cannot be read.
    """
    path = Path(config.path)
    kind = config.kind if config.kind != "auto" else _recognised(path)
    if kind == "dataset":
        return DatasetClips(EpisodeDataset(path), cached=_is_cached(path, clips))
    if kind == "videos":
        return VideoClips(path, skip_unreadable=clips.unreadable == "skip", num_threads=clips.num_threads)
    return PictureClips(path)


class DatasetClips:
    """Episodes of a dataset as videos; see `ClipSource`.

    Args:
        dataset: The dataset.
        cached: Decode all frames once into a frame cache of this node; False: decode those of a clip when it is read.

    Attributes:
        dataset: The dataset; its episodes are the videos, in its order.
    """

    def __init__(self, dataset: EpisodeDataset, *, cached: bool) -> None:
        self.path = dataset.path
        self.num_frames_each = dataset.num_frames_each
        self.fps_each = np.full(len(dataset), dataset.spec.control_hz / dataset.env_steps_per_frame)
        self.dataset = dataset
        self._cache = FrameCache(dataset) if cached else None
        # A Parquet file is read by one thread at a time; decoding needs no lock.
        self._lock = threading.Lock()
        if dataset.spec.pixels.channels != 3:
            raise DataError(
                f"{dataset.path}: frames have {dataset.spec.pixels.channels} channels, clips need the 3 of RGB"
            )

    def name(self, video: int) -> str:
        return f"{self.path}: episode {self.dataset.episode_ids[video]}"

    def read(self, video: int, frames: np.ndarray) -> np.ndarray:
        dataset, spec = self.dataset, self.dataset.spec.pixels
        if self._cache is not None:
            position = np.searchsorted(self._cache.episode_ids, dataset.episode_ids[video])
            return np.moveaxis(self._cache.pixels[self._cache.first_row[position] + frames], -1, 1)
        numbers, places = np.unique(frames, return_inverse=True)
        chunks = self._chunks(int(dataset.episode_ids[video]), numbers)
        pixels = np.empty((len(numbers), *spec.shape), dtype=np.uint8)
        for out, number in zip(pixels, numbers.tolist(), strict=True):
            chunk = chunks[number // dataset.chunk_frames]
            assert chunk.frames is not None
            try:
                decode_frame(chunk.frames[number - chunk.first_frame], spec.codec, out)
            except FrameError as error:
                raise DataError(f"{self.name(video)}, frame {number}: {error}") from error
        return np.moveaxis(pixels[places], -1, 1)

    def split(self, held_out_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        split = Split.of(self.dataset, held_out_fraction, seed)
        numbers = [
            np.array([self.dataset.position(number) for number in ids.tolist()], dtype=np.int64)
            for ids in (split.train, split.held_out)
        ]
        return np.sort(numbers[0]), np.sort(numbers[1])

    def _chunks(self, episode_id: int, frames: np.ndarray) -> dict[int, Chunk]:
        """The chunks of an episode that hold some frames, by their number in the episode."""
        number, first_row, _ = self.dataset.location(episode_id)
        chunks: dict[int, Chunk] = {}
        with self._lock:
            shard = self.dataset.shard(number)
            for wanted in np.unique(frames // self.dataset.chunk_frames).tolist():
                if wanted in chunks:
                    continue
                group = shard.group_of(first_row + wanted)
                for chunk in shard.chunks(group, ["frames"]):
                    if chunk.episode_id == episode_id:
                        chunks[chunk.row - first_row] = chunk
                if wanted not in chunks:
                    raise DataError(
                        f"{shard.path}: row {first_row + wanted} does not belong to episode {episode_id}, as the index "
                        "says; run `jepawm data check`"
                    )
        return chunks


class VideoClips:
    """Video files below a folder, or those that a list names; see `ClipSource`.

    Args:
        path: The folder, or a list of paths, a path and a label a line.
        skip_unreadable: Leave out files that cannot be read, and warn; False: an error names them.
        num_threads: Threads that look at files which are not in the index yet; None: one for each CPU.
    """

    def __init__(self, path: Path, *, skip_unreadable: bool, num_threads: int | None = None) -> None:
        self.path = path
        index = index_videos(path, list_videos(path), skip_unreadable=skip_unreadable, num_threads=num_threads)
        self.num_frames_each = np.array([entry.num_frames for entry in index.values()], dtype=np.int64)
        self.fps_each = np.array([entry.fps for entry in index.values()], dtype=np.float64)
        self._seeks = np.array([entry.constant_rate for entry in index.values()], dtype=bool)
        self._files = list(index)

    def name(self, video: int) -> str:
        return str(self._files[video])

    def read(self, video: int, frames: np.ndarray) -> np.ndarray:
        file = self._files[video]
        return np.moveaxis(read_frames(file, frames, what=str(file), seeks=bool(self._seeks[video])), -1, 1)

    def split(self, held_out_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return _split_files(self.path, self._files, held_out_fraction, seed)


class PictureClips:
    """Pictures below a folder, each a video of one frame; see `ClipSource`.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = list(files_below(path, _is_picture_name))
        if not self._files:
            raise DataError(f"{path}: no pictures ({', '.join(PICTURE_SUFFIXES)})")
        self.num_frames_each = np.ones(len(self._files), dtype=np.int64)
        self.fps_each = np.ones(len(self._files))

    def name(self, video: int) -> str:
        return str(self._files[video])

    def read(self, video: int, frames: np.ndarray) -> np.ndarray:
        file = self._files[video]
        try:
            picture = decode_image(file.read_bytes(), str(file))
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error}") from error
        return np.moveaxis(np.repeat(picture[None], len(frames), axis=0), -1, 1)

    def split(self, held_out_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return _split_files(self.path, self._files, held_out_fraction, seed)


def _split_files(
    path: Path, files: Sequence[Path], held_out_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits files by their names relative to the folder, so that a file more moves few of the others.

    Args:
        path: The folder, or the list that names the files.
        files: All of them.
        held_out_fraction: See `ClipSource.split`.
        seed: Of the split.
    """
    folder = path if path.is_dir() else path.parent
    numbers = {}
    for number, file in enumerate(files):
        name = Path(os.path.relpath(file, folder)).as_posix()
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        numbers[int.from_bytes(digest, "big", signed=True)] = number
    train, held_out = split_episodes(list(numbers), held_out_fraction, seed)

    def numbers_of(ids: np.ndarray) -> np.ndarray:
        return np.array(sorted(numbers[each] for each in ids.tolist()), dtype=np.int64)

    return numbers_of(train), numbers_of(held_out)


def _recognised(path: Path) -> str:
    if path.is_file():
        return "videos"
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of videos, pictures or episodes")
    if (path / META_FILE).is_file():
        return "dataset"
    if has_below(path, is_video_name):
        return "videos"
    if has_below(path, _is_picture_name):
        return "pictures"
    raise DataError(
        f"{path}: neither a dataset ({META_FILE}) nor a folder with videos ({', '.join(SUFFIXES)}) or pictures "
        f"({', '.join(PICTURE_SUFFIXES)}); convert other formats with `jepawm data convert`"
    )


def _is_picture_name(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(PICTURE_SUFFIXES)


def _is_cached(path: Path, clips: ClipsConfig) -> bool:
    if clips.loader != "auto":
        return clips.loader == "cache"
    dataset = EpisodeDataset(path)
    nbytes = int(dataset.num_frames_each.sum()) * int(np.prod(dataset.spec.pixels.shape))
    return nbytes <= clips.cache_limit_gib * 2**30
