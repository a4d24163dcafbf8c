"""`jepawm data show`: a contact sheet, to see with one's own eyes what a dataset holds."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jepawm.data.codecs import decode_frame
from jepawm.data.episodes import EpisodeDataset
from jepawm.errors import DataError

MIN_TILE_PX = 96
CAPTION_PX = 16
CURVE_PX = 48
# One colour an action dimension, in turn (RGB).
COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))


def contact_sheet(
    path: str | os.PathLike[str],
    output_png: str | os.PathLike[str],
    *,
    episodes: int | Sequence[int] = 4,
    frames: int = 8,
) -> Path:
    """Draws a few episodes, one a row: evenly spaced frames, and under them the actions over time.

    Args:
        path: The dataset.
        output_png: The picture to write.
        episodes: Their ids, or how many, evenly spaced over the dataset.
        frames: Frames per episode.

    Returns:
        The path of the picture.

    Raises:
        DataError: Nothing to draw, an unknown episode, or a picture that cannot be written.
    """
    import cv2

    dataset = EpisodeDataset(path)
    if isinstance(episodes, int):
        count = min(episodes, len(dataset))
        picked = dataset.episode_ids[np.linspace(0, len(dataset) - 1, count).astype(int)].tolist() if count > 0 else []
    else:
        picked = list(episodes)
    if not picked or frames < 1:
        raise DataError(f"{dataset.path}: nothing to draw: {len(picked)} episodes, {frames} frames")
    sheet = np.concatenate([_episode_row(dataset, episode_id, frames) for episode_id in picked])
    output = Path(output_png)
    output.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not written:
        raise DataError(f"{output}: the picture ({sheet.shape[1]}x{sheet.shape[0]} px) cannot be encoded")
    output.write_bytes(data.tobytes())
    return output


def _episode_row(dataset: EpisodeDataset, episode_id: int, frames: int) -> np.ndarray:
    """`[height,width,3]` uint8: captions, frames and the action curve of one episode."""
    import cv2

    spec = dataset.spec
    scale = max(1, -(-MIN_TILE_PX // spec.pixels.width))
    tile_y, tile_x = spec.pixels.height * scale, spec.pixels.width * scale
    total = dataset.num_frames(episode_id)
    chunks = dataset.chunks(episode_id, ["frames"])
    row = np.full((CAPTION_PX + tile_y + CURVE_PX + 2, frames * tile_x, 3), 255, dtype=np.uint8)
    frame = np.empty(spec.pixels.shape, dtype=np.uint8)
    for k, t in enumerate(np.linspace(0, total - 1, frames).round().astype(int).tolist()):
        chunk = chunks[t // dataset.chunk_frames]
        assert chunk.frames is not None
        decode_frame(chunk.frames[t - chunk.first_frame], spec.pixels.codec, frame)
        tile = np.repeat(np.repeat(_as_rgb(frame), scale, axis=0), scale, axis=1)
        row[CAPTION_PX : CAPTION_PX + tile_y, k * tile_x : (k + 1) * tile_x] = tile
        caption = f"ep {episode_id}, t {t}" if k == 0 else f"t {t}"
        position = (k * tile_x + 3, CAPTION_PX - 5)
        cv2.putText(row, caption, position, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    _draw_actions(row[CAPTION_PX + tile_y : CAPTION_PX + tile_y + CURVE_PX], dataset.read_column("actions", episode_id))
    return row


def _as_rgb(frame: np.ndarray) -> np.ndarray:
    channels = frame.shape[-1]
    if channels >= 3:
        return frame[..., :3]
    return np.repeat(frame[..., :1], 3, axis=-1)


def _draw_actions(strip: np.ndarray, actions: np.ndarray) -> None:
    """Draws `[F-1,a]` actions over time into a strip; one scale for all, 0 is the grey line."""
    import cv2

    height, width = strip.shape[:2]
    top = max(float(np.abs(actions).max()), 1e-9)
    middle = height / 2
    cv2.line(strip, (0, int(middle)), (width, int(middle)), (200, 200, 200), 1)
    x = np.linspace(0, width - 1, len(actions)) if len(actions) > 1 else np.array([width / 2])
    for i in range(actions.shape[1]):
        y = middle - actions[:, i] / top * (middle - 3)
        points = np.stack([x, y], axis=1).round().astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(strip, [points], False, COLOURS[i % len(COLOURS)], 1, cv2.LINE_AA)
    caption = f"actions, largest {top:.3g}"
    cv2.putText(strip, caption, (3, height - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.34, (90, 90, 90), 1, cv2.LINE_AA)
