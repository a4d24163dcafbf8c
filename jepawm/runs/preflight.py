"""What can be known early is checked early: before Ray starts, before episodes are collected, before training.

Every refusal says which key is wrong, what was found, what was expected, and what to do.
"""

import os
import shutil
from pathlib import Path

import numpy as np

from jepawm.checkpoints.model_folder import check_buildable
from jepawm.config import DataConfig, EnvConfig, EvaluationConfig, RunConfig, ScalingConfig, home
from jepawm.data import EpisodeDataset
from jepawm.data.importers import ImportOptions, open_source
from jepawm.data.loading.frame_cache import default_cache_root
from jepawm.data.loading.split import Split
from jepawm.device import pick_device
from jepawm.errors import ConfigError, DataError
from jepawm.rollout import EnvDescription
from jepawm.rollout.make import find_env
from jepawm.runs.episodes import check_fits, check_proprio_fits, dataset_path, source_path
from jepawm.runs.runtime import Runtime
from jepawm.types import ActionSpec

# What a training worker and an environment actor claim of Ray's logical CPUs; see `jepawm.distributed`.
CPUS_OF_WORKER = 0.5
CPUS_OF_ENV_ACTOR = 0.1
# Episodes whose actions are compared with the environment's bounds.
EPISODES_LOOKED_AT = 200
# Recorded actions may leave the environment's bounds by this share of their width, and this share of them may do so.
MARGIN = 0.25
SHARE_OUTSIDE = 0.01
# Compressed shards and checkpoints, as a share of the decoded frames.
SHARDS_OVER_FRAMES = 0.2


def check_run(config: RunConfig, *, trains: bool = True) -> None:
    """Refuses a run that cannot work, before Ray starts and before anything is written.

    Args:
        config: The resolved configuration.
        trains: Off: episodes alone are prepared.

    Raises:
        ConfigError: Settings that do not go together or do not fit this machine.
        DataError: A dataset or source that is missing, wrong, or too short.
        EnvironmentFault: An environment that does not exist.
        CheckpointError: An encoder's weights that are missing or another model's.
    """
    if config.env.id != "none":
        check_environment(config.env)
    if trains:
        pick_device(config.device)
    if not config.local and not _joins_a_cluster():
        check_capacity(config.scaling, float(os.cpu_count() or 1))
    _check_source(config, trains=trains)
    if trains:
        check_buildable(config.model, image_size=config.env.image_size, frameskip=config.data.frameskip)
        _check_writable(config.run_dir or home(), "run_dir" if config.run_dir else "$JEPAWM_HOME")


def check_environment(env: EnvConfig) -> None:
    """Refuses an id, module or class that does not exist; the environment is not made.

    Raises:
        EnvironmentFault: Says what was looked for.
    """
    if env.id != "none":
        find_env(env.id)


def check_capacity(scaling: ScalingConfig, num_cpus: float) -> None:
    """Refuses more training workers or environment actors than the CPUs hold, with the sums.

    Args:
        scaling: Workers and actors.
        num_cpus: Logical CPUs of the machine or cluster.

    Raises:
        ConfigError: Names what is asked for, what each takes, what there is, and how many would fit.
    """
    for key, count, claim in (
        ("scaling.num_workers", scaling.num_workers, CPUS_OF_WORKER),
        ("scaling.num_env_actors", scaling.num_env_actors, CPUS_OF_ENV_ACTOR),
    ):
        if count * claim > num_cpus:
            raise ConfigError(
                f"{key} is {count}: {count} workers x {claim:g} CPU = {count * claim:g} CPUs, there are {num_cpus:g}; "
                f"at most {int(num_cpus / claim)} fit"
            )


def check_world(config: RunConfig, trained: RunConfig, model_dir: str) -> None:
    """Refuses to judge a model in another environment than it was trained for, unless the configuration means it.

    Raises:
        ConfigError: Names both environments and the flag that allows it.
    """
    own, other = trained.env.id, config.env.id
    if "none" in (own, other) or _same_environment(own, other) or config.evaluation.allow_other_env:
        return
    raise ConfigError(
        f"{model_dir} was trained in {own}, env.id is {other}: its actions are scaled with the statistics of another "
        "world; if that is what you want to know, pass --evaluation.allow-other-env"
    )


def check_dataset_fits(config: RunConfig, dataset: EpisodeDataset, runtime: Runtime) -> None:
    """Refuses a dataset that the configuration's model, windows, goals or environment cannot use; before training.

    Args:
        config: The resolved configuration.
        dataset: The episodes.
        runtime: Makes the environment, where recordings must be compared with it.

    Raises:
        ConfigError: Frames, actions or proprio that do not fit.
        DataError: Episodes that are too short.
    """
    check_dataset(config, dataset)
    if config.data.source == "collect" or config.env.id == "none":
        # Collected episodes come from the environment itself.
        return
    with runtime.env_pool(config.env, config.scaling) as pool:
        description = pool.describe()
    _check_actions(config, dataset, description)
    if config.model.proprio.encoding != "none":
        check_proprio_fits(config, dataset, description.proprio)


def check_dataset(config: RunConfig, dataset: EpisodeDataset) -> None:
    """Refuses a dataset that the model or the windows cannot use, without making an environment."""
    check_fits(config, dataset)
    lengths = {int(episode_id): dataset.num_frames(int(episode_id)) for episode_id in dataset.episode_ids}
    split = Split.of(dataset, config.data.held_out_fraction, config.seed)
    held_out = [lengths[int(episode_id)] for episode_id in split.held_out]
    _check_windows(config.data, max((lengths[int(i)] for i in split.train), default=0), str(dataset.path))
    if held_out:
        _check_horizon(config.evaluation, config.data.frameskip, max(held_out), len(held_out))
    if config.evaluation.goal_source == "held_out" and config.env.id != "none":
        _check_goal_offset(config.evaluation, config.data.frameskip, max(held_out, default=0), len(held_out))


# -- the parts -------------------------------------------------------------------------------------------------------


def _check_source(config: RunConfig, *, trains: bool) -> None:
    data = config.data
    if data.source == "dataset":
        dataset = EpisodeDataset(str(data.path))
        if trains:
            check_dataset(config, dataset)
    elif data.source == "convert":
        open_source(source_path(config), data.format, ImportOptions(image_size=config.env.image_size))
    else:
        _check_disk(config)
        if trains and data.held_out_fraction > 0:
            frames = data.env_steps_per_episode + 1
            _check_horizon(config.evaluation, data.frameskip, frames, None)
            if config.evaluation.goal_source == "held_out":
                _check_goal_offset(config.evaluation, data.frameskip, frames, None)


def _check_windows(data: DataConfig, longest: int, path: str) -> None:
    needed = data.frameskip * (data.num_frames_in_window - 1) + 1
    if longest < needed:
        raise DataError(
            f"{path}: a window of data.num_frames_in_window {data.num_frames_in_window} frames, data.frameskip "
            f"{data.frameskip} env_steps apart, needs episodes of {needed} frames; the longest training episode has "
            f"{longest}; lower one of them"
        )


def _check_horizon(evaluation: EvaluationConfig, frameskip: int, longest: int, count: int | None) -> None:
    needed = evaluation.prediction_horizon * frameskip + 1
    if longest < needed:
        fits = (longest - 1) // frameskip
        which = "the episodes to collect have" if count is None else f"the longest of {count} has"
        raise DataError(
            f"evaluation.prediction_horizon {evaluation.prediction_horizon} needs held-out episodes of {needed} "
            f"frames, {which} {longest}; lower it"
            + (f" (at most {fits} fits)" if fits else ", or lower data.frameskip")
            + ", or raise data.env_steps_per_episode"
        )


def _check_goal_offset(evaluation: EvaluationConfig, frameskip: int, longest: int, count: int | None) -> None:
    needed = evaluation.goal_offset * frameskip + 1
    if longest < needed:
        which = "the episodes to collect have" if count is None else f"the longest of {count} held-out ones has"
        raise DataError(
            f"evaluation.goal_offset {evaluation.goal_offset} asks for goals {needed - 1} env_steps after the start; "
            f"{which} {longest} frames; lower it or raise data.held_out_fraction"
        )


def _check_actions(config: RunConfig, dataset: EpisodeDataset, description: EnvDescription) -> None:
    """Compares recorded actions with the environment's: their number, and whether they stay near its bounds."""
    recorded, wanted = dataset.spec.action, description.action
    if recorded.dim != wanted.dim:
        raise ConfigError(
            f"{dataset.path} holds actions of {recorded.dim} numbers ({', '.join(recorded.names)}), {config.env.id} "
            f"takes {wanted.dim} ({', '.join(wanted.names)}); env.id must be the environment of the recordings, or none"
        )
    if config.data.allow_actions_out_of_bounds:
        return
    ids = dataset.episode_ids[:: max(1, len(dataset) // EPISODES_LOOKED_AT)]
    actions = np.concatenate([dataset.read_column("actions", int(episode_id)) for episode_id in ids])
    far = [number for number in range(wanted.dim) if _is_far_outside(actions[:, number], wanted, number)]
    if far:
        names = recorded.names or tuple(f"action[{number}]" for number in range(recorded.dim))
        ranges = "; ".join(
            f"{names[number]} from {actions[:, number].min():.3g} to {actions[:, number].max():.3g}, the environment "
            f"takes {wanted.low[number]:.3g} to {wanted.high[number]:.3g}"
            for number in far
        )
        raise ConfigError(
            f"{dataset.path}: recorded actions lie far outside the bounds of {config.env.id} ({ranges}): another "
            "unit, or another robot; if they are right, pass --data.allow-actions-out-of-bounds"
        )


def _is_far_outside(values: np.ndarray, spec: ActionSpec, number: int) -> bool:
    low, high = spec.low[number], spec.high[number]
    # A dimension that is bounded on one side only has no width to compare with.
    margin = MARGIN * (high - low) if np.isfinite(high - low) else np.inf
    outside = (values < low - margin) | (values > high + margin)
    return bool(outside.mean() > SHARE_OUTSIDE)


def _check_writable(folder: str, key: str) -> None:
    place = _nearest(folder)
    if not os.access(place, os.W_OK):
        raise ConfigError(f"{key}: {place} cannot be written to; choose another with --run-dir or $JEPAWM_HOME")


def _check_disk(config: RunConfig) -> None:
    """Refuses a collection whose shards and frame cache cannot fit, with the sums."""
    data, size = config.data, config.env.image_size
    frames = float(data.num_episodes or 0) * (data.env_steps_per_episode + 1) * size * size * 3
    if os.path.exists(dataset_path(config)):
        return
    caches = frames if data.loader in ("auto", "cache") and frames <= data.cache_limit_gib * 2**30 else 0.0
    places = {_nearest(dataset_path(config)): SHARDS_OVER_FRAMES * frames}
    cache = _nearest(str(default_cache_root()))
    if os.stat(cache).st_dev == os.stat(next(iter(places))).st_dev:
        cache = next(iter(places))
    places[cache] = places.get(cache, 0.0) + caches
    for place, needed in places.items():
        free = shutil.disk_usage(place).free
        if needed > free:
            raise ConfigError(
                f"data.num_episodes {data.num_episodes}: about {needed / 2**30:.1f} GiB are needed below {place} "
                f"(shards {SHARDS_OVER_FRAMES * frames / 2**30:.1f}, decoded frames {caches / 2**30:.1f}), "
                f"{free / 2**30:.1f} are free; collect fewer episodes, or choose another place with $JEPAWM_HOME and "
                "$JEPAWM_CACHE"
            )


def _nearest(path: str) -> str:
    """The path, or the closest folder above it that exists."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return str(place)


def _same_environment(one: str, other: str) -> bool:
    return one.rpartition(":")[2] == other.rpartition(":")[2]


def _joins_a_cluster() -> bool:
    """Whether Ray is one that runs already: then it is not this machine's CPUs that count."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))
