"""What a model takes from the training episodes before its first update, and keeps with its weights."""

import numpy as np
import torch
from jaxtyping import Float

from jepawm.config.data import DataConfig
from jepawm.data import EpisodeDataset
from jepawm.data.loading.feature_store import FeatureReader, FeatureStore
from jepawm.data.statistics import picture_statistics
from jepawm.encoders.base import Encoder, FrameEncoder
from jepawm.encoders.compact import CompactEncoder
from jepawm.errors import ConfigError, DataError
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

_SAMPLED_FRAMES = 8192
# Rows of the least squares that are looked at together.
_BLOCK = 1 << 16


def fit_to_episodes(
    model: WorldModel, dataset: EpisodeDataset, train_ids: np.ndarray, data: DataConfig, store: FeatureStore | None
) -> None:
    """Fixes the mean picture, the scale of a base's features and the map of proprio, where the model has them.

    Every worker does this by itself; the episodes alone decide the numbers.

    Args:
        model: Fresh; changed in place.
        dataset: The episodes.
        train_ids: Those that training sees.
        data: `frameskip`.
        store: Features of the model's frozen encoder, where they are stored.

    Raises:
        ConfigError: A compact encoder without stored features.
        DataError: Frames that are all the same, or proprio that no linear map can be fitted to.
    """
    encoder = model.encoder
    if isinstance(encoder, CompactEncoder):
        if store is None:
            raise ConfigError(
                "model.encoder.name 'compact' trains on stored features of its base; set data.features to stored"
            )
        reader = FeatureReader(store, frameskip=data.frameskip, num_frames_in_window=1)
        features_NF = torch.from_numpy(reader.sample(_SAMPLED_FRAMES, train_ids)).flatten(1).double()
        std_F = features_NF.std(dim=0)
        # A feature that never moves says nothing, whatever it is divided by.
        encoder.set_feature_statistics(features_NF.mean(dim=0), torch.where(std_F > 0, std_F, torch.ones_like(std_F)))
    else:
        _set_mean_picture(encoder, dataset, train_ids)
    if model.fits_proprio:
        fitted = fit_proprio_map(model, dataset, train_ids)
        model.set_proprio_map(torch.from_numpy(fitted).float())


def _set_mean_picture(encoder: Encoder, dataset: EpisodeDataset, train_ids: np.ndarray) -> None:
    for part in encoder.modules():
        if isinstance(part, FrameEncoder) and part.preprocess.normalization == "data":
            found = picture_statistics(dataset, train_ids)
            part.preprocess.set_picture(torch.from_numpy(found.mean_picture).movedim(-1, 0), found.deviation)


def fit_proprio_map(model: WorldModel, dataset: EpisodeDataset, train_ids: np.ndarray) -> Float[np.ndarray, "R+A+1 R"]:
    """The linear map from proprio and chunk to the next proprio that fits the training episodes best.

    All three are normalised with the model's statistics. Computed in float64 from sums over all frames.

    Args:
        model: Its statistics and frameskip.
        dataset: The episodes.
        train_ids: Those that training sees.

    Returns:
        `[R+A+1,R]` float64; the last row is the offset.

    Raises:
        DataError: Fewer chunks than the map has rows.
    """
    stride = dataset.spec.frames_per_chunk(model.frameskip)
    action_mean, action_std, proprio_mean, proprio_std = (
        getattr(model, name).double().cpu().numpy()
        for name in ("action_mean", "action_std", "proprio_mean", "proprio_std")
    )
    rows, columns = model.proprio_dim + model.action_dim + 1, model.proprio_dim
    gram, moment, count = np.zeros((rows, rows)), np.zeros((rows, columns)), 0
    block: list[np.ndarray] = []

    def add() -> None:
        nonlocal count
        values = np.concatenate(block)
        read, following = values[:, :rows], values[:, rows:]
        gram[...] += read.T @ read
        moment[...] += read.T @ following
        count += len(values)
        block.clear()

    for episode_id in np.sort(train_ids).tolist():
        proprio = (dataset.read_column("proprio", episode_id)[::stride] - proprio_mean) / proprio_std
        actions = dataset.read_column("actions", episode_id)[: (len(proprio) - 1) * model.frameskip]
        chunks = (actions.reshape(len(proprio) - 1, -1) - action_mean) / action_std
        block.append(np.concatenate([proprio[:-1], chunks, np.ones((len(chunks), 1)), proprio[1:]], axis=1))
        if sum(len(part) for part in block) >= _BLOCK:
            add()
    if block:
        add()
    if count < rows:
        raise DataError(
            f"{dataset.path}: {count} chunks in the training episodes cannot fit the {rows} rows of the proprio map "
            "(model.proprio.update fit_linear); record more episodes"
        )
    # lstsq, for numbers of proprio that never move leave the sums singular.
    return np.linalg.lstsq(gram, moment, rcond=None)[0]


def stated_statistics(statistics: Statistics, data: DataConfig, dataset: EpisodeDataset) -> Statistics:
    """Statistics with those numbers in their place that the configuration states (`data.action_std` and its like).

    Raises:
        DataError: Another count of numbers than the dataset has dimensions.
    """
    parts = {}
    for name in Statistics.__dataclass_fields__:
        own, stated = getattr(statistics, name), getattr(data, name)
        if stated and len(stated) != len(own):
            raise DataError(
                f"data.{name} states {len(stated)} numbers, the episodes in {dataset.path} have {len(own)} dimensions"
            )
        parts[name] = np.array(stated, dtype=np.float32) if stated else own
    return Statistics(**parts)
