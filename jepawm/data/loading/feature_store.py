"""Features of a frozen encoder beside the episodes: encoded once, and read in place of frames.

```
DATASET/features/KEY/
  store.json                what made the features; see `FeatureKey`
  features-00000.npy        [n,P,D] float16 or float32: the frames of shard 0, in the order of its rows
```
A file appears under its name when it is whole, so an encoding that was killed goes on with the shards that are missing,
and several processes may each take some. KEY is a hash of all that the features depend on: of other weights, another
preprocessing or changed episodes there is no store, and it is never read in place of one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jepawm.data.codecs import FrameError, decode_frame
from jepawm.data.episodes import EpisodeDataset
from jepawm.data.loading.shard_reader import window_arrays
from jepawm.data.loading.windows import window_span
from jepawm.data.shards import TEMP_SUFFIX
from jepawm.data.writer import fsync_path, publish
from jepawm.errors import DataError
from jepawm.types import WindowBatch

FEATURE_FOLDER = "features"
STORE_FILE = "store.json"
FeatureType = Literal["float16", "float32"]


@dataclass(frozen=True)
class FeatureKey:
    """All that stored features depend on.

    Attributes:
        dataset: Fingerprint of the episodes.
        weights_sha256: Fingerprint of the encoder's weights, with the statistics that it normalises by.
        encoder: Settings of the encoder that shape its features: sizes, normalisation, resizing.
        dtype: Number format that features are kept in; it decides what the encoder computes in as well.
        num_patches: `P`.
        latent_dim: `D`.
    """

    dataset: str
    weights_sha256: str
    encoder: dict[str, Any]
    dtype: FeatureType
    num_patches: int
    latent_dim: int

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()

    def disk_bytes(self, num_frames: int) -> int:
        """Size of the features of so many frames."""
        return num_frames * self.num_patches * self.latent_dim * np.dtype(self.dtype).itemsize


def largest_kept_bytes(dataset: EpisodeDataset, like: Mapping[str, Any]) -> int:
    """Bytes of features in the largest store of a dataset that agrees with some parts of a key.

    Args:
        dataset: The episodes.
        like: Parts of a `FeatureKey`, by name.
    """
    wanted, largest = json.loads(json.dumps(dict(like))), 0
    for path in (dataset.path / FEATURE_FOLDER).glob(f"*/{STORE_FILE}"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # A damaged store is no help; the encoding refuses it by name.
            continue
        if isinstance(told, dict) and all(told.get(name) == value for name, value in wanted.items()):
            kept = sum(file.stat().st_size for file in path.parent.glob("features-*.npy"))
            largest = max(largest, kept)
    return largest


class FeatureStore:
    """The stored features of a dataset, whole or still to be filled.

    Args:
        dataset: The episodes.
        key: What the features depend on.

    Attributes:
        dataset: The episodes.
        key: What the features depend on.
        path: The folder.
    """

    def __init__(self, dataset: EpisodeDataset, key: FeatureKey) -> None:
        self.dataset = dataset
        self.key = key
        self.path = dataset.path / FEATURE_FOLDER / key.name

    @property
    def num_frames(self) -> int:
        """Frames of the dataset."""
        return int(self.dataset.num_frames_each.sum())

    @property
    def missing_shards(self) -> list[int]:
        """Numbers of the dataset's shards whose features are not there yet."""
        return [n for n in range(self.dataset.num_shards) if not self.shard_path(n).is_file()]

    def shard_path(self, number: int) -> Path:
        """The file with the features of a shard."""
        return self.path / f"features-{number:05d}.npy"

    def begin(self) -> None:
        """Makes the folder, says what its features are, and checks that the missing ones fit on the disk.

        Raises:
            DataError: Not enough free disk, a folder that cannot be written, or one that says that it holds others.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path}: features cannot be written beside the episodes: {error.strerror}") from error
        missing = self.missing_shards
        frames = sum(self.shard_frames(number) for number in missing)
        needed, free = self.key.disk_bytes(frames), shutil.disk_usage(self.path).free
        if needed > free:
            raise DataError(
                f"{self.path}: features of {frames} frames need {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are "
                "free; take data.features_dtype float16, or put the dataset on a larger disk"
            )
        if (self.path / STORE_FILE).is_file():
            self._check_key()
            return
        # Two processes may do this at once: each writes the same words under a name of its own.
        temporary = self.path / f"{STORE_FILE}.{os.getpid()}{TEMP_SUFFIX}"
        temporary.write_text(json.dumps(asdict(self.key), indent=2) + "\n", encoding="utf-8")
        publish(temporary, self.path / STORE_FILE)

    def write_shard(self, number: int, features_NPD: np.ndarray) -> None:
        """Keeps the features of one shard.

        Args:
            number: Of the shard.
            features_NPD: `[n,P,D]` float, in the order of its frames.

        Raises:
            DataError: Another shape, or numbers that are not finite in the store's format.
        """
        expected = (self.shard_frames(number), self.key.num_patches, self.key.latent_dim)
        if features_NPD.shape != expected:
            raise DataError(f"features of shard {number} have shape {features_NPD.shape}, expected {expected}")
        with np.errstate(over="ignore"):
            kept = features_NPD.astype(self.key.dtype)
        if not np.isfinite(kept).all():
            raise DataError(
                f"{self.dataset.shard_path(number)}: features of its frames are not finite as {self.key.dtype} (the "
                f"largest is {np.abs(features_NPD).max():.3g}); take data.features_dtype float32, or look at the "
                "encoder's weights"
            )
        temporary = self.path / f"{self.shard_path(number).name}.{os.getpid()}{TEMP_SUFFIX}"
        with open(temporary, "wb") as file:
            np.save(file, kept)
        publish(temporary, self.shard_path(number))

    def finish(self) -> None:
        """Removes what killed processes left; call it when no process writes.

        Raises:
            DataError: A shard's features are missing.
        """
        missing = self.missing_shards
        if missing:
            raise DataError(f"{self.path}: features of {len(missing)} of {self.dataset.num_shards} shards are missing")
        for leftover in self.path.glob(f"*{TEMP_SUFFIX}"):
            leftover.unlink()
        fsync_path(self.path)

    def check_whole(self) -> None:
        """Refuses a store that is not there, not whole, or says that its features are others.

        Raises:
            DataError: Says what to run.
        """
        if not (self.path / STORE_FILE).is_file() or self.missing_shards:
            raise DataError(
                f"{self.dataset.path} holds no whole store of features of this encoder (weights "
                f"{self.key.weights_sha256[:12]}..., {self.key.dtype}){self._others()}; make it "
                "with jepawm encode, or train on frames with --data.features encode"
            )
        self._check_key()

    def shard_frames(self, number: int) -> int:
        """Frames of a shard."""
        return sum(self.dataset.num_frames(int(i)) for i in self.dataset.episodes_of_shard(number))

    def frames(self, number: int) -> np.ndarray:
        """Decoded frames of a shard, `[n,Y,X,C]` uint8, in the order of its rows.

        Raises:
            DataError: A frame that cannot be decoded (names file, row and frame).
        """
        spec, shard = self.dataset.spec.pixels, self.dataset.shard(number)
        out = np.empty((self.shard_frames(number), *spec.shape), dtype=np.uint8)
        row = 0
        for chunk in shard.iter_chunks(["frames"]):
            assert chunk.frames is not None
            for at, data in enumerate(chunk.frames):
                try:
                    decode_frame(data, spec.codec, out[row])
                except FrameError as error:
                    raise DataError(
                        f"{shard.path}: row {chunk.row} (episode {chunk.episode_id}), frame {chunk.first_frame + at}: "
                        f"{error}"
                    ) from error
                row += 1
        return out

    def _check_key(self) -> None:
        """Refuses a folder whose `store.json` names other features than its name."""
        path = self.path / STORE_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not valid JSON: {error}; delete this folder, it will be made again") from error
        wanted = json.loads(json.dumps(asdict(self.key)))
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            raise DataError(
                f"{path}: stale: its features come from another "
                + ", ".join(f"{key} ({found.get(key)!r}, expected {wanted[key]!r})" for key in differing)
                + "; delete this folder, and run jepawm encode"
            )

    def _others(self) -> str:
        """Stores of other features that are there, for errors."""
        names = sorted(
            path.parent.name for path in self.path.parent.glob(f"*/{STORE_FILE}") if path.parent != self.path
        )
        return f"; it holds {len(names)} of other weights or settings ({', '.join(names[:3])})" if names else ""


class FeatureReader:
    """Reads windows whose frames are stored features; see `WindowReader`. The other columns are held in memory.

    Args:
        store: A whole store.
        frameskip: Environment steps between two frames of a window.
        num_frames_in_window: `T`.

    Raises:
        DataError: The store is not whole.
    """

    def __init__(self, store: FeatureStore, *, frameskip: int, num_frames_in_window: int) -> None:
        store.check_whole()
        self.store = store
        self.frameskip = frameskip
        self.num_frames_in_window = num_frames_in_window
        dataset = store.dataset
        stride = dataset.spec.frames_per_chunk(frameskip)
        self._span = window_span(stride, num_frames_in_window)
        self._frame_offsets = np.arange(num_frames_in_window) * stride
        self._action_offsets = np.arange(self._span - 1)
        self._chunk_dim = stride * dataset.spec.widths["actions"]
        self._shards = [_mapped(store, number) for number in range(dataset.num_shards)]
        self._columns, self._shard_of, self._first_row, self._first_in_shard = _low_dimensional(dataset)

    def read(self, episode_ids: np.ndarray, starts: np.ndarray) -> WindowBatch:
        """Reads `B` windows.

        Args:
            episode_ids: `[B]` integers.
            starts: `[B]` integers.

        Returns:
            Windows with `features`, and without frames.

        Raises:
            DataError: An unknown episode, or a window outside its episode.
        """
        dataset, key = self.store.dataset, self.store.key
        positions = np.array([dataset.position(i) for i in np.asarray(episode_ids).tolist()], dtype=np.int64)
        episode_ids, starts = window_arrays(episode_ids, starts, self._span, dataset.num_frames_each[positions])
        rows = (self._first_row[positions] + starts)[:, None]
        in_shard = (self._first_in_shard[positions] + starts)[:, None] + self._frame_offsets
        B, T = in_shard.shape
        features = np.empty((B, T, key.num_patches, key.latent_dim), dtype=np.float32)
        shard_of = self._shard_of[positions]
        for number in np.unique(shard_of):
            here = shard_of == number
            features[here] = self._shards[number][in_shard[here]]
        frames = rows + self._frame_offsets
        sim_state = self._columns.get("sim_state")
        return WindowBatch(
            pixels=np.empty((B, T, 0, 0, dataset.spec.pixels.channels), dtype=np.uint8),
            actions=self._columns["actions"][rows + self._action_offsets].reshape(B, T - 1, self._chunk_dim),
            proprio=self._columns["proprio"][frames],
            sim_state=None if sim_state is None else sim_state[frames],
            episode_ids=episode_ids,
            starts=starts,
            features=features,
        )

    def sample(self, num_frames: int, episode_ids: np.ndarray) -> np.ndarray:
        """Features of evenly spaced frames of some episodes.

        Args:
            num_frames: Largest number of frames.
            episode_ids: Episodes to take them from.

        Returns:
            `[n,P,D]` float32.
        """
        dataset = self.store.dataset
        each = [(int(i), frame) for i in episode_ids for frame in range(dataset.num_frames(int(i)))]
        chosen = each[:: -(-len(each) // num_frames)]
        positions = np.array([dataset.position(i) for i, _ in chosen])
        rows = self._first_in_shard[positions] + np.array([frame for _, frame in chosen])
        found = [self._shards[s][r] for s, r in zip(self._shard_of[positions], rows, strict=True)]
        return np.stack(found).astype(np.float32)


def _mapped(store: FeatureStore, number: int) -> np.ndarray:
    path = store.shard_path(number)
    try:
        features = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged features: {error}; delete this file, and run jepawm encode") from error
    expected = (store.shard_frames(number), store.key.num_patches, store.key.latent_dim)
    if features.shape != expected or features.dtype != store.key.dtype:
        raise DataError(
            f"{path}: holds {features.dtype} {features.shape}, expected {store.key.dtype} {expected}; delete this "
            "file, and run jepawm encode"
        )
    # A plain view: np.memmap's own indexing adds Python work to every read.
    return features.view(np.ndarray)


def _low_dimensional(dataset: EpisodeDataset) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Columns of all episodes without their frames.

    Returns:
        Each column, one row a frame in the order of the shards (an episode's last frame has actions of 0, which no
        window reads); and for each episode by its position its shard, its first row, and its first row in the shard.
    """
    episodes = len(dataset)
    shard_of, first_row, first_in_shard = (np.zeros(episodes, dtype=np.int64) for _ in range(3))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in dataset.spec.widths}
    row = shard_began = number = 0
    for shard, chunk in _chunks_by_shard(dataset):
        if shard != number:
            number, shard_began = shard, row
        if chunk.first_frame == 0:
            at = dataset.position(chunk.episode_id)
            shard_of[at], first_row[at], first_in_shard[at] = number, row, row - shard_began
        for name, columns in parts.items():
            values = getattr(chunk, name)
            pad = chunk.num_frames - len(values)
            columns.append(np.pad(values, ((0, pad), (0, 0))) if pad else values)
        row += chunk.num_frames
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}, shard_of, first_row, first_in_shard


def _chunks_by_shard(dataset: EpisodeDataset) -> Iterator[tuple[int, Any]]:
    columns = list(dataset.spec.widths)
    for number in range(dataset.num_shards):
        for chunk in dataset.shard(number).iter_chunks(columns):
            yield number, chunk
