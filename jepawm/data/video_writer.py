"""Frames to a video file that browsers play: H.264 in MP4, through PyAV."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from jepawm.errors import DataError, require

# Frame rates are whole numbers, or whole numbers over 1001.
_LARGEST_DENOMINATOR = 1001
_CODEC = "libx264"


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], *, fps: float) -> Path:
    """Writes a video.

    Args:
        path: The file; its name ends in `.mp4`.
        frames: `[Y,X,3]` uint8 RGB, all of one size. An odd row or column at the edge is doubled, for the codec stores
            colours for pairs of pixels.
        fps: Frames per second.

    Returns:
        The file.

    Raises:
        DataError: Another ending, no frames, frames of several sizes, or a file that cannot be written.
        MissingDependencyError: The package `av` is not installed.
    """
    av = require("av", "video")
    output = Path(path)
    if output.suffix.lower() != ".mp4":
        raise DataError(f"{output}: a video is written as .mp4; give a file of that name")
    if _CODEC not in av.codecs_available:
        raise DataError(f"{output}: this PyAV encodes no H.264 ({_CODEC}); install it from PyPI: pip install av")
    count, shape = 0, (0, 0, 0)
    # A file under its own name is whole.
    unfinished = output.with_name(f"{output.name}.unfinished")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(unfinished), "w", format="mp4") as container:
            stream = container.add_stream(_CODEC, rate=Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR))
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            for frame in frames:
                even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
                if not count:
                    shape = even.shape
                    stream.height, stream.width = shape[:2]
                if even.shape != shape:
                    raise DataError(f"{output}: frame {count} is {even.shape}, those before it are {shape}")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
                count += 1
            if not count:
                raise DataError(f"{output}: there are no frames to write")
            container.mux(stream.encode())
        os.replace(unfinished, output)
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{output}: the video cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return output
