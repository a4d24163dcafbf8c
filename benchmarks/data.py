"""Window reads per second and core: each layout against a plain memory-mapped array, which is the limit.

    python benchmarks/data.py [--output benchmarks/results/data.json] [--seconds 2]

Everything runs in one process and one thread, on CPU time, with warm file caches; the files are written to a
temporary folder first. Two kinds of frames at 64 px and 224 px: `flat` as a simulator draws them (a dot and a
wall), and `noisy` like a camera (a smooth picture plus sensor noise). Windows of 4 frames at frameskip 5, in
random order. Shards are read once with the usual cache of row groups and once without any, as where a dataset
is far larger than memory.

Then JPEG frames of 224 px at a smaller size, where a model's image is smaller: libjpeg's scaled decoding (its inverse
transform gives 1/2, 1/4 or 1/8 of the size; OpenCV's IMREAD_REDUCED, on libjpeg-turbo), and frames that were stored at
half the size. Each takes turns with decoding the whole frame. Entropy decoding is the same at every scale, so scaled
decoding alone saves little; the difference is of the scaled frame from the whole one resized (area), in grey levels.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.pairs import paired_ratio
from jepawm.data import (
    CacheReader,
    DatasetSpec,
    EpisodeDataset,
    EpisodeWriter,
    FrameCache,
    PixelSpec,
    ShardReader,
    WindowIndex,
    WindowSampler,
)
from jepawm.data.codecs import encode_frames
from jepawm.evaluation.manifest import manifest
from jepawm.types import ActionSpec, Episode, VectorSpec, WindowBatch

FRAMESKIP, FRAMES, BATCH = 5, 4, 32
EPISODE_FRAMES = 200
CASES = (("flat", 64, 60), ("noisy", 64, 60), ("flat", 224, 20), ("noisy", 224, 20))


def flat_frames(size: int, rng: np.random.Generator) -> np.ndarray:
    """A dot that wanders past a wall: `[F,size,size,3]` uint8."""
    import cv2

    pixels = np.zeros((EPISODE_FRAMES, size, size, 3), dtype=np.uint8)
    pixels[:, :, size // 2 : size // 2 + max(2, size // 20)] = (0, 0, 255)
    centre = np.full(2, size / 4)
    for frame in pixels:
        centre = np.clip(centre + rng.normal(0, size / 40, 2), size / 20, size * 0.95)
        place = (int(centre[0] * 16), int(centre[1] * 16))
        cv2.circle(frame, place, size * 16 // 25, (255, 60, 60), -1, cv2.LINE_AA, shift=4)
    return pixels


def noisy_frames(size: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth picture that shifts, under sensor noise: `[F,size,size,3]` uint8."""
    import cv2

    coarse = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = rng.normal(0, 3, (8, size, size, 3)).astype(np.int16)
    frames = [np.roll(picture, t, axis=1) + noise[t % 8] for t in range(EPISODE_FRAMES)]
    return np.asarray(np.clip(np.stack(frames), 0, 255), dtype=np.uint8)


def make_episodes(kind: str, size: int, count: int) -> list[Episode]:
    """Episodes of one kind; the vectors are noise."""
    draw = flat_frames if kind == "flat" else noisy_frames
    episodes = []
    for number in range(count):
        rng = np.random.default_rng([size, number])
        vectors = rng.normal(size=(EPISODE_FRAMES, 4)).astype(np.float32)
        episodes.append(Episode(number, draw(size, rng), vectors[1:, :2].copy(), vectors[:, 2:].copy()))
    return episodes


def windows_per_cpu_second(read: Callable[[np.ndarray, np.ndarray], Any], index: WindowIndex, seconds: float) -> float:
    """Reads random batches for a while and counts CPU time, so that a busy neighbour does not show."""
    sampler = WindowSampler(len(index), BATCH, seed=0)
    read(*index.locate(sampler.ids(0)))
    begin, windows, step = time.process_time(), 0, 0
    while time.process_time() - begin < seconds:
        read(*index.locate(sampler.ids(step)))
        windows, step = windows + BATCH, step + 1
    return windows / (time.process_time() - begin)


def plain_reader(folder: Path, episodes: list[Episode]) -> Callable[[np.ndarray, np.ndarray], WindowBatch]:
    """The limit: the fewest lines of NumPy that give the same batch, for episodes of equal length."""
    np.save(folder / "plain.npy", np.concatenate([e.pixels for e in episodes]))
    pixels = np.load(folder / "plain.npy", mmap_mode="r").view(np.ndarray)
    actions = np.concatenate([np.pad(e.actions, ((0, 1), (0, 0))) for e in episodes])
    proprio = np.concatenate([e.proprio for e in episodes])
    offsets, steps = np.arange(FRAMES) * FRAMESKIP, np.arange((FRAMES - 1) * FRAMESKIP)

    def read(ids: np.ndarray, starts: np.ndarray) -> WindowBatch:
        first = (ids * EPISODE_FRAMES + starts)[:, None]
        chunks = actions[first + steps].reshape(len(ids), FRAMES - 1, -1)
        return WindowBatch(pixels[first + offsets], chunks, proprio[first + offsets], None, ids, starts)

    return read


def measure(kind: str, size: int, count: int, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """All layouts for one kind of frames."""
    episodes = make_episodes(kind, size, count)
    frames = count * EPISODE_FRAMES
    bounds = ((-10.0, -10.0), (10.0, 10.0))
    spec = DatasetSpec("bench", 10.0, PixelSpec(size, size), ActionSpec(2, *bounds), VectorSpec(2))
    options = {"frameskip": FRAMESKIP, "num_frames_in_window": FRAMES}
    index = WindowIndex(range(count), [EPISODE_FRAMES] * count, **options)
    limit = windows_per_cpu_second(plain_reader(folder, episodes), index, seconds)
    rows: list[dict[str, Any]] = []
    rows.append({"layout": "plain memory map (limit)", "windows_per_s": limit, "bytes_per_frame": size * size * 3})
    for codec in ("zstd", "jpeg", "png", "raw"):
        with EpisodeWriter(folder / f"warm-{codec}", spec, codec=codec) as writer:
            writer.write(episodes[0])  # imports and first calls are no part of the figure
        begin = time.process_time()
        with EpisodeWriter(folder / codec, spec, codec=codec) as writer:
            for episode in episodes:
                writer.write(episode)
        write_s = time.process_time() - begin
        dataset = EpisodeDataset(folder / codec)
        size_on_disk = sum(dataset.shard_path(n).stat().st_size for n in range(dataset.num_shards))
        for name, cache_bytes in (("", 64 * 2**20), (", no row-group cache", 0)):
            reader = ShardReader(dataset, **options, cache_bytes=cache_bytes)
            rows.append(
                {
                    "layout": f"{codec} shards{name}",
                    "windows_per_s": windows_per_cpu_second(reader.read, index, seconds),
                    "bytes_per_frame": size_on_disk / frames,
                    "frames_written_per_s": frames / write_s,
                }
            )
        if codec == "zstd":
            begin = time.process_time()
            cache = FrameCache(dataset, root=folder / "cache", num_threads=1)
            fill_s = time.process_time() - begin
            rate = windows_per_cpu_second(CacheReader(cache, **options).read, index, seconds)
            rows.append(
                {
                    "layout": "frame cache",
                    "windows_per_s": rate,
                    "bytes_per_frame": cache.nbytes / frames,
                    "frames_written_per_s": frames / fill_s,
                }
            )
    for row in rows:
        row |= {"frames": kind, "size_px": size, "share_of_limit": row["windows_per_s"] / limit}
    return rows


def measure_scaled_jpeg(rounds: int) -> list[dict[str, Any]]:
    """Decoding 224 px frames whole against decoding them smaller, in turn."""
    import cv2

    episode = noisy_frames(224, np.random.default_rng(0))[::10]
    whole = encode_frames(episode, "jpeg")
    half = encode_frames(np.stack([cv2.resize(f, (112, 112), interpolation=cv2.INTER_AREA) for f in episode]), "jpeg")
    reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}

    def decode(frames: list[bytes], flag: int) -> list[Any]:
        return [cv2.imdecode(np.frombuffer(frame, np.uint8), flag) for frame in frames]

    def row(what: str, frames: list[bytes], flag: int) -> dict[str, Any]:
        pair = paired_ratio(lambda: decode(frames, flag), lambda: decode(whole, cv2.IMREAD_COLOR), rounds, "whole")
        return {"what": what, "bytes_per_frame": sum(map(len, frames)) / len(frames), **pair}

    rows = [row("stored at 112 px", half, cv2.IMREAD_COLOR)]
    full = decode(whole, cv2.IMREAD_COLOR)
    for scale, flag in reduced.items():
        side = 224 // scale
        resized = np.stack([cv2.resize(f, (side, side), interpolation=cv2.INTER_AREA) for f in full]).astype(float)
        apart = np.abs(np.stack(decode(whole, flag)) - resized)
        found = {"mean_difference": float(apart.mean()), "largest_difference": float(apart.max())}
        rows.append({**row(f"decoded at 1/{scale}", whole, flag), **found})
    return rows


def main() -> None:
    """Runs every case, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "data.json")
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds per figure")
    arguments = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    rows: list[dict[str, Any]] = []
    print(f"{'frames':<12}{'layout':<34}{'windows/s':>12}{'of limit':>10}{'KiB/frame':>11}{'written/s':>11}")
    for kind, size, count in CASES:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(kind, size, count, arguments.seconds, Path(folder)):
                rows.append(row)
                written = f"{row['frames_written_per_s']:,.0f}" if "frames_written_per_s" in row else ""
                print(
                    f"{kind + ' ' + str(size):<12}{row['layout']:<34}{row['windows_per_s']:>12,.0f}"
                    f"{row['share_of_limit']:>10.1%}{row['bytes_per_frame'] / 1024:>11.2f}{written:>11}"
                )
    scaled = measure_scaled_jpeg(max(4, round(20 * arguments.seconds)))
    for row in scaled:
        apart = f", {row['mean_difference']:.2f} grey levels apart" if "mean_difference" in row else ""
        print(f"224 px JPEG, {row['what']}: {row['cpu_ratio']:.2f} times as fast (processor time){apart}")
    results = {
        **manifest(command="python benchmarks/data.py"),
        "what": "windows per CPU second on one core; 4 frames, frameskip 5, batches of 32",
        "scaled_jpeg": scaled,
        "rows": [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
