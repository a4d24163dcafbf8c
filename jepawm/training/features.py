"""Encodes a dataset with a frozen encoder, once; training, diagnostics and heads then read the features."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jepawm.checkpoints.model_folder import load_world_model
from jepawm.config.compact import frozen_encoder
from jepawm.config.data import DataConfig
from jepawm.config.encoder import EncoderConfig, shaping_settings, without_weights
from jepawm.config.yaml_io import from_dict
from jepawm.data import EpisodeDataset
from jepawm.data.loading.feature_store import FeatureKey, FeatureStore, FeatureType, largest_kept_bytes
from jepawm.device import autocast
from jepawm.encoders import Encoder, build_encoder
from jepawm.encoders.frozen import encoder_sha256

_FRAMES_PER_FORWARD = 128


@dataclass(frozen=True)
class EncodeJob:
    """What is encoded, and with which encoder; plain data, which travels between processes.

    Attributes:
        dataset_path: The episodes.
        encoder: Configuration of the encoder, as plain data; one whose frozen part is stored will do.
        image_size: Side of the square frames, pixels.
        dtype: Number format of the features.
        model_dir: Model folder that the encoder is in; None: the encoder's configuration names its weights.
    """

    dataset_path: str
    encoder: dict[str, Any]
    image_size: int
    dtype: FeatureType
    model_dir: str | None = None

    def open(self) -> tuple[FeatureStore, Encoder]:
        """The store of the job, which may be empty, and the encoder that fills it.

        Raises:
            CheckpointError: Weights that are missing, damaged, or of another encoder.
            DataError: No such dataset.
        """
        config = from_dict(EncoderConfig, self.encoder)
        if self.model_dir is not None:
            encoder = load_world_model(self.model_dir)[0].encoder
        else:
            encoder = build_encoder(config, self.image_size)
        return feature_store(encoder, config, EpisodeDataset(self.dataset_path), self.dtype), encoder


def feature_store(encoder: Encoder, config: EncoderConfig, dataset: EpisodeDataset, dtype: FeatureType) -> FeatureStore:
    """The store of an encoder's features of a dataset, whether or not it is filled.

    Args:
        encoder: The encoder, or one whose frozen part is stored (`Encoder.storable`).
        config: Its configuration.
        dataset: The episodes.
        dtype: Number format of the features.

    Raises:
        CheckpointError: Weights that are read late are missing or damaged.
    """
    stored = encoder.storable
    key = FeatureKey(
        dataset=dataset.fingerprint,
        weights_sha256=encoder_sha256(stored),
        encoder=shaping_settings(frozen_encoder(config)),
        dtype=dtype,
        num_patches=stored.num_patches,
        latent_dim=stored.latent_dim,
    )
    return FeatureStore(dataset, key)


def missing_feature_bytes(
    config: EncoderConfig, image_size: int, dtype: FeatureType, episodes: EpisodeDataset | int
) -> int:
    """Disk that the features of some episodes still need, bytes.

    The weights are not read, so a store of the same encoder with other weights counts as the one that is needed.

    Args:
        config: The encoder, or one whose frozen part is stored.
        image_size: Side of the square frames, pixels.
        dtype: Number format of the features.
        episodes: The dataset, or the number of frames that it will have.
    """
    stored = without_weights(frozen_encoder(config))
    with torch.device("meta"):
        encoder = build_encoder(stored, image_size)
    shape: dict[str, Any] = {
        "encoder": shaping_settings(stored),
        "dtype": dtype,
        "num_patches": encoder.num_patches,
        "latent_dim": encoder.latent_dim,
    }
    key = FeatureKey(dataset="", weights_sha256="", **shape)
    if isinstance(episodes, int):
        return key.disk_bytes(episodes)
    whole = key.disk_bytes(int(episodes.num_frames_each.sum()))
    return max(0, whole - largest_kept_bytes(episodes, shape))


def stored_features(
    encoder: Encoder, config: EncoderConfig, dataset: EpisodeDataset, data: DataConfig
) -> FeatureStore | None:
    """The store that training reads, which must be whole; None where frames are encoded.

    Raises:
        DataError: The store is missing, not whole or stale.
    """
    if data.features == "encode":
        return None
    store = feature_store(encoder, config, dataset, data.features_dtype)
    store.check_whole()
    return store


def encode_shards(store: FeatureStore, encoder: Encoder, numbers: Iterable[int], device: torch.device) -> Iterator[int]:
    """Fills some shards of a store.

    Args:
        store: Begun.
        encoder: The encoder whose frozen part is stored.
        numbers: Shards of the dataset.
        device: Where it computes.

    Yields:
        Frames of each shard, once its features are kept.
    """
    stored = encoder.storable.to(device).eval()
    for number in numbers:
        store.write_shard(number, encode_frames(stored, store.frames(number), store.key.dtype, device))
        yield store.shard_frames(number)


@torch.inference_mode()
def encode_frames(encoder: Encoder, frames_NYXC: np.ndarray, dtype: FeatureType, device: torch.device) -> np.ndarray:
    """Features of frames.

    Args:
        encoder: In evaluation mode, on the device.
        frames_NYXC: `[N,Y,X,C]` uint8.
        dtype: float32 computes in float32; float16 where the device is fast at it in bfloat16.
        device: Where it computes.

    Returns:
        `[N,P,D]` float32.
    """
    parts = []
    for at in range(0, len(frames_NYXC), _FRAMES_PER_FORWARD):
        pixels = torch.from_numpy(frames_NYXC[at : at + _FRAMES_PER_FORWARD]).to(device).movedim(-1, 1)
        with _precision(dtype, device):
            parts.append(encoder(pixels[:, None])[:, 0].float().cpu().numpy())
    return np.concatenate(parts)


def _precision(dtype: FeatureType, device: torch.device) -> AbstractContextManager[object]:
    return autocast("float32" if dtype == "float32" else "auto", device)
