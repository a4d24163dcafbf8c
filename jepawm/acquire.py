"""Where a run's episodes come from: collected, imported, or a dataset that is there already."""

import hashlib
import json
import os
from typing import Any

from jepawm.config import RunConfig, home, to_dict
from jepawm.console import Console
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.errors import ConfigError, DataError
from jepawm.runtime import Runtime
from jepawm.types import VectorSpec


def prepare_dataset(config: RunConfig, runtime: Runtime, console: Console) -> str:
    """The dataset a run trains on: collected, imported, or as given; what exists already is used as it is.

    Returns:
        Path of a complete dataset.
    """
    data = config.data
    path = dataset_path(config)
    if data.source == "dataset":
        return path
    if _is_complete(path):
        console.say(f"episodes   {path} ({'collected' if data.source == 'collect' else 'imported'} earlier)")
        return path
    if data.source == "pusht_zarr":
        return _import_pusht(config, path, console)
    with console.stage("collect", f"{data.num_episodes} episodes of {config.env.id}, policy {data.policy}"):
        with runtime.env_pool(config.env, config.scaling) as pool:
            told = pool.describe()
            spec = DatasetSpec(
                name=_short_name(config.env.id),
                control_hz=told.control_hz,
                pixels=PixelSpec(config.env.image_size, config.env.image_size, 3, data.codec),
                action=told.action,
                proprio=told.proprio,
                sim_state=told.sim_state,
                source={"env": to_dict(config.env), "policy": data.policy, "seed": config.seed},
            )
            with EpisodeWriter(path, spec, resume=True) as writer:
                done = writer.finished_episode_ids
                missing = [episode_id for episode_id in range(data.num_episodes) if episode_id not in done]
                episodes = pool.collect(
                    missing,
                    policy=data.policy,
                    seed=config.seed,
                    env_steps=data.env_steps_per_episode,
                    episodes_per_call=config.scaling.episodes_per_call,
                )
                with console.bar("episodes", data.num_episodes) as advance:
                    for count, episode in enumerate(episodes, start=data.num_episodes - len(missing) + 1):
                        writer.write(episode)
                        advance(count, "")
            for line in pool.log:
                console.say(f"   {line}")
    console.say(f"   {path}")
    return path


def dataset_path(config: RunConfig) -> str:
    """Where the dataset of a configuration lies, or will lie.

    All that the episodes depend on names the folder, so that runs which differ elsewhere share it.

    Raises:
        DataError: The source of an import does not exist.
    """
    data = config.data
    if data.source == "dataset":
        return str(data.path)
    folder = os.path.join(home(), "datasets")
    if data.source == "pusht_zarr":
        source = _pusht_source(config)
        facts = [source, os.path.getsize(source), int(os.path.getmtime(source)), data.num_episodes]
        return os.path.join(folder, f"pusht-human-{_hash([*facts, config.env.image_size])}")
    facts = [to_dict(config.env), config.seed, data.policy, data.num_episodes, data.env_steps_per_episode, data.codec]
    return os.path.join(folder, f"{_short_name(config.env.id)}-{data.policy}-{_hash(facts)}")


def check_fits(config: RunConfig, dataset: EpisodeDataset) -> None:
    """Refuses a dataset that the configuration's model or environment cannot use.

    Raises:
        ConfigError: Frames of another size, or episodes recorded in another environment.
    """
    height, width, _ = dataset.spec.pixels.shape
    size = config.env.image_size
    if (height, width) != (size, size):
        raise ConfigError(
            f"{dataset.path} holds frames of {height}x{width} px, env.image_size is {size}; "
            f"pass --env.image-size {height}"
        )
    recorded = dataset.spec.source.get("env", {}).get("id")
    if recorded is not None and recorded != config.env.id:
        raise ConfigError(
            f"{dataset.path} was recorded in {recorded}, env.id is {config.env.id}; pass --env.id {recorded}"
        )


def check_proprio_fits(config: RunConfig, dataset: EpisodeDataset, proprio: VectorSpec) -> None:
    """Refuses episodes whose proprio is not the environment's, where the model reads it.

    Args:
        config: The run's.
        dataset: The episodes.
        proprio: What the environment gives.

    Raises:
        ConfigError: Other numbers in the episodes than in the environment.
    """
    recorded = dataset.spec.proprio
    if recorded != proprio:
        raise ConfigError(
            f"{dataset.path} holds proprio of {recorded.dim} numbers ({', '.join(recorded.names)}), {config.env.id} "
            f"gives {proprio.dim} ({', '.join(proprio.names)}); a model that reads it (model.proprio.encoding "
            f"'{config.model.proprio.encoding}') could not be evaluated there: pass --model.proprio.encoding none"
        )


def find_dataset(config: RunConfig) -> EpisodeDataset | None:
    """The dataset of a configuration if it is there and whole; never collects or imports."""
    path = dataset_path(config)
    return EpisodeDataset(path) if _is_complete(path) else None


def _pusht_source(config: RunConfig) -> str:
    source = os.path.abspath(str(config.data.path))
    if os.path.isdir(source) and not source.endswith(".zarr"):
        found = sorted(name for name in os.listdir(source) if name.endswith((".zarr", ".zarr.zip")))
        if len(found) == 1:
            source = os.path.join(source, found[0])
    if not os.path.exists(source):
        raise DataError(
            f"the Push-T demonstrations are not at {source}; pass --data.path PATH of pusht_cchi_v7_replay.zarr or its "
            "zip (Diffusion Policy, arXiv 2303.04137, publishes it)"
        )
    return source


def _import_pusht(config: RunConfig, path: str, console: Console) -> str:
    from jepawm.data.importers.pusht_zarr import import_pusht_zarr

    source = _pusht_source(config)
    with console.stage("import", f"Push-T human demonstrations from {source}"):
        with console.bar("episodes", config.data.num_episodes) as advance:
            import_pusht_zarr(
                source,
                path,
                image_size=config.env.image_size,
                max_episodes=config.data.num_episodes or None,
                progress=lambda done, total: advance(done, total=total),
            )
    console.say(f"   {path}")
    return path


def _is_complete(path: str) -> bool:
    try:
        EpisodeDataset(path)
    except DataError:
        return False
    return True


def _short_name(env_id: str) -> str:
    return env_id.rsplit("/", 1)[-1].rsplit(":", 1)[-1].lower()


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
