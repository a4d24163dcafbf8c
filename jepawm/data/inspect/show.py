"""`jepawm data show`: a contact sheet, to see with one's own eyes what a dataset holds."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jepawm.data.codecs import decode_frame
from jepawm.data.episodes import EpisodeDataset
from jepawm.errors import DataError

# Small frames are enlarged by whole numbers, large ones shrunk, so that captions fit and a sheet fits a screen.
MIN_TILE_PX = 96
MAX_TILE_PX = 256
TITLE_PX = 20
CAPTION_PX = 16
CURVE_PX = 64
LANE_PX = 5
LEGEND_PX = 15
# Up to this many action dimensions are curves in one strip; more would hide each other and become lanes.
MAX_CURVES = 6
# One colour an action dimension (RGB).
COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
_GREY = (110, 110, 110)


def contact_sheet(
    path: str | os.PathLike[str],
    output_png: str | os.PathLike[str],
    *,
    episodes: int | Sequence[int] = 4,
    frames: int = 8,
    window: int | None = None,
    frameskip: int = 1,
) -> Path:
    """Draws a few episodes, each in a row: frames, and under them the actions over time.

    Each action dimension has its own scale, which the legend names. Up to six dimensions are curves around zero; the
    legend gives the largest magnitude in the picture. More than six are lanes around the dataset's mean, red above it
    and blue below, since commanded joint angles are rarely near zero; the legend gives the mean and the largest
    distance from it.

    Args:
        path: The dataset.
        output_png: The picture to write.
        episodes: Their ids, or how many, evenly spaced over the dataset.
        frames: Frames per episode, evenly spaced over it.
        window: First frame of a window: then frames are consecutive, `frameskip` apart, and the actions are those
            between them, as a model sees them.
        frameskip: Frames between two that are shown, with `window`.

    Returns:
        The path of the picture.

    Raises:
        DataError: Nothing to draw, an unknown episode, a window that is longer than an episode, or a picture that
            cannot be written.
    """
    import cv2

    dataset = EpisodeDataset(path)
    picked = picked_episodes(dataset, episodes)
    shown = [shown_frames(dataset, episode_id, frames, window, frameskip) for episode_id in picked]
    rows = [_episode_row(dataset, episode_id, times) for episode_id, times in zip(picked, shown, strict=True)]
    width = max(row.shape[1] for row in rows)
    # An episode with fewer frames than are asked for ends early.
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    sheet = np.concatenate([_title(dataset, width), *rows])
    output = Path(output_png)
    written, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not written:
        raise DataError(f"{output}: the picture ({sheet.shape[1]}x{sheet.shape[0]} px) cannot be encoded")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(f"{output}: the picture cannot be written: {error}") from error
    return output


def picked_episodes(dataset: EpisodeDataset, episodes: int | Sequence[int]) -> list[int]:
    """Ids of the episodes that are shown: those that are named, or so many, evenly spaced over the dataset.

    Raises:
        DataError: There are none.
    """
    if isinstance(episodes, int):
        count = min(episodes, len(dataset))
        picked = dataset.episode_ids[np.linspace(0, len(dataset) - 1, count).astype(int)].tolist() if count > 0 else []
    else:
        picked = list(episodes)
    if not picked:
        raise DataError(f"{dataset.path}: nothing to draw: 0 episodes")
    return picked


def shown_frames(
    dataset: EpisodeDataset, episode_id: int, frames: int, window: int | None, frameskip: int
) -> list[int]:
    """Indices of the frames that are shown of an episode.

    Raises:
        DataError: No frames, or a window that is longer than the episode.
    """
    if frames < 1:
        raise DataError(f"{dataset.path}: nothing to draw: {frames} frames")
    if frameskip < 1:
        raise DataError(f"frameskip must be 1 or more, found {frameskip}")
    total = dataset.num_frames(episode_id)
    if window is None:
        # A short episode shows each frame once.
        return np.unique(np.linspace(0, total - 1, frames).round().astype(int)).tolist()
    last = window + (frames - 1) * frameskip
    if window < 0 or last >= total:
        raise DataError(
            f"{dataset.path}: episode {episode_id} has frames 0 to {total - 1}; a window of {frames} frames, "
            f"{frameskip} apart from {window} on, ends at {last}"
        )
    return list(range(window, last + 1, frameskip))


def _title(dataset: EpisodeDataset, width: int) -> np.ndarray:
    """`[TITLE_PX,width,3]` uint8."""
    spec = dataset.spec
    height_px, width_px, _ = spec.pixels.shape
    text = (
        f"{spec.name}: {len(dataset)} episodes, {int(dataset.num_frames_each.sum())} frames of {width_px}x{height_px} "
        f"px ({spec.pixels.codec}), {spec.control_hz:g} Hz, {spec.action.dim} actions, {spec.proprio.dim} proprio"
    )
    bar = np.full((TITLE_PX, width, 3), 225, dtype=np.uint8)
    write(bar, text, (4, TITLE_PX - 6), scale=0.42)
    return bar


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """`(height, width)` of a drawn frame, px, in the frame's own proportions."""
    if max(height, width) > MAX_TILE_PX:
        scale = MAX_TILE_PX / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
    scale = max(1, -(-MIN_TILE_PX // width))
    return height * scale, width * scale


def _episode_row(dataset: EpisodeDataset, episode_id: int, times: list[int]) -> np.ndarray:
    """`[height,width,3]` uint8: captions, frames and the actions of one episode."""
    spec = dataset.spec
    tile_y, tile_x = _tile_size(spec.pixels.height, spec.pixels.width)
    chunks = dataset.chunks(episode_id, ["frames"])
    row = np.full((CAPTION_PX + tile_y, len(times) * tile_x, 3), 255, dtype=np.uint8)
    frame = np.empty(spec.pixels.shape, dtype=np.uint8)
    for k, t in enumerate(times):
        chunk = chunks[t // dataset.chunk_frames]
        assert chunk.frames is not None
        decode_frame(chunk.frames[t - chunk.first_frame], spec.pixels.codec, frame)
        row[CAPTION_PX:, k * tile_x : (k + 1) * tile_x] = resized(as_rgb(frame), (tile_y, tile_x))
        time = f"t {t} ({t * spec.env_steps_per_frame / spec.control_hz:.1f} s)"
        caption = f"ep {episode_id}/{dataset.num_frames(episode_id)}, {time}" if k == 0 else time
        write(row[:, k * tile_x : (k + 1) * tile_x], caption, (3, CAPTION_PX - 5), scale=0.36)
    width = row.shape[1]
    drawn = action_strip(dataset, episode_id, times, width, marked=True)
    return np.concatenate([row, drawn, np.full((4, width, 3), 255, dtype=np.uint8)])


def action_strip(
    dataset: EpisodeDataset, episode_id: int, times: list[int], width: int, *, marked: bool = False
) -> np.ndarray:
    """`[height,width,3]` uint8: the actions from the first to the last shown frame of an episode, and a legend.

    Args:
        dataset: The dataset.
        episode_id: The episode.
        times: Indices of the frames that are shown.
        width: Of the strip, px.
        marked: Draw a line where each frame is.
    """
    spec = dataset.spec
    first, last = (t * spec.env_steps_per_frame for t in (times[0], max(times[-1], times[0] + 1)))
    actions = dataset.read_column("actions", episode_id)[first:last]
    marks = [(t - times[0]) / max(times[-1] - times[0], 1) for t in times] if marked else []
    names = spec.action.names or tuple(str(i) for i in range(spec.action.dim))
    if spec.action.dim <= MAX_CURVES:
        return _curves(actions, names, marks, width)
    return _lanes(actions, dataset.statistics.action_mean, names, marks, width)


def resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame `[Y,X,3]` with another `(height, width)`: pixels are doubled when enlarging, averaged when shrinking."""
    import cv2

    how = cv2.INTER_AREA if size[1] < frame.shape[1] else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(frame, (size[1], size[0]), interpolation=how))


def as_rgb(frame: np.ndarray) -> np.ndarray:
    """A frame of one channel or more as `[Y,X,3]`."""
    channels = frame.shape[-1]
    if channels >= 3:
        return np.ascontiguousarray(frame[..., :3])
    return np.repeat(frame[..., :1], 3, axis=-1)


def _scaled(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[n,a]` numbers within -1 and 1, and the largest magnitude of each dimension, `[a]`."""
    top = np.abs(actions).max(axis=0) if len(actions) else np.zeros(actions.shape[1])
    return actions / np.where(top > 0, top, 1.0), top


def _curves(actions: np.ndarray, names: Sequence[str], marks: list[float], width: int) -> np.ndarray:
    """`[CURVE_PX+LEGEND_PX,width,3]` uint8: a curve for each dimension; the grey line is 0."""
    import cv2

    strip = np.full((CURVE_PX, width, 3), 255, dtype=np.uint8)
    scaled, top = _scaled(actions)
    middle = (CURVE_PX - 1) / 2
    _draw_marks(strip, marks)
    cv2.line(strip, (0, round(middle)), (width, round(middle)), (200, 200, 200), 1)
    x = np.linspace(0, width - 1, len(actions)) if len(actions) > 1 else np.array([width / 2])
    for i in range(actions.shape[1]):
        y = middle - scaled[:, i] * (middle - 2)
        points = np.stack([x, y], axis=1).round().astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(strip, [points], False, COLOURS[i], 1, cv2.LINE_AA)
    labels = [f"{name} {number:.3g}" for name, number in zip(names, top, strict=True)]
    return np.concatenate([strip, _legend(labels, width, COLOURS)])


def _lanes(actions: np.ndarray, mean: np.ndarray, names: Sequence[str], marks: list[float], width: int) -> np.ndarray:
    """`[a*LANE_PX+legend,width,3]` uint8: a lane for each dimension, red above its mean, blue below, white at it."""
    beside = actions - mean
    # What a mean in float32 is off by is no motion.
    beside[np.abs(beside) <= 1e-6 * np.abs(mean)] = 0
    scaled, top = _scaled(beside)
    at = np.minimum(np.arange(width) * len(actions) // width, max(len(actions) - 1, 0))
    values = scaled[at].T
    lanes = np.full((*values.shape, 3), 255, dtype=np.uint8)
    fade = (255 * (1 - np.abs(values))).astype(np.uint8)
    lanes[..., 1] = fade
    lanes[..., 2] = np.where(values > 0, fade, 255)
    lanes[..., 0] = np.where(values < 0, fade, 255)
    strip = np.repeat(lanes, LANE_PX, axis=0)
    strip[::LANE_PX] = (strip[::LANE_PX] * 0.93).astype(np.uint8)
    _draw_marks(strip, marks)
    labels = [f"{name} {middle:.3g} +-{number:.2g}" for name, middle, number in zip(names, mean, top, strict=True)]
    return np.concatenate([strip, _legend(labels, width, [_GREY])])


def _draw_marks(strip: np.ndarray, marks: list[float]) -> None:
    """Thin lines where the frames are that are shown above."""
    width = strip.shape[1]
    for mark in marks[1:-1]:
        strip[::2, min(round(mark * (width - 1)), width - 1)] = 150


def _legend(labels: Sequence[str], width: int, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """`[lines*LEGEND_PX,width,3]` uint8: a word for each dimension, over as many lines as it takes."""
    import cv2

    placed: list[tuple[int, int]] = []
    line, x = 0, 4
    for text in labels:
        (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.34, 1)
        if x + wide > width and x > 4:
            line, x = line + 1, 4
        placed.append((line, x))
        x += wide + 12
    box = np.full(((line + 1) * LEGEND_PX, width, 3), 255, dtype=np.uint8)
    for i, (text, (at_line, at_x)) in enumerate(zip(labels, placed, strict=True)):
        place = (at_x, at_line * LEGEND_PX + LEGEND_PX - 4)
        write(box, text, place, scale=0.34, colour=colours[i % len(colours)])
    return box


def write(
    image: np.ndarray, text: str, place: tuple[int, int], *, scale: float, colour: tuple[int, int, int] = (0, 0, 0)
) -> None:
    """Writes into the image; `place` is the left end of the text's base line, pixels."""
    import cv2

    # OpenCV's font knows ASCII alone.
    plain = text.encode("ascii", "replace").decode()
    (wide, _), _ = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    # Too wide for its place: smaller, as far as it can still be read.
    scale *= max(0.7, min(1.0, (image.shape[1] - place[0] - 2) / max(wide, 1)))
    part = np.ascontiguousarray(image)
    cv2.putText(part, plain, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    image[...] = part
