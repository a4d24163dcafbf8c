"""What a training needs that is known before it begins: parameters to freeze, a metric to judge by, disk."""

import os
from collections.abc import Mapping

from jepawm.checkpoints.model_folder import check_buildable, model_dir, parameter_sizes, read_spec
from jepawm.config import RunConfig, home
from jepawm.config.places import local_path
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError
from jepawm.runs.preflight.machine import check_disk, disk_needs_of_collection
from jepawm.runs.stages import base_run
from jepawm.training.features import missing_feature_bytes
from jepawm.training.freezing import frozen_names

# A training state holds the weights and AdamW's two moments, in float32; with a moving average, that as well.
_BYTES_PER_PARAMETER = 12
_BYTES_OF_AVERAGE = 4


def check_training(config: RunConfig, dataset: EpisodeDataset | None, dataset_path: str) -> None:
    """Refuses a model that cannot be built, patterns that freeze nothing, and files that do not fit on their disks.

    Args:
        config: The resolved configuration.
        dataset: The episodes, where they are there already.
        dataset_path: Where they will be.

    Raises:
        ConfigError: Says which setting is wrong.
        CheckpointError: Weights that are missing or another model's, or no model at `train.init_from`.
    """
    if config.train.init_from is not None:
        read_spec(model_dir(config.train.init_from))
    checkpoints = 0
    for stage in (config, base_run(config)):
        if stage is None:
            continue
        _check_best_metric(stage)
        sizes = check_buildable(stage.model, image_size=stage.env.image_size, frameskip=stage.data.frameskip)
        frozen_names(sizes, stage.train.freeze)
        checkpoints += stage.train.checkpoints_on_disk * checkpoint_bytes(stage, sizes)
    needs = {"checkpoints": (local_path(config.run_dir or home()), float(checkpoints))}
    if dataset is None and config.data.source == "collect":
        needs |= disk_needs_of_collection(config.data, config.env.image_size, dataset_path)
    num_frames = None if config.data.source != "collect" else config.data.planned_frames
    if config.data.features == "stored" and (dataset is not None or num_frames is not None):
        missing = missing_feature_bytes(
            config.model.encoder, config.env.image_size, config.data.features_dtype, dataset or num_frames or 0
        )
        needs["features"] = (os.path.dirname(os.path.abspath(dataset_path)), float(missing))
    check_disk(needs)


def checkpoint_bytes(config: RunConfig, sizes: Mapping[str, int]) -> int:
    """Size of one checkpoint: weights, moments of the optimizer, and the average of the weights where there is one.

    Frozen parameters have no moments.

    Args:
        config: What is frozen, and whether there is an average.
        sizes: Of each parameter, by name.
    """
    frozen = frozen_names(sizes, config.train.freeze)
    average = 0 if config.optim.ema_decay is None else _BYTES_OF_AVERAGE
    weights = sum(sizes.values())
    still = sum(sizes[name] for name in frozen)
    return weights * (_BYTES_PER_PARAMETER + average) - still * (_BYTES_PER_PARAMETER - 4)


def model_sizes(config: RunConfig, dataset: EpisodeDataset) -> dict[str, int]:
    """Size of each parameter of the model that a run trains on a dataset, by name."""
    return parameter_sizes(
        config.model,
        image_size=config.env.image_size,
        frameskip=config.data.frameskip,
        widths=(dataset.spec.action.dim, dataset.spec.proprio.dim),
    )


def checkpoints_in_words(config: RunConfig, sizes: Mapping[str, int], run_dir: str) -> str:
    """How many checkpoints a training keeps, and how much disk they take at most.

    Args:
        config: The section `train`, and what is frozen.
        sizes: Of each parameter, by name.
        run_dir: Where they lie.
    """
    one, most = checkpoint_bytes(config, sizes), config.train.checkpoints_on_disk
    best = "" if config.train.best_metric is None else f", the best by {config.train.best_metric}"
    return (
        f"every {config.train.checkpoint_every} train steps, the {config.train.num_checkpoints_kept} newest are kept"
        f"{best}: at most {most} x {one / 2**20:.1f} MiB = {most * one / 2**20:.1f} MiB in {run_dir}"
    )


def frozen_in_words(config: RunConfig, sizes: Mapping[str, int]) -> str:
    """Which parameters `train.freeze` leaves as they are, and how many those are."""
    frozen = frozen_names(sizes, config.train.freeze)
    number = sum(sizes[name] for name in frozen)
    return (
        f"{', '.join(config.train.freeze)}: {len(frozen)} tensors, {number:,} of {sum(sizes.values()):,} parameters do "
        "not train"
    )


def _check_best_metric(config: RunConfig) -> None:
    metric = config.train.best_metric
    if metric is None or not metric.startswith(("validation/", "diagnostics/")):
        return
    if config.data.held_out_fraction == 0:
        raise ConfigError(
            f"train.best_metric {metric} is measured on held-out episodes, and data.held_out_fraction is 0; hold some "
            "out, or choose a metric of the training such as train/loss"
        )
    if not metric.startswith("validation/"):
        return
    steps = range(1, config.data.num_frames_in_window) if config.train.prediction_windows else ()
    known = [f"validation/{name}_{k}" for name in ("error", "error_shuffled_actions") for k in steps]
    if metric not in known:
        raise ConfigError(
            f"train.best_metric {metric} is not measured by these settings (data.num_frames_in_window "
            f"{config.data.num_frames_in_window}, train.prediction_windows {config.train.prediction_windows}); there "
            f"are: {', '.join(known) or 'none'}"
        )
