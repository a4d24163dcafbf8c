"""What every importer is, and the one way in which a source becomes an episode dataset.

An importer is an `EpisodeSource`: it says what the dataset will be (`spec`), how many episodes there are, and reads
one of them by number, in any process. Everything else is done here once: nothing appears under the destination's name
before it is whole, a kill loses the open shard and no more, and what is wrong with a source leaves nothing behind.
"""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jepawm.data.codecs import check_codec
from jepawm.data.encoding import EncodedEpisode, encode_episode
from jepawm.data.meta import META_FILE, DatasetSpec, read_meta
from jepawm.data.writer import EpisodeWriter, WriterBusyError, discard_dataset
from jepawm.errors import DataError
from jepawm.types import Episode, Statistics


@dataclass(frozen=True)
class ImportOptions:
    """How a source is read; what a source cannot follow, it refuses.

    Attributes:
        image_size: Side of the square frames, px; None: as recorded, where the recorded frames are square, else the
            shorter side. A frame that is not square is cropped to its middle first.
        codec: How frames are stored; None: the importer's choice (`zstd` for rendered, `jpeg` for camera frames).
        camera: Which camera, where a source has several; None: the importer's choice, named in `source`.
        control_hz: Resample to this rate, where a source can be; the rate itself, where a source does not say it; None:
            as recorded or as published.
        split: Part of a source that has parts (`train`, `val`); None: the importer's choice.
    """

    image_size: int | None = None
    codec: str | None = None
    camera: str | None = None
    control_hz: float | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise DataError(f"image_size must be 1 or more, found {self.image_size}")
        if self.control_hz is not None and not 0 < self.control_hz < math.inf:
            raise DataError(f"control_hz must be above 0 and finite, found {self.control_hz}")
        if self.codec is not None:
            check_codec(self.codec, 3)


class EpisodeSource(ABC):
    """A dataset in another format. Picklable: a worker unpickles it and reads the episodes it is given.

    Making one reads indexes and shapes, no frames; it raises `DataError` for what is missing or of another layout, and
    names file and key.

    Args:
        path: File or folder.
        options: How to read it.
    """

    name: ClassVar[str]
    """Name of the format, as `--from` takes it."""
    about: ClassVar[str]
    """One line: what has this format."""
    published_statistics: Statistics | None = None
    """Constants that were published with the data, kept in the dataset's `source`."""

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        self.path = Path(path)
        self.options = options

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a path looks like this format, from names of files alone."""

    @property
    @abstractmethod
    def num_episodes(self) -> int:
        """Episodes in the source."""

    @abstractmethod
    def spec(self) -> DatasetSpec:
        """What the dataset will hold; its `source` gets `importer`, `path`, `options` and the statistics added."""

    @abstractmethod
    def read(self, number: int) -> Episode:
        """Reads one episode.

        Args:
            number: 0 to `num_episodes - 1`; it becomes the episode's id.

        Raises:
            DataError: Damaged, or not what its index says; names file and place.
        """

    def stamp(self) -> list[Any]:
        """JSON-able facts that change when the source does, e.g. names and sizes of its files."""
        return file_stamp(self.path)

    def refuse(self, **unfollowed: Any) -> None:
        """Refuses options that this format has nothing to follow with.

        Raises:
            DataError: One of them is given.
        """
        for name, value in unfollowed.items():
            if value is not None:
                raise DataError(f"--{name.replace('_', '-')} {value}: the format '{self.name}' has no choice of that")


Reader = Callable[[EpisodeSource, str, Sequence[int]], Iterator[EncodedEpisode]]
"""Reads and encodes episodes of a source with a codec, in the order of their numbers."""


def read_serially(source: EpisodeSource, codec: str, numbers: Sequence[int]) -> Iterator[EncodedEpisode]:
    """Episodes read in this process, one after the other."""
    for number in numbers:
        yield read_encoded(source, codec, number)


def read_encoded(source: EpisodeSource, codec: str, number: int) -> EncodedEpisode:
    """One episode of a source, encoded.

    Raises:
        DataError: It cannot be read, or has no action: fewer than 2 frames.
    """
    episode = source.read(number)
    if len(episode.pixels) < 2:
        named = [f"{key} {value}" for key, value in episode.info.items() if isinstance(value, (str, int))]
        where = f" ({', '.join(named)})" if named else ""
        before = f", or stop before it with --max-episodes {number}" if number else ""
        raise DataError(
            f"{source.path}: episode {number}{where} has {len(episode.pixels)} frame(s), an episode needs 2; leave it "
            f"out of the source{before}"
        )
    return encode_episode(episode, codec)


def import_episodes(
    source: EpisodeSource,
    destination: str | os.PathLike[str],
    *,
    max_episodes: int | None = None,
    reader: Reader = read_serially,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes a source's episodes as a dataset.

    The dataset appears under its name once it is whole. After a kill, Ctrl-C, a full disk or a lost worker the same
    call goes on with what was read, if the source has not changed since; a source that is wrong leaves nothing behind.

    Args:
        source: What to read.
        destination: Dataset to create.
        max_episodes: Only the first episodes.
        reader: Where episodes are read; see `jepawm.distributed.convert` for many processes.
        progress: Called with (episodes done, episodes in all).

    Returns:
        Number of episodes.

    Raises:
        DataError: An existing destination, one that cannot be written, no episodes, or whatever is wrong with the
            source.
        WriterBusyError: Another process converts into the same destination; its work is left alone.
    """
    destination = Path(destination)
    # A link that leads nowhere is there as well.
    if os.path.lexists(destination):
        raise DataError(f"{destination}: already exists; choose another destination or delete it")
    if max_episodes is not None and max_episodes < 1:
        raise DataError(f"max_episodes must be 1 or more, found {max_episodes}")
    if source.num_episodes < 1:
        raise DataError(f"{source.path}: holds no episodes")
    count = min(source.num_episodes, max_episodes or source.num_episodes)
    spec = _with_origin(source, source.spec(), count)
    partial = destination.with_name(f".{destination.name}.importing")
    try:
        if not _same_import(partial, spec):
            discard_dataset(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with EpisodeWriter(partial, spec, resume=True) as writer:
            done = writer.finished_episode_ids
            missing = [number for number in range(count) if number not in done]
            if progress is not None:
                progress(count - len(missing), count)
            episodes = reader(source, spec.pixels.codec, missing)
            for at, episode in enumerate(episodes, start=count - len(missing) + 1):
                writer.write(episode)
                if progress is not None:
                    progress(at, count)
        os.replace(partial, destination)
    except WriterBusyError as error:
        raise WriterBusyError(
            f"{destination}: another process is converting into it; wait for it, or choose another destination"
        ) from error
    except OSError as error:
        # No fault of the source: what was read so far is good.
        kept = "; the same command goes on with what was read so far" if partial.is_dir() else ""
        raise DataError(f"{destination}: could not be finished: {error}{kept}") from error
    except Exception:
        with suppress(WriterBusyError):
            discard_dataset(partial)
        raise
    return count


def square_spec(height: int, width: int, options: ImportOptions) -> int:
    """Side of the frames that a source of `height` x `width` px becomes, see `ImportOptions.image_size`."""
    return options.image_size or min(height, width)


def square(frames: np.ndarray, side: int) -> np.ndarray:
    """Crops frames `[F,Y,X,C]` uint8 to the square in their middle, and resizes it to `side` px."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    frames = frames[:, top : top + short, left : left + short]
    if short == side:
        return np.ascontiguousarray(frames)
    import cv2

    # Area averaging does not alias when shrinking.
    how = cv2.INTER_AREA if side < short else cv2.INTER_LINEAR
    resized = [cv2.resize(np.ascontiguousarray(frame), (side, side), interpolation=how) for frame in frames]
    return np.stack(resized).reshape(len(frames), side, side, frames.shape[-1])


def file_stamp(path: Path, *, limit: int = 100_000) -> list[Any]:
    """Name, size and modification time of a file, or of the first `limit` files below a folder."""
    if path.is_file():
        return [[path.name, *_size_and_time(path)]]
    facts: list[Any] = []
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = os.path.join(folder, name)
            facts.append([os.path.relpath(file, path), *_size_and_time(file)])
            if len(facts) >= limit:
                return facts
    return facts


def _size_and_time(file: str | os.PathLike[str]) -> tuple[int, int]:
    try:
        stat = os.stat(file)
    except FileNotFoundError:
        # A link to what is not there (copies made with git-annex have many): only who reads it needs it.
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _with_origin(source: EpisodeSource, spec: DatasetSpec, count: int) -> DatasetSpec:
    import hashlib

    stamp = hashlib.sha256(json.dumps(source.stamp()).encode()).hexdigest()[:16]
    origin: dict[str, Any] = {
        **spec.source,
        "importer": source.name,
        "path": str(source.path.absolute()),
        "options": {key: value for key, value in asdict(source.options).items() if value is not None},
        "stamp": stamp,
        "episodes": count,
    }
    if source.published_statistics is not None:
        origin["published_statistics"] = source.published_statistics.to_dict()
    return DatasetSpec(**{**spec.__dict__, "source": origin})


def _same_import(partial: Path, spec: DatasetSpec) -> bool:
    """Whether an unfinished import is of the same source, unchanged, with the same options."""
    if not (partial / META_FILE).is_file():
        return False
    try:
        meta = read_meta(partial)
    except DataError:
        return False
    wanted = json.loads(json.dumps(spec.to_meta()))
    return all(meta[key] == value for key, value in wanted.items())
