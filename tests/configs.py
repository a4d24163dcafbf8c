"""Slices of a run's configuration, as the rooms below `runs` take them."""

from typing import Any

import numpy as np

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import RunConfig, TrainConfig, to_dict
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split
from jepawm.training.run import model_spec
from jepawm.types import ActionSpec, Statistics


def few_steps(num_train_steps: int, **changes: Any) -> TrainConfig:
    """A short training in float32: one checkpoint and one look at held-out windows, both at its end."""
    settings = {
        "num_train_steps": num_train_steps,
        "batch_size": 8,
        "precision": "float32",
        "checkpoint_every": num_train_steps,
        "log_every": 1,
        "diagnostics_every": num_train_steps,
        "diagnostics_windows": 16,
    }
    return TrainConfig(**{**settings, **changes})


def spec_of(config: RunConfig, statistics: Statistics, action: ActionSpec) -> ModelSpec:
    """The specification of a configuration's model."""
    return ModelSpec(
        model=config.model,
        image_size=config.env.image_size,
        frameskip=config.data.frameskip,
        statistics=statistics,
        action=action,
        run=to_dict(config),
    )


def unit_spec(config: RunConfig, action: ActionSpec, proprio_dim: int = 2) -> ModelSpec:
    """The same with mean 0 and deviation 1 of actions and proprio."""
    zeros, ones = np.zeros(action.dim, np.float32), np.ones(action.dim, np.float32)
    wide = np.zeros(proprio_dim, np.float32), np.ones(proprio_dim, np.float32)
    return spec_of(config, Statistics(zeros, ones, *wide), action)


def split_of(config: RunConfig, dataset: EpisodeDataset) -> Split:
    """The split of a run."""
    return Split.of(dataset, config.data.held_out_fraction, config.seed)


def trained_spec(config: RunConfig, dataset: EpisodeDataset) -> ModelSpec:
    """The specification of the model that a run trains on a dataset."""
    return model_spec(config.training_plan(), dataset, split_of(config, dataset))
