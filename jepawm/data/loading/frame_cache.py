"""A local copy of a dataset, decoded once into memory-mapped arrays: the fastest way to read random windows.

```
ROOT/FINGERPRINT/            or FINGERPRINT-KEEP where only some episodes are kept
  cache.json                 name and fingerprint of the dataset
  episodes.npy               [E,3] int64: episode id, first row, number of frames
  pixels.npy                 [N,Y,X,C] uint8
  actions.npy                [N,a] float32; the row of an episode's last frame is zero and never read
  proprio.npy sim_state.npy  [N,R] float32, [N,S] float64
```
The folder is filled under a temporary name and then renamed, so a folder of the final name is whole. The name
contains the fingerprint, so a changed dataset gets a new cache. `cache_folder` limits the size of all caches
and removes those that nobody uses.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from jepawm.data.codecs import FrameError, decode_frame
from jepawm.data.episodes import EpisodeDataset
from jepawm.data.loading.cache_folder import ABOUT_FILE, CacheFolder, hold
from jepawm.data.loading.shard_reader import window_arrays
from jepawm.data.loading.windows import window_span
from jepawm.data.shards import Chunk
from jepawm.errors import DataError
from jepawm.types import WindowBatch

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class FrameCache:
    """Opens the cache of a dataset, and fills it first if this node has none.

    One process of a node fills it while the others wait for its file lock.

    Args:
        dataset: The dataset.
        root: Folder that holds the caches; `default_cache_root()` by default.
        keep: Episodes to hold, all by default. A subset has a cache of its own.
        num_threads: Threads that decode while filling; the number of CPUs by default.
        progress: Called with (frames done, frames in all) while filling.

    Attributes:
        path: The folder of this cache.
        pixels: `[N,Y,X,C]` uint8, memory-mapped and read-only, as are the next three.
        actions: `[N,a]` float32.
        proprio: `[N,R]` float32.
        sim_state: `[N,S]` float64 or None.
        episode_ids: `[E]` int64, ascending.
        first_row: `[E]` int64, row of each episode's first frame.
        num_frames_each: `[E]` int64.

    Raises:
        DataError: Not enough free disk or room under the limit, an unknown episode in `keep`, a damaged dataset, or a
            damaged cache.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        *,
        root: str | os.PathLike[str] | None = None,
        keep: Sequence[int] | np.ndarray | None = None,
        num_threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.spec = dataset.spec
        chosen = dataset.episode_ids if keep is None else np.unique(np.asarray(keep, dtype=np.int64))
        for episode_id in chosen.tolist():
            dataset.position(episode_id)
        if len(chosen) == 0:
            raise DataError(f"{dataset.path}: there are no episodes to cache")
        key = dataset.fingerprint
        if len(chosen) < len(dataset):
            key += "-" + hashlib.blake2b(np.sort(chosen).tobytes(), digest_size=8).hexdigest()
        folder = CacheFolder(root)
        self.path = folder.root / key
        while True:
            if not self.path.is_dir():
                self._fill_once(folder, dataset, chosen, num_threads or os.cpu_count() or 1, progress)
            try:
                self._held = hold(self.path)
                break
            except FileNotFoundError:
                # Another process made room for its own cache since the last look. A folder that is there is damaged.
                if self.path.is_dir():
                    raise self._damaged(f"no {ABOUT_FILE}") from None
        self._load()

    def _fill_once(
        self,
        folder: CacheFolder,
        dataset: EpisodeDataset,
        chosen: np.ndarray,
        num_threads: int,
        progress: Progress | None,
    ) -> None:
        folder.root.mkdir(parents=True, exist_ok=True)
        lock = folder.lock_to_fill(self.path.name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s: another process of this node is filling the frame cache; waiting for it", self.path)
            lock.acquire()
        try:
            if not self.path.is_dir():
                _fill(dataset, chosen, self.path, num_threads, progress)
        finally:
            lock.release()

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.path}: the frame cache is damaged: {why}; delete this folder, it will be filled again")

    @property
    def nbytes(self) -> int:
        """Size on disk in bytes."""
        return sum(file.stat().st_size for file in self.path.iterdir())

    def _load(self) -> None:
        try:
            episodes = np.load(self.path / "episodes.npy")
            self.pixels = _map(self.path / "pixels.npy")
            self.actions = _map(self.path / "actions.npy")
            self.proprio = _map(self.path / "proprio.npy")
            self.sim_state = _map(self.path / "sim_state.npy") if self.spec.sim_state is not None else None
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        self.episode_ids, self.first_row, self.num_frames_each = (column.copy() for column in episodes.T)


class CacheReader:
    """Reads windows from a `FrameCache`; see `WindowReader`.

    Args:
        cache: The cache.
        frameskip: Environment steps between two frames of a window.
        num_frames_in_window: `T`.
    """

    def __init__(self, cache: FrameCache, *, frameskip: int, num_frames_in_window: int) -> None:
        self.cache = cache
        self.frameskip = frameskip
        self.num_frames_in_window = num_frames_in_window
        self._span = window_span(frameskip, num_frames_in_window)
        self._frame_offsets = np.arange(num_frames_in_window) * frameskip
        self._action_offsets = np.arange(self._span - 1)

    def read(self, episode_ids: np.ndarray, starts: np.ndarray) -> WindowBatch:
        """Reads `B` windows by fancy indexing, without a Python loop.

        Args:
            episode_ids: `[B]` integers.
            starts: `[B]` integers.

        Raises:
            DataError: An episode that is not in the cache, or a window outside its episode.
        """
        cache = self.cache
        wanted = np.asarray(episode_ids, dtype=np.int64)
        position = np.minimum(np.searchsorted(cache.episode_ids, wanted), len(cache.episode_ids) - 1)
        unknown = np.flatnonzero(cache.episode_ids[position] != wanted)
        if len(unknown):
            raise DataError(f"{cache.path}: episode {wanted[unknown[0]]} is not in this frame cache")
        wanted, starts = window_arrays(wanted, starts, self._span, cache.num_frames_each[position])
        first = cache.first_row[position] + starts
        frames = first[:, None] + self._frame_offsets
        actions = cache.actions[first[:, None] + self._action_offsets]
        width = self.frameskip * cache.actions.shape[1]
        return WindowBatch(
            pixels=cache.pixels[frames],
            actions=actions.reshape(len(first), self.num_frames_in_window - 1, width),
            proprio=cache.proprio[frames],
            sim_state=None if cache.sim_state is None else cache.sim_state[frames],
            episode_ids=wanted,
            starts=starts,
        )


def _map(path: Path) -> np.ndarray:
    # A plain view: np.memmap's own indexing adds Python work to every read.
    return np.asarray(np.load(path, mmap_mode="r").view(np.ndarray))


def _fill(dataset: EpisodeDataset, chosen: np.ndarray, path: Path, num_threads: int, progress: Progress | None) -> None:
    ids = np.sort(chosen)
    frames = np.array([dataset.num_frames(i) for i in ids.tolist()], dtype=np.int64)
    first_row = np.cumsum(frames) - frames
    total, spec = int(frames.sum()), dataset.spec
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "pixels": ((total, *spec.pixels.shape), np.uint8),
        "actions": ((total, spec.action.dim), np.float32),
        "proprio": ((total, spec.proprio.dim), np.float32),
    }
    if spec.sim_state is not None:
        shapes["sim_state"] = ((total, spec.sim_state.dim), np.float64)
    needed = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    CacheFolder(path.parent).make_room(needed, str(dataset.path))
    temporary.mkdir()
    try:
        arrays = {name: _create(temporary / f"{name}.npy", *shape) for name, shape in shapes.items()}
        row_of = dict(zip(ids.tolist(), first_row.tolist(), strict=True))
        _decode_all(dataset, ids, row_of, arrays, total, num_threads, progress)
        for array in arrays.values():
            array.flush()
        np.save(temporary / "episodes.npy", np.stack([ids, first_row, frames], axis=1))
        about = {"dataset": spec.name, "fingerprint": dataset.fingerprint, "num_frames": total}
        (temporary / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _create(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # Reserved now, because a disk that fills up under a memory map kills the process without a message.
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
            except OSError as error:
                raise DataError(f"{path}: cannot reserve space for the frame cache: {error.strerror}") from error
    return array


def _decode_all(
    dataset: EpisodeDataset,
    ids: np.ndarray,
    row_of: dict[int, int],
    arrays: dict[str, Any],
    total: int,
    num_threads: int,
    progress: Progress | None,
) -> None:
    codec = dataset.spec.pixels.codec
    # Plain views, because slicing a memmap is slow and these are sliced once per frame.
    plain = {name: array.view(np.ndarray) for name, array in arrays.items()}

    def decode(path: Path, chunk: Chunk) -> int:
        assert chunk.frames is not None
        row = row_of[chunk.episode_id] + chunk.first_frame
        for k in range(chunk.num_frames):
            try:
                decode_frame(chunk.frames[k], codec, plain["pixels"][row + k])
            except FrameError as error:
                frame = chunk.first_frame + k
                raise DataError(
                    f"{path}: row {chunk.row} (episode {chunk.episode_id}), frame {frame}: {error}"
                ) from error
        for name in dataset.spec.widths:
            values = getattr(chunk, name)
            plain[name][row : row + len(values)] = values
        return chunk.num_frames

    done = 0
    pending: set[Future[int]] = set()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for shard, chunk in dataset.iter_chunks(["frames", *dataset.spec.widths], ids):
                pending.add(pool.submit(decode, shard.path, chunk))
                # Bounded: reading that runs far ahead of decoding would hold the dataset in memory.
                if len(pending) >= 4 * num_threads:
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    done += sum(future.result() for future in finished)
                    if progress is not None:
                        progress(done, total)
            done += sum(future.result() for future in pending)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if done != total:
        raise DataError(
            f"{dataset.path}: the index says {total} frames, the shards hold {done}; run `jepawm data check`"
        )
    if progress is not None:
        progress(done, total)
