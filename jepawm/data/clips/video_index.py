"""What is known of the video files of a folder: frames and rate of each, kept in a file so that they are counted once.

The file lies beside the frame caches (`$JEPAWM_CACHE`, or `~/.cache/jepawm/frames`) and is named after the folder. An
entry holds while size and modification time of its video stay.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from jepawm.data.importers.reading import files_below, read_path_list
from jepawm.data.loading.cache_folder import default_cache_root
from jepawm.data.video import SUFFIXES, VideoScan, is_video_name, scan_video
from jepawm.errors import DataError
from jepawm.files import write_json

logger = logging.getLogger(__name__)

_VERSION = 1
_MOST_NAMED = 10


@dataclass(frozen=True)
class _Stamped:
    """A scan with size (bytes) and modification time (ns) of the file that it holds for."""

    scan: VideoScan
    size: int
    mtime_ns: int

    def to_list(self) -> list[Any]:
        return [self.size, self.mtime_ns, self.scan.num_frames, self.scan.fps, self.scan.constant_rate]

    @classmethod
    def from_list(cls, entry: list[Any]) -> "_Stamped":
        size, mtime_ns, num_frames, fps, constant_rate = entry
        return cls(VideoScan(int(num_frames), float(fps), bool(constant_rate)), int(size), int(mtime_ns))


def list_videos(path: Path) -> list[Path]:
    """Video files below a folder, in the order of their paths, without hidden ones; or those that a list names.

    Raises:
        DataError: No such folder, or no videos.
    """
    if path.is_file():
        found = [video for video, _, _ in read_path_list(path)]
    else:
        found = list(files_below(path, lambda name: is_video_name(name) and not name.startswith(".")))
    if not found:
        what = "no such folder" if not path.exists() else f"no videos ({', '.join(SUFFIXES)})"
        raise DataError(f"{path}: {what}")
    return found


def index_videos(
    root: Path, videos: Iterable[Path], *, skip_unreadable: bool, num_threads: int | None = None
) -> dict[Path, VideoScan]:
    """Frames and rate of each video, from the index of the folder, or from the file where the index has it not.

    Args:
        root: The folder, or the list, that the index is named after.
        videos: The files.
        skip_unreadable: Leave out files that cannot be read, and warn; False: an error names them.
        num_threads: Threads that look at files; None: one for each CPU.

    Returns:
        Scans by file, in the order of `videos`.

    Raises:
        DataError: Files that cannot be read, or none that can.
    """
    place = default_cache_root()
    place.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()
    file = place / f"videos-{digest}.json"
    # Workers of one node look at a folder once between them.
    with FileLock(f"{file}.lock"):
        known = _read(file)
        index, faults = _scan_all(list(videos), known, num_threads or os.cpu_count() or 1)
        if index != known:
            entries = {os.fspath(video): stamped.to_list() for video, stamped in index.items()}
            write_json(file, {"version": _VERSION, "folder": str(root.resolve()), "videos": entries})
    if faults:
        text = "; ".join(faults[:_MOST_NAMED]) + ("; ..." if len(faults) > _MOST_NAMED else "")
        if not skip_unreadable:
            raise DataError(
                f"{root}: {len(faults)} of {len(faults) + len(index)} videos cannot be read: {text}. Replace them, or "
                "leave them out with clips.unreadable 'skip'"
            )
        logger.warning("%s: %d videos cannot be read and are left out: %s", root, len(faults), text)
    if not index:
        raise DataError(f"{root}: none of its {len(faults)} videos can be read: {text}")
    return {video: stamped.scan for video, stamped in index.items()}


def _scan_all(
    videos: list[Path], known: dict[Path, _Stamped], num_threads: int
) -> tuple[dict[Path, _Stamped], list[str]]:
    def look(video: Path) -> _Stamped | str:
        try:
            stat = video.stat()
            entry = known.get(video)
            if entry is not None and (entry.size, entry.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                return entry
            return _Stamped(scan_video(video, what=str(video)), stat.st_size, stat.st_mtime_ns)
        except (DataError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(num_threads) as pool:
        found = list(pool.map(look, videos))
    index = {video: entry for video, entry in zip(videos, found, strict=True) if isinstance(entry, _Stamped)}
    return index, [entry for entry in found if isinstance(entry, str)]


def _read(file: Path) -> dict[Path, _Stamped]:
    """The index on disk; empty where there is none, or one of another version, or a damaged one."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["version"] != _VERSION:
            return {}
        return {Path(video): _Stamped.from_list(entry) for video, entry in data["videos"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: the index of videos is damaged (%s); the videos are looked at again", file, error)
        return {}
