"""An episode with encoded frames, ready to be written. Any process can encode it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jepawm.data.codecs import encode_frames
from jepawm.errors import DataError
from jepawm.types import Episode


@dataclass(frozen=True)
class EncodedEpisode:
    """`jepawm.types.Episode` with encoded frames.

    Attributes:
        episode_id: Unique in its dataset.
        frames: `F` encoded frames.
        codec: Codec of the frames.
        pixels_shape: `(Y, X, C)` of a decoded frame.
        actions: `[(F-1)*k,a]` float32; see `Episode`.
        proprio: `[F,R]` float32.
        sim_state: `[F,S]` float64 or None.
        info: Small JSON-able facts.
    """

    episode_id: int
    frames: list[bytes]
    codec: str
    pixels_shape: tuple[int, ...]
    actions: np.ndarray
    proprio: np.ndarray
    sim_state: np.ndarray | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Number of frames `F`."""
        return len(self.frames)


def encode_episode(episode: Episode, codec: str) -> EncodedEpisode:
    """Encodes the frames of an episode.

    Raises:
        DataError: An unknown codec, pixels that are no `[F,Y,X,C]` uint8, or a codec that cannot hold them.
    """
    pixels = episode.pixels
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 4:
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"episode {episode.episode_id}: pixels: expected uint8 [F,Y,X,C], found {found}")
    return EncodedEpisode(
        episode_id=episode.episode_id,
        frames=encode_frames(pixels, codec),
        codec=codec,
        pixels_shape=tuple(pixels.shape[1:]),
        actions=episode.actions,
        proprio=episode.proprio,
        sim_state=episode.sim_state,
        info=episode.info,
    )
