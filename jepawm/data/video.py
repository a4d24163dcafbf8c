"""Video files through PyAV: how many frames of what size, and the frames themselves, all or a range of them.

A file that is damaged, cut short, or made with a codec that PyAV has no decoder for is refused by name. Rotation flags
(phone videos) are not applied. One thread decodes: importers read many videos in many processes instead.
"""

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.errors import DataError, require

VideoSource = str | os.PathLike[str] | bytes | memoryview
"""A file, or the bytes of one."""
SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg")
"""Video files that are found in a folder."""
# Recorded rates are whole numbers, or whole numbers over 1001; a container may round them.
_LARGEST_DENOMINATOR = 1001
_CUT_SHORT = "the video is cut short or damaged; copy it again"


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds.

    Attributes:
        num_frames: Frames, counted from the packets where the file does not say.
        height: `Y`, px.
        width: `X`, px.
        fps: Frames per second, on average.
        codec: Name of the codec, e.g. `h264`, `av1`.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    codec: str


def is_video_name(name: str) -> bool:
    """Whether a file of this name is taken for a video."""
    return name.lower().endswith(SUFFIXES)


def video_info(source: VideoSource, *, what: str) -> VideoInfo:
    """Looks at a video without decoding it.

    Args:
        source: A file, or its bytes.
        what: How errors call it, e.g. its path and the episode it belongs to.

    Raises:
        DataError: No such file, not a video, or one without a decoder.
        MissingDependencyError: The package `av` is not installed.
    """
    with _open(source, what) as (container, stream):
        context = stream.codec_context
        rate = stream.average_rate or stream.guessed_rate
        # The last packet of a stream is empty; it makes the decoder return its remaining frames.
        num_frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        if not num_frames or not rate:
            raise DataError(f"{what}: a video without frames, or without a frame rate")
        return VideoInfo(num_frames, context.height, context.width, float(rate), context.codec.canonical_name)


def read_video(source: VideoSource, *, what: str, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, float]:
    """Decodes a video, or a range of its frames.

    Args:
        source: A file, or its bytes.
        what: How errors call it.
        start: First frame.
        stop: One past the last frame; None: to the end.

    Returns:
        Frames `[F,Y,X,3]` uint8 RGB, and frames per second.

    Raises:
        DataError: As `iter_video`.
        MissingDependencyError: The package `av` is not installed.
    """
    frames = list(iter_video(source, what=what, start=start, stop=stop))
    if not frames:
        raise DataError(f"{what}: no frames to read from {start} on")
    return np.stack(frames), video_info(source, what=what).fps


def iter_video(source: VideoSource, *, what: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Decodes frames one by one, in the order in which they are shown.

    A range is sought by time, which takes a constant frame rate; a video without one is refused for `start` above 0.

    Args:
        source: A file, or its bytes.
        what: How errors call it.
        start: First frame.
        stop: One past the last frame; None: to the end.

    Yields:
        `[Y,X,3]` uint8 RGB.

    Raises:
        DataError: No such file, not a video, no decoder for its codec, damaged or cut short, fewer than `stop` frames,
            frames of different sizes, one channel of more than 8 bits (depth), or a range of a video whose frame rate
            varies.
        MissingDependencyError: The package `av` is not installed.
    """
    shape: tuple[int, ...] | None = None
    with _open(source, what) as (container, stream):
        for number, frame in _numbered(container, stream, what, start, stop):
            pixels = _pixels(frame, what)
            shape = shape or pixels.shape
            _expect_shape(number, pixels, shape, what)
            yield pixels


def read_frames(
    source: VideoSource, numbers: Sequence[int] | np.ndarray, *, what: str, seeks: bool = True
) -> np.ndarray:
    """Decodes chosen frames: those between the first and the last of them are decoded, but not converted to RGB.

    Args:
        source: A file, or its bytes.
        numbers: `[T]` frames, ascending; a frame may come several times.
        what: How errors call it.
        seeks: Whether the frame rate is constant, so that the first frame can be sought (`VideoScan.constant_rate`);
            False: the video is decoded from its beginning.

    Returns:
        `[T,Y,X,3]` uint8 RGB.

    Raises:
        DataError: As `iter_video`.
        MissingDependencyError: The package `av` is not installed.
    """
    wanted, places = np.unique(np.asarray(numbers, dtype=np.int64), return_inverse=True)
    chosen, found = set(wanted.tolist()), list[np.ndarray]()
    with _open(source, what) as (container, stream):
        start = int(wanted[0]) if seeks else 0
        for number, frame in _numbered(container, stream, what, start, int(wanted[-1]) + 1):
            if number in chosen:
                found.append(_pixels(frame, what))
                _expect_shape(number, found[-1], found[0].shape, what)
    return np.stack(found)[places]


@dataclass(frozen=True)
class VideoScan:
    """What the packets of a video say about its frames.

    Attributes:
        num_frames: Frames that are shown.
        fps: Frames per second, on average.
        constant_rate: Whether frames are equally far apart, so that a frame can be sought by its number.
    """

    num_frames: int
    fps: float
    constant_rate: bool


def scan_video(source: VideoSource, *, what: str) -> VideoScan:
    """Counts the frames of a video by its packets, without decoding them.

    Args:
        source: A file, or its bytes.
        what: How errors call it.

    Raises:
        DataError: No such file, not a video, no decoder for its codec, cut short, or no frames.
        MissingDependencyError: The package `av` is not installed.
    """
    with _open(source, what) as (container, stream):
        times: list[int | None] = []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise DataError(f"{what}: {_CUT_SHORT}")
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
        rate = stream.average_rate or stream.guessed_rate
        if not times or not rate:
            raise DataError(f"{what}: a video without frames, or without a frame rate")
        first_pts, frame_pts = _clock(stream, what)
        # Packets lie in the order in which they are decoded.
        numbers = sorted(round((pts - first_pts) / frame_pts) for pts in times if pts is not None)
        return VideoScan(len(times), float(rate), numbers == list(range(len(times))))


def frames_apart(video_fps: float, fps: float) -> int:
    """Frames of a video from one kept frame to the next, as published: its rate, rounded up, over the wanted rate.

    Args:
        video_fps: Rate of the video, 1/s.
        fps: Wanted rate, 1/s. The quotient is rounded down; below 1, every frame is kept.
    """
    # Averages of a whole rate may lie a rounding error above it.
    return max(1, int(math.ceil(video_fps - 1e-6) // fps))


def _numbered(container: Any, stream: Any, what: str, start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
    """Frames of a range with their numbers; see `iter_video`."""
    if start < 0 or (stop is not None and stop <= start):
        raise DataError(f"{what}: frames {start} to {stop} are no range")
    hidden: list[int] = []
    frames = _decoded(container, stream, what, hidden)
    if start:
        frames = _from(start, frames, container, stream, what)
    count = 0
    for frame in frames:
        yield start + count, frame
        count += 1
        if stop is not None and start + count == stop:
            return
    if stop is not None or (start and not count):
        wanted = f"frames {start} to {stop}" if stop is not None else f"frames from {start} on"
        raise DataError(f"{what}: {wanted} were asked for, the video has {start + count if count else 'fewer'}")
    # A file that was cut between two frames decodes without an error. One that was trimmed without encoding it anew
    # hides some of its frames.
    if start == 0 and count < stream.frames and not hidden:
        raise DataError(f"{what}: {count} of its {stream.frames} frames can be decoded; copy the video again")


def _pixels(frame: Any, what: str) -> np.ndarray:
    """A decoded frame as `[Y,X,3]` uint8 RGB."""
    if frame.format.name.startswith("gray") and frame.format.components[0].bits > 8:
        bits = frame.format.components[0].bits
        raise DataError(f"{what}: one channel of {bits} bits, which looks like depth; choose another camera")
    return np.asarray(frame.to_ndarray(format="rgb24"))


def _expect_shape(number: int, pixels: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    if pixels.shape != shape:
        raise DataError(f"{what}: frame {number} is {pixels.shape}, those before it are {shape}")


def _decoded(container: Any, stream: Any, what: str, hidden: list[int]) -> Iterator[Any]:
    """Frames from where the container is; sizes of packets that are not to be shown go into `hidden`."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise DataError(f"{what}: {_CUT_SHORT}")
        if packet.is_discard:
            hidden.append(packet.size)
        yield from packet.decode()


def _from(start: int, frames: Iterator[Any], container: Any, stream: Any, what: str) -> Iterator[Any]:
    """The frames from number `start` on; `frames` is not begun before the container is where they are."""
    first_pts, frame_pts = _clock(stream, what)
    container.seek(int(first_pts + start * frame_pts), stream=stream, backward=True)
    expected: int | None = None
    for frame in frames:
        number = round((frame.pts - first_pts) / frame_pts)
        if expected is None and number > start:
            raise DataError(f"{what}: frame {start} cannot be sought, the decoder starts at {number}")
        if expected is not None and number != expected:
            raise DataError(
                f"{what}: its frame rate varies (frame {number} is where {expected} should be), so that a range of "
                "frames cannot be found; encode it anew with a constant rate"
            )
        expected = number + 1
        if number >= start:
            yield frame


def _clock(stream: Any, what: str) -> tuple[int, Fraction]:
    """Time stamp of the first frame, and of time stamps from one frame to the next at the average rate."""
    rate = Fraction(stream.average_rate or stream.guessed_rate or 0).limit_denominator(_LARGEST_DENOMINATOR)
    if not rate:
        raise DataError(f"{what}: a video without a frame rate")
    return stream.start_time or 0, 1 / (rate * stream.time_base)


@contextmanager
def _open(source: VideoSource, what: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; what PyAV finds wrong meanwhile becomes a `DataError`."""
    av = require("av", "video")
    if isinstance(source, (bytes, memoryview)):
        opened: Any = io.BytesIO(source)
    elif not Path(source).is_file():
        raise DataError(f"{what}: no such file: {source}")
    else:
        opened = os.fspath(source)
    try:
        with av.open(opened) as container:
            if not container.streams.video:
                raise DataError(f"{what}: the file holds no video")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise DataError(f"{what}: PyAV has no decoder for its codec; encode it anew, e.g. as H.264")
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.error.DecoderNotFoundError, av.codec.codec.UnknownCodecError) as error:
        raise DataError(f"{what}: PyAV has no decoder for its codec; encode it anew, e.g. as H.264") from error
    # A damaged header also shows as a text that is no UTF-8, or as lists that are too short.
    except (av.error.FFmpegError, UnicodeDecodeError, IndexError, OSError) as error:
        raise DataError(f"{what}: not a video that can be read, or a damaged one: {error}; copy it again") from error
