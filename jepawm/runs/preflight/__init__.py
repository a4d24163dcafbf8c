"""What can be known early is checked early: before Ray starts, before episodes are collected, before training.

Every refusal says which key is wrong, what was found, what was expected, and what to do. Nothing is written.
"""

import os

from jepawm.checkpoints.head_folder import read_head_spec
from jepawm.checkpoints.model_folder import read_spec
from jepawm.config import RunConfig, home, to_dict
from jepawm.config.places import local_path, uri_of
from jepawm.config.subgoals import MacroSubgoalsConfig
from jepawm.config.yaml_io import flatten
from jepawm.data import EpisodeDataset
from jepawm.data.importers import ImportOptions, open_source
from jepawm.device import pick_device
from jepawm.errors import ConfigError
from jepawm.rollout import EnvDescription
from jepawm.runs.directory import check_run_dir
from jepawm.runs.episodes import check_collected, dataset_path, find_complete, find_dataset, source_path
from jepawm.runs.preflight.environment import (
    check_environment,
    check_model_fits,
    check_recordings,
    check_same_environment,
    check_stated_numbers,
)
from jepawm.runs.preflight.episodes import (
    EpisodeLengths,
    check_evaluation_lengths,
    check_frames,
    check_frameskip,
    check_windows,
)
from jepawm.runs.preflight.machine import (
    check_capacity,
    check_disk,
    check_writable,
    disk_needs_of_collection,
    joins_a_cluster,
)
from jepawm.runs.preflight.tasks import check_tasks
from jepawm.runs.preflight.training import check_training
from jepawm.runs.runtime import Runtime
from jepawm.runs.stages import base_run
from jepawm.storage.reading import fetched
from jepawm.storage.store import check_store, open_store

__all__ = [
    "check_as_trained",
    "check_collection",
    "check_dataset_fits",
    "check_evaluation",
    "check_run",
    "check_same_environment",
    "check_subgoals",
]


def check_run(config: RunConfig) -> None:
    """Refuses a run that cannot work, before Ray starts and before anything is written.

    Raises:
        ConfigError: Settings that do not go together or do not fit this machine.
        DataError: A dataset or source that is missing, wrong, or too short.
        EnvironmentFault: An environment that does not exist.
        CheckpointError: An encoder's weights that are missing or another model's, or no model at `train.init_from`.
    """
    _check_device(config)
    _check_store(config)
    check_run_dir(config)
    if isinstance(config.subgoals, MacroSubgoalsConfig):
        raise ConfigError(
            "subgoals.name 'macro' needs a head that is trained on the finished model: leave it out here, then train "
            "one (jepawm train-head --model RUN --head.name macro) and evaluate with it (jepawm evaluate --model RUN "
            "--subgoals.name macro)"
        )
    check_writable(local_path(config.run_dir or home()), "run_dir" if config.run_dir else "$JEPAWM_HOME")
    _check_machine(config, evaluates_while_training=config.evaluation.every_num_train_steps is not None)
    description = check_environment(config.env)
    if description is not None:
        check_stated_numbers(config.data, config.objective, description)
    dataset = _check_source(config)
    if dataset is not None:
        _check_dataset(config, dataset)
        if description is not None:
            check_recordings(config, dataset, description)
    elif config.data.source == "collect":
        _check_lengths(config, EpisodeLengths.planned(config.data, config.seed))
    check_tasks(config, config, dataset, description)
    check_training(config, dataset, dataset_path(config) if dataset is None else str(dataset.path))


def check_collection(config: RunConfig) -> None:
    """Refuses to prepare a dataset that cannot be prepared, before Ray starts and before anything is written.

    Raises:
        ConfigError: Settings that do not fit this machine or the dataset that is there.
        DataError: A dataset or source that is missing or wrong.
        EnvironmentFault: An environment that does not exist.
    """
    _check_machine(config)
    _check_store(config)
    check_environment(config.env)
    dataset = _check_source(config)
    if config.data.source == "collect" and dataset is None:
        path = dataset_path(config)
        check_writable(path, "data.path" if config.data.path else "$JEPAWM_HOME")
        needs = disk_needs_of_collection(config.data, config.env.image_size, path)
        check_disk({"shards": needs["shards"]})


def check_evaluation(config: RunConfig, trained: RunConfig, model_dir: str) -> None:
    """Refuses an evaluation that cannot work, before Ray starts and before anything is written.

    Args:
        config: The model's own configuration, with the evaluation that is wanted.
        trained: The configuration of the run that trained the model.
        model_dir: The model, for errors.

    Raises:
        ConfigError: A setting the model was not trained with, or an environment of another id or other widths.
        DataError: Held-out episodes that are too short.
        EnvironmentFault: An environment that does not exist.
        CheckpointError: No head that makes the subgoals that are asked for.
    """
    _check_device(config)
    check_as_trained(config, trained, model_dir)
    check_same_environment(config, trained, model_dir)
    _check_store(config)
    if config.run_dir:
        check_writable(local_path(config.run_dir), "run_dir")
    _check_machine(config)
    description = check_environment(config.env)
    if description is not None:
        check_model_fits(read_spec(model_dir), description, config.env.id, model_dir)
    check_subgoals(config, model_dir)
    dataset = find_dataset(trained)
    if dataset is not None:
        lengths = EpisodeLengths.of_dataset(dataset, trained.data, trained.seed)
        _check_evaluation_lengths(config, lengths)
    check_tasks(config, trained, dataset, description)


def check_subgoals(config: RunConfig, model_dir: str) -> None:
    """Refuses two levels without a trained high level."""
    if not isinstance(config.subgoals, MacroSubgoalsConfig):
        return
    kind = read_head_spec(model_dir, config.subgoals.head).config.name
    if kind != "macro":
        raise ConfigError(
            f"subgoals.head '{config.subgoals.head}' is a head of kind '{kind}' of {model_dir}, a search over "
            "macro-actions needs one of kind 'macro': jepawm train-head --head.name macro"
        )


def check_as_trained(config: RunConfig, trained: RunConfig, model_dir: str) -> None:
    """Refuses settings that shape a model and are not the model's own; a frozen backbone's file alone may have moved.

    Raises:
        ConfigError: A setting that the model was not trained with.
    """
    asked, fixed = (flatten(to_dict(each)) for each in (config, trained))
    for key in fixed:
        of_model = key.startswith("model.") and key != "model.encoder.weights"
        if (of_model or key in ("data.frameskip", "env.image_size")) and asked[key] != fixed[key]:
            raise ConfigError(f"{key} is {fixed[key]!r} in {model_dir}, which was trained so; leave it out")


def check_dataset_fits(config: RunConfig, dataset: EpisodeDataset, runtime: Runtime) -> None:
    """Refuses episodes that the model, the windows, the evaluation or the environment cannot use; before training.

    Args:
        config: The resolved configuration.
        dataset: The episodes, complete.
        runtime: Makes the environment where recordings are compared with it and preflight did not make it.

    Raises:
        ConfigError: Frames, actions or proprio that do not fit.
        DataError: Episodes that are too short.
    """
    _check_dataset(config, dataset)
    # Collected episodes come from the environment itself.
    if config.data.source != "collect" and config.env.id != "none":
        check_recordings(config, dataset, _describe(config, runtime))
    check_tasks(config, config, dataset, check_environment(config.env))


def _describe(config: RunConfig, runtime: Runtime) -> EnvDescription:
    with runtime.env_pool(config.env, config.scaling) as pool:
        return pool.describe()


def _check_device(config: RunConfig) -> None:
    """Refuses a device that this machine has not; on a cluster the plan of `jepawm.runs.placement` judges it."""
    if config.local or not joins_a_cluster():
        pick_device(config.device)


def _check_store(config: RunConfig) -> None:
    """Refuses a home or run directory at a URI that cannot be written; plain paths are checked elsewhere.

    Raises:
        MissingDependencyError: The package of the provider is not installed.
        StorageError: The store does not answer, or refuses.
    """
    for uri in sorted({uri_of(local_path(place)) or "" for place in (home(), config.run_dir or home())} - {""}):
        check_store(open_store(uri))


def _check_machine(config: RunConfig, *, evaluates_while_training: bool = False) -> None:
    if not config.local and not joins_a_cluster():
        cpus = float(os.cpu_count() or 1)
        check_capacity(config.scaling, cpus, evaluates_while_training=evaluates_while_training)


def _check_source(config: RunConfig) -> EpisodeDataset | None:
    """Refuses a source of episodes that is missing or wrong; the dataset where it is complete already."""
    data = config.data
    if data.source == "dataset":
        return EpisodeDataset(fetched(str(data.path)))
    if data.source == "collect":
        return check_collected(config)
    path = source_path(config)
    converted = find_complete(dataset_path(config))
    if converted is None:
        open_source(path, data.format, ImportOptions(image_size=config.env.image_size))
    return converted


def _check_dataset(config: RunConfig, dataset: EpisodeDataset) -> None:
    check_frames(dataset, config.env)
    check_frameskip(dataset, config.data.frameskip)
    if config.data.statistics == "published" and dataset.spec.source.get("published_statistics") is None:
        raise ConfigError(
            f"data.statistics is 'published', no constants were published with the episodes in {dataset.path}; pass "
            "--data.statistics train_split"
        )
    _check_lengths(config, EpisodeLengths.of_dataset(dataset, config.data, config.seed))


def _check_lengths(config: RunConfig, lengths: EpisodeLengths) -> None:
    for stage in (config, base_run(config)):
        if stage is not None:
            check_windows(stage.data, lengths, stage.train.batch_size)
    _check_evaluation_lengths(config, lengths)


def _check_evaluation_lengths(config: RunConfig, lengths: EpisodeLengths) -> None:
    has_env = config.env.id != "none"
    check_evaluation_lengths(config.evaluation, config.data.frameskip, lengths, has_env=has_env)
