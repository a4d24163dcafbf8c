"""Encodes one frame as bytes of a shard, and decodes it.

| codec | exact | for |
|---|---|---|
| `zstd` (default) | yes | rendered frames: the frame's raw bytes, compressed on their own at level 1 |
| `jpeg` | no | camera images: quality 95, no chroma subsampling |
| `png` | yes | exact camera images, or shards that other tools should read |
| `raw` | yes | nothing to encode; the Parquet column is compressed instead, so one frame costs a whole row |

`zstd` is the default because simulators draw flat colours. On such frames it is exact, smaller than JPEG and
PNG, and faster to write and to read than both (`benchmarks/data.py` measures all four). On noisy camera
images it hardly compresses at all; use `jpeg` there.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from jepawm.errors import DataError, did_you_mean

CODECS = ("zstd", "jpeg", "png", "raw")
DEFAULT_CODEC = "zstd"
JPEG_QUALITY = 95


class FrameError(DataError):
    """The bytes of one frame cannot be decoded; the caller adds file, row and frame number."""


def check_codec(codec: str, channels: int) -> None:
    """Refuses an unknown codec, or a codec that cannot hold this number of channels.

    Raises:
        DataError: Unknown codec, or an image codec with neither 1 nor 3 channels.
    """
    if codec not in CODECS:
        raise DataError(f"unknown codec '{codec}'{did_you_mean(codec, CODECS)}")
    if codec in ("jpeg", "png") and channels not in (1, 3):
        raise DataError(f"codec '{codec}' holds 1 or 3 channels, the frames have {channels}; use 'zstd' or 'raw'")


@lru_cache(maxsize=1)
def _zstd() -> Any:
    import pyarrow as pa

    # Level 1: on flat frames higher levels save a few bytes and cost several times the time.
    return pa.Codec("zstd", compression_level=1)


def encode_frames(pixels: np.ndarray, codec: str) -> list[bytes]:
    """Encodes each frame on its own, so that a window later decodes only the frames it uses.

    Args:
        pixels: `[F,Y,X,C]` uint8, RGB or grey.
        codec: One of `CODECS`.
    """
    check_codec(codec, pixels.shape[-1])
    pixels = np.ascontiguousarray(pixels)
    if codec == "raw":
        return [frame.tobytes() for frame in pixels]
    if codec == "zstd":
        compress = _zstd().compress
        return [compress(frame, asbytes=True) for frame in pixels]
    import cv2

    if codec == "jpeg":
        suffix = ".jpg"
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    else:
        suffix, options = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]
    encoded = []
    for frame in pixels:
        # OpenCV expects BGR; the files hold RGB, as other readers expect.
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) if frame.shape[-1] == 3 else frame
        encoded.append(cv2.imencode(suffix, image, options)[1].tobytes())
    return encoded


def decode_frame(data: np.ndarray | bytes, codec: str, out: np.ndarray) -> None:
    """Decodes one frame into `out`; OpenCV and pyarrow release the GIL meanwhile.

    Args:
        data: The encoded bytes (bytes or a uint8 view).
        codec: One of `CODECS`.
        out: `[Y,X,C]` uint8, C-contiguous; filled.

    Raises:
        FrameError: Not decodable, or of another size than `out`.
    """
    if codec == "raw":
        if len(data) != out.nbytes:
            raise FrameError(f"a raw frame of shape {out.shape} has {out.nbytes} bytes, found {len(data)}")
        out.reshape(-1)[:] = np.frombuffer(data, dtype=np.uint8)
        return
    if codec == "zstd":
        _decode_zstd(data, out)
        return
    import cv2

    channels = out.shape[-1]
    buffer = np.frombuffer(data, dtype=np.uint8)
    image = None
    if len(buffer):
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise FrameError(f"{len(buffer)} bytes are not a readable {codec} image")
    if image.shape[:2] != out.shape[:2]:
        raise FrameError(f"the frame is {image.shape[0]}x{image.shape[1]}, expected {out.shape[0]}x{out.shape[1]}")
    if channels == 3:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)
    else:
        out[..., 0] = image.reshape(out.shape[:2])


def _decode_zstd(data: np.ndarray | bytes, out: np.ndarray) -> None:
    import pyarrow as pa

    try:
        plain = _zstd().decompress(data, decompressed_size=out.nbytes)
    except (pa.ArrowInvalid, OSError) as error:
        raise FrameError(f"{len(data)} bytes are not a zstd frame of shape {out.shape}: {error}") from error
    if plain.size != out.nbytes:
        raise FrameError(f"a frame of shape {out.shape} has {out.nbytes} bytes, decompressed to {plain.size}")
    out.reshape(-1)[:] = np.frombuffer(plain, dtype=np.uint8)


def decode_frames(data: Sequence[np.ndarray | bytes], codec: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes frames into one `[F,Y,X,C]` uint8 array.

    Raises:
        FrameError: Names the frame, counted from the first one given.
    """
    out = np.empty((len(data), *shape), dtype=np.uint8)
    for position, frame in enumerate(data):
        try:
            decode_frame(frame, codec, out[position])
        except FrameError as error:
            raise FrameError(f"frame {position}: {error}") from error
    return out
