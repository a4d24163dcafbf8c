"""The one way in which a source becomes an episode dataset, whatever its format.

The dataset appears under its name once it is whole. A kill costs the open shard and no more; an error in the source
leaves nothing behind. Bad episodes end the conversion or, with `ImportOptions.leave_out_bad`, are left out and listed.
What was taken, cast, left out and assumed is recorded in `source` of `meta.json`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.encoding import EncodedEpisode, encode_episode
from jepawm.data.importers.base import LEAVE_OUT_HINT, NOTES, EpisodeSource
from jepawm.data.meta import META_FILE, DatasetSpec, read_meta
from jepawm.data.writer import EpisodeWriter, WriterBusyError, discard_dataset, validate_episode
from jepawm.errors import DataError
from jepawm.types import Episode

LEFT_OUT_EPISODES = "left_out_episodes"
"""Key of `source`: number and reason of each bad episode that was left out."""
_OUTCOME = (LEFT_OUT_EPISODES, NOTES)
CONVERSION_KEYS = ("took", "cast", "left_out", "assumed", *_OUTCOME)
"""Keys of `source` that `conversion_lines` prints."""
_NAMED = 20
_PRINTED = 5
# An option that says how much is read, which `episodes` of `source` records.
_NOT_RECORDED = ("max_episodes",)
# Episodes after which the size of all episodes is estimated; again after 8 times as many, and so on.
EPISODES_BEFORE_ESTIMATE = 8
# What encoding a video leaves of a frame of one colour may differ by this much.
_ONE_COLOUR = 2


@dataclass(frozen=True)
class BadEpisode:
    """An episode that is left out.

    Attributes:
        number: Its number in the source.
        reason: What is wrong with it, with file and place.
    """

    number: int
    reason: str


Reader = Callable[[EpisodeSource, str, Sequence[int]], Iterator[EncodedEpisode | BadEpisode]]
"""Reads and encodes episodes of a source with a codec, in the order of their numbers."""


def read_serially(source: EpisodeSource, codec: str, numbers: Sequence[int]) -> Iterator[EncodedEpisode | BadEpisode]:
    """Reads episodes in this process, one after the other."""
    for number in numbers:
        yield read_encoded(source, codec, number)


def read_encoded(source: EpisodeSource, codec: str, number: int) -> EncodedEpisode | BadEpisode:
    """Reads, checks and encodes one episode.

    Returns:
        The episode; with `leave_out_bad`, a `BadEpisode` where it cannot be read.

    Raises:
        DataError: The episode cannot be read, has fewer than 2 frames, or shows one colour.
    """
    if number in source.bad:
        return BadEpisode(number, source.bad[number])
    try:
        episode = source.read(number)
        _check_frames(source, episode)
        return encode_episode(episode, codec)
    except DataError as error:
        return _refused_or_bad(source, number, error)


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
    call goes on with what was read, if the source has not changed since. An error in the source leaves nothing behind.

    Args:
        source: What to read.
        destination: Dataset to create.
        max_episodes: Only the first episodes; None: as the source's options say.
        reader: Where episodes are read; see `jepawm.distributed.convert` for many processes.
        progress: Called with (episodes done, episodes in all).

    Returns:
        Number of episodes in the dataset.

    Raises:
        DataError: The destination exists or cannot be written, the source holds no episodes or a bad one, or with
            `leave_out_bad` more bad ones than `most_bad` accepts.
        WriterBusyError: Another process converts into the same destination; its work is left alone.
    """
    destination = Path(destination)
    # A link that leads nowhere is there as well.
    if os.path.lexists(destination):
        raise DataError(f"{destination}: already exists; choose another destination or delete it")
    if max_episodes is not None:
        source.options = replace(source.options, max_episodes=max_episodes)
    if source.num_episodes < 1:
        raise DataError(f"{source.path}: holds no episodes")
    numbers = source.numbers
    spec = _with_origin(source, source.spec())
    left_out: dict[int, str] = {number: source.bad[number] for number in numbers if number in source.bad}
    _check_share(source, left_out)
    partial = destination.with_name(f".{destination.name}.importing")
    try:
        if not _same_import(partial, spec):
            discard_dataset(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with EpisodeWriter(partial, spec, resume=True) as writer:
            finished = writer.finished_episode_ids
            missing = [number for number in numbers if number not in finished]
            if progress is not None:
                progress(len(numbers) - len(missing), len(numbers))
            first, disk = len(numbers) - len(missing) + 1, _DiskEstimate(partial, len(missing))
            for done, item in enumerate(_checked(source, spec, reader, missing), start=first):
                if isinstance(item, BadEpisode):
                    left_out[item.number] = item.reason
                    _check_share(source, left_out)
                else:
                    writer.write(item)
                    disk.add(item)
                if progress is not None:
                    progress(done, len(numbers))
            writer.set_source(spec.source | _outcome(left_out, writer.finished_infos()))
        os.replace(partial, destination)
    except WriterBusyError as error:
        raise WriterBusyError(
            f"{destination}: another process is converting into it; wait for it, or choose another destination"
        ) from error
    except OSError as error:
        # The source is not at fault, so the episodes that were read so far are good.
        kept = "; the same command goes on with what was read so far" if partial.is_dir() else ""
        raise DataError(f"{destination}: could not be finished: {error}{kept}") from error
    except Exception:
        with suppress(WriterBusyError):
            discard_dataset(partial)
        raise
    return len(numbers) - len(left_out)


class _DiskEstimate:
    """Ends a conversion early that the disk cannot hold, by the size of its first episodes.

    Args:
        folder: Where the dataset grows.
        num_episodes: Episodes that are still to be written.
    """

    def __init__(self, folder: Path, num_episodes: int) -> None:
        self._folder = folder
        self._num_episodes = num_episodes
        self._written = self._nbytes = 0
        self._next_look = EPISODES_BEFORE_ESTIMATE

    def add(self, episode: EncodedEpisode) -> None:
        """Counts an episode, and now and then compares what is left with the free space.

        Raises:
            OSError: The rest does not fit; what was written stays and can be gone on with.
        """
        vectors = (episode.actions, episode.proprio, episode.sim_state)
        self._nbytes += sum(map(len, episode.frames)) + sum(part.nbytes for part in vectors if part is not None)
        self._written += 1
        if self._written < self._next_look:
            return
        self._next_look *= 8
        left = self._nbytes / self._written * (self._num_episodes - self._written)
        free = shutil.disk_usage(self._folder).free
        if left > free:
            raise OSError(
                f"about {left / 2**30:.2f} GiB are still to be written, as the first {self._written} episodes take "
                f"{self._nbytes / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free; free some space, or convert "
                "fewer episodes (--max-episodes), smaller frames (--image-size) or onto another disk"
            )


def conversion_lines(source: dict[str, Any]) -> list[str]:
    """What `source` of `meta.json` says about a conversion, as lines to print.

    Returns:
        What was taken, cast, left out and assumed, what was noted about single episodes, and which were left out.
    """
    lines = []
    if source.get("took"):
        lines.append("took " + "; ".join(f"{key} from {', '.join(names)}" for key, names in source["took"].items()))
    if source.get("cast"):
        lines.append("cast " + ", ".join(f"{name} ({change})" for name, change in source["cast"].items()))
    if source.get("left_out"):
        lines.append("left out " + ", ".join(source["left_out"]))
    lines += [f"assumed: {sentence}" for sentence in source.get("assumed", ())]
    if source.get("absent_episodes"):
        lines.append(f"not in this copy: {source['absent_episodes']['count']} episode(s) that the source's index lists")
    for sentence, where in source.get(NOTES, {}).items():
        shown = _some(where["first"], where["episodes"])
        lines.append(f"noted in {where['episodes']} episode(s): {sentence} ({shown})")
    left_out = source.get(LEFT_OUT_EPISODES, [])
    if left_out:
        lines.append(f"left out {len(left_out)} of {source['episodes']} episodes as bad:")
        lines += [f"  episode {item['episode']}: {item['reason']}" for item in left_out[:_PRINTED]]
        if len(left_out) > _PRINTED:
            lines.append(f"  and {len(left_out) - _PRINTED} more, listed in source.{LEFT_OUT_EPISODES} of {META_FILE}")
    return lines


def _check_frames(source: EpisodeSource, episode: Episode) -> None:
    """Refuses an episode without an action, and one in which the camera shows nothing."""
    pixels = episode.pixels
    if len(pixels) < 2:
        named = [f"{key} {value}" for key, value in episode.info.items() if isinstance(value, (str, int))]
        where = f" ({', '.join(named)})" if named else ""
        raise DataError(
            f"{source.path}: episode {episode.episode_id}{where} has {len(pixels)} frame(s), an episode needs 2"
        )
    if not _is_one_colour(pixels):
        return
    if not source.options.keep_one_colour:
        raise DataError(
            f"{source.path}: episode {episode.episode_id}: all {len(pixels)} frames show one colour, so this camera "
            "may not have recorded; choose another --camera, or keep such episodes with --keep-one-colour"
        )
    episode.info.setdefault(NOTES, []).append("all frames show one colour")


def _is_one_colour(pixels: np.ndarray) -> bool:
    # One frame rules out nearly every episode without a look at the others.
    for part in (pixels[0], pixels):
        colours = part.reshape(-1, part.shape[-1])
        if (colours.max(axis=0).astype(int) - colours.min(axis=0) > _ONE_COLOUR).any():
            return False
    return True


def _refused_or_bad(source: EpisodeSource, number: int, error: DataError) -> BadEpisode:
    if not source.options.leave_out_bad:
        raise DataError(f"{error}; {LEAVE_OUT_HINT}") from error
    return BadEpisode(number, str(error))


def _checked(
    source: EpisodeSource, spec: DatasetSpec, reader: Reader, numbers: Sequence[int]
) -> Iterator[EncodedEpisode | BadEpisode]:
    """The episodes of a reader; an episode that breaks the contract of the format is bad as well."""
    for item in reader(source, spec.pixels.codec, numbers):
        if isinstance(item, BadEpisode):
            yield item
            continue
        try:
            validate_episode(item, spec)
        except DataError as error:
            yield _refused_or_bad(source, item.episode_id, error)
        else:
            yield item


def _check_share(source: EpisodeSource, left_out: dict[int, str]) -> None:
    """Refuses a source of which too many episodes are bad."""
    count, most_bad = len(source.numbers), source.options.most_bad
    if len(left_out) <= max(1, int(most_bad * count)) and len(left_out) < count:
        return
    shown = "; ".join(f"episode {number}: {reason}" for number, reason in sorted(left_out.items())[:3])
    if len(left_out) == count:
        raise DataError(f"{source.path}: each of the {count} episodes is bad: {shown}")
    raise DataError(
        f"{source.path}: {len(left_out)} of {count} episodes are bad, --most-bad {most_bad:g} accepts "
        f"{max(1, int(most_bad * count))}; raise it, or mend the source: {shown}"
    )


def _outcome(left_out: dict[int, str], infos: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """What reading the episodes adds to `source`."""
    episodes_of: dict[str, list[int]] = {}
    for number, info in infos:
        for sentence in info.get(NOTES, ()):
            episodes_of.setdefault(sentence, []).append(number)
    outcome: dict[str, Any] = {}
    if episodes_of:
        outcome[NOTES] = {
            sentence: {"episodes": len(numbers), "first": sorted(numbers)[:_NAMED]}
            for sentence, numbers in sorted(episodes_of.items())
        }
    if left_out:
        outcome[LEFT_OUT_EPISODES] = [{"episode": number, "reason": left_out[number]} for number in sorted(left_out)]
    return outcome


def _some(numbers: Sequence[int], count: int) -> str:
    shown = ", ".join(str(number) for number in numbers[:_PRINTED])
    return shown if count <= min(_PRINTED, len(numbers)) else f"{shown}, ..."


def _with_origin(source: EpisodeSource, spec: DatasetSpec) -> DatasetSpec:
    stamp = hashlib.sha256(json.dumps(source.stamp()).encode()).hexdigest()[:16]
    given = {
        option.name: getattr(source.options, option.name)
        for option in fields(source.options)
        if option.name not in _NOT_RECORDED and getattr(source.options, option.name) != option.default
    }
    origin: dict[str, Any] = {
        **source.choices().to_dict(),
        **spec.source,
        "importer": source.name,
        "path": str(source.path.absolute()),
        "options": given,
        "stamp": stamp,
        "episodes": len(source.numbers),
    }
    if source.published_statistics is not None:
        origin["published_statistics"] = source.published_statistics.to_dict()
    return replace(spec, source=origin)


def _same_import(partial: Path, spec: DatasetSpec) -> bool:
    """Whether an unfinished import is of the same source, unchanged, with the same options."""
    if not (partial / META_FILE).is_file():
        return False
    try:
        meta = read_meta(partial)
    except DataError:
        return False
    meta["source"] = {key: value for key, value in meta["source"].items() if key not in _OUTCOME}
    wanted = json.loads(json.dumps(spec.to_meta()))
    return all(meta[key] == value for key, value in wanted.items())
