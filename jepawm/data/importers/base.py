"""The interface of an importer, and what a conversion records about its choices.

An importer is an `EpisodeSource`. It describes the dataset (`spec`), says what it takes from the source and what it
leaves out (`choices`), counts the episodes, and reads one of them by number in any process. `conversion.py` does the
rest for every importer: it resumes, cleans up after errors, leaves out bad episodes and records all of that.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from jepawm.data.codecs import check_codec
from jepawm.data.meta import DatasetSpec
from jepawm.errors import DataError
from jepawm.types import Episode, Statistics

LEAVE_OUT_HINT = "to convert the other episodes, add --leave-out-bad"
NOTES = "notes"
"""Key of an episode's `info` that lists what the importer cut or assumed for this episode, one sentence each."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class ImportOptions:
    """How a source is read. An importer refuses an option that its format cannot follow.

    Attributes:
        image_size: Side of the square frames, px. None: the recorded size where the recorded frames are square, else
            the shorter side. Frames that are not square are cropped to their middle first.
        codec: How frames are stored. None: the importer's choice (`zstd` for rendered, `jpeg` for camera frames).
        camera: Which camera, where a source has several. None: the importer's choice, which `source` names.
        control_hz: The rate to resample to, where a format allows it; the rate itself, where a format records none.
            None: the recorded or published rate.
        split: Part of a source that has parts (`train`, `val`). None: the importer's choice.
        max_episodes: Only the first episodes are looked at. None: all.
        leave_out_bad: Leave out episodes that are empty, short, damaged or hold NaN, and list them. False: the first
            bad episode ends the conversion.
        most_bad: Largest share of bad episodes that `leave_out_bad` accepts, 0 to 1; one episode is always accepted.
        keep_one_colour: Keep episodes whose frames all show one colour. False: such an episode is bad.
    """

    image_size: int | None = None
    codec: str | None = None
    camera: str | None = None
    control_hz: float | None = None
    split: str | None = None
    max_episodes: int | None = None
    leave_out_bad: bool = False
    most_bad: float = 0.1
    keep_one_colour: bool = False

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise DataError(f"image_size must be 1 or more, found {self.image_size}")
        if self.control_hz is not None and not 0 < self.control_hz < math.inf:
            raise DataError(f"control_hz must be above 0 and finite, found {self.control_hz}")
        if self.max_episodes is not None and self.max_episodes < 1:
            raise DataError(f"max_episodes must be 1 or more, found {self.max_episodes}")
        if not 0 <= self.most_bad <= 1:
            raise DataError(f"most_bad must be a share from 0 to 1, found {self.most_bad}")
        if self.codec is not None:
            check_codec(self.codec, 3)


@dataclass(frozen=True)
class Choices:
    """What a conversion takes from a source, changes, leaves out and assumes.

    `meta.json` records it in `source`, and `jepawm data convert` prints it at the end.

    Attributes:
        took: For each of `pixels`, `actions`, `proprio`, `sim_state` and `task`: the names in the source.
        cast: Names in the source whose values change their type, with the change, e.g. `bool to float32`.
        left_out: Names in the source that the dataset does not hold.
        assumed: Sentences about what the source does not say and the importer takes for granted.
    """

    took: Mapping[str, Sequence[str]]
    cast: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    assumed: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for `meta.json`."""
        return {
            "took": {key: list(names) for key, names in self.took.items() if names},
            "cast": dict(self.cast),
            "left_out": sorted(self.left_out),
            "assumed": list(self.assumed),
        }


class EpisodeSource(ABC):
    """A dataset in another format. Picklable: a worker unpickles it and reads the episodes it is given.

    The constructor reads indexes and shapes and no frames. It raises `DataError` for a file that is missing or has
    another layout, and names file and key.

    Args:
        path: File or folder.
        options: How to read it.

    Attributes:
        bad: Reason by number of each episode that a look at the source already found bad. Filled only with
            `options.leave_out_bad`; else the first bad episode is an error.
    """

    name: ClassVar[str]
    """Name of the format, as `--from` takes it."""
    about: ClassVar[str]
    """One line: which datasets have this format."""
    published_statistics: Statistics | None = None
    """Constants that were published with the data, kept in the dataset's `source`."""

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        self.path = Path(path)
        self.options = options
        self.bad: dict[int, str] = {}

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a path looks like this format, judged by names of files alone."""

    @property
    @abstractmethod
    def num_episodes(self) -> int:
        """Episodes in the source."""

    @abstractmethod
    def spec(self) -> DatasetSpec:
        """The description of the dataset; `conversion.py` adds origin, options and choices to its `source`.

        Where bounds of actions come from the data, they cover the episodes of `sound_numbers`.
        """

    @abstractmethod
    def choices(self) -> Choices:
        """What the conversion takes, casts, leaves out and assumes. Called after `spec`."""

    @abstractmethod
    def read(self, number: int) -> Episode:
        """Reads one episode.

        Args:
            number: 0 to `num_episodes - 1`; it becomes the episode's id.

        Raises:
            DataError: The episode is damaged or differs from its index; names file and place.
        """

    def stamp(self) -> list[Any]:
        """JSON-able facts that change when the source does, e.g. names and sizes of its files."""
        return file_stamp(self.path)

    @property
    def numbers(self) -> range:
        """Numbers of the episodes that a conversion looks at: all, or the first `max_episodes`."""
        return range(min(self.num_episodes, self.options.max_episodes or self.num_episodes))

    @property
    def sound_numbers(self) -> list[int]:
        """`numbers` without the episodes known to be bad."""
        return [number for number in self.numbers if number not in self.bad]

    def mark_bad(self, number: int, reason: str) -> None:
        """Notes that an episode is bad; an episode beyond `max_episodes` is ignored.

        Args:
            number: Of the episode.
            reason: What is wrong with it, with file and place.

        Raises:
            DataError: Always, unless `options.leave_out_bad` is set.
        """
        if number >= (self.options.max_episodes or math.inf):
            return
        if not self.options.leave_out_bad:
            raise DataError(f"{reason}; {LEAVE_OUT_HINT}")
        self.bad.setdefault(number, reason)

    def first_sound(self, look: Callable[[int], _T]) -> _T:
        """The answer of `look` for the first episode for which it raises no `DataError`.

        Args:
            look: Takes the number of an episode. The episodes before that one are marked bad.

        Raises:
            DataError: `look` raises for the first episode (without `leave_out_bad`) or for all of them.
        """
        reason = f"{self.path}: holds no episodes"
        for number in self.numbers:
            if number in self.bad:
                reason = self.bad[number]
                continue
            try:
                return look(number)
            except DataError as error:
                reason = str(error)
                self.mark_bad(number, reason)
        raise DataError(reason)

    def refuse(self, **unsupported: Any) -> None:
        """Refuses options that this format cannot follow.

        Raises:
            DataError: One of them is given.
        """
        for name, value in unsupported.items():
            if value is not None:
                raise DataError(f"--{name.replace('_', '-')} {value}: the format '{self.name}' has no choice of that")


def square_spec(height: int, width: int, options: ImportOptions) -> int:
    """Side of the frames that a source of `height` x `width` px becomes, see `ImportOptions.image_size`."""
    return options.image_size or min(height, width)


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
        # Copies made with git-annex hold many links to files that are not there. Only reading one is an error.
        return -1, -1
    return stat.st_size, stat.st_mtime_ns
