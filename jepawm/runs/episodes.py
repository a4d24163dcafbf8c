"""Where a run's episodes come from: collected, converted, or a dataset that is there already."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from jepawm.config import RunConfig, home, to_dict
from jepawm.console import Console
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.data.importers.base import file_stamp
from jepawm.data.meta import META_FILE, read_meta
from jepawm.data.writer import WriterBusyError, discard_dataset
from jepawm.errors import ConfigError, DataError
from jepawm.rollout import CollectPlan, EnvPool
from jepawm.runs.runtime import Runtime
from jepawm.types import VectorSpec


def prepare_dataset(config: RunConfig, runtime: Runtime, console: Console) -> str:
    """The dataset a run trains on: collected, converted, or as given; what exists already is used as it is.

    Returns:
        Path of a complete dataset.

    Raises:
        ConfigError: The folder to collect into holds more episodes than the run asks for.
        DataError: A source that is missing or wrong; a folder to collect into that holds other episodes.
    """
    data, wanted = config.data, config.data.num_episodes or 0
    path = dataset_path(config)
    if data.source == "dataset":
        return path
    ready = _complete(path)
    if ready is not None and data.source == "convert":
        console.say(f"episodes   {path} (converted earlier)")
        return path
    if data.source == "convert":
        return _convert(config, path, runtime, console)
    # Before any actor starts, and also where nothing is missing.
    _check_same_kind(config, path)
    if ready is not None and len(ready) > wanted:
        raise ConfigError(
            f"{path} holds {len(ready)} episodes, data.num_episodes is {wanted}; use them all with "
            f"--data.source dataset, or collect into another folder"
        )
    if ready is not None and len(ready) == wanted:
        console.say(f"episodes   {path} (collected earlier)")
        return path
    with console.stage("collect", f"{wanted} episodes of {config.env.id}, policy {data.policy}"):
        _collect(config, path, runtime, console)
    console.say(f"   {path}")
    return path


def _collect(config: RunConfig, path: str, runtime: Runtime, console: Console) -> None:
    data = config.data
    with runtime.env_pool(config.env, config.scaling) as pool:
        told = pool.describe()
        spec = DatasetSpec(
            name=_short_name(config.env.id),
            control_hz=told.control_hz,
            pixels=PixelSpec(config.env.image_size, config.env.image_size, 3, data.codec),
            action=told.action,
            proprio=told.proprio,
            sim_state=told.sim_state,
            source=_kind(config),
        )
        is_new = not os.path.exists(path)
        try:
            _fill(config, path, spec, pool, console)
        except Exception:
            # Not one episode could be had: leave no empty folder that looks like a dataset. Who is writing into it
            # by now has a use for it.
            if is_new:
                with suppress(WriterBusyError):
                    discard_dataset(path, only_without_shards=True)
            raise
        for line in pool.log:
            console.say(f"   {line}")


def _fill(config: RunConfig, path: str, spec: DatasetSpec, pool: EnvPool, console: Console) -> None:
    """Collects the episodes that a dataset does not hold yet."""
    data, wanted = config.data, config.data.num_episodes or 0
    with _writer(path, spec, console) as writer:
        # Once more: who was waited for may have collected something else.
        _check_same_kind(config, path)
        done = writer.finished_episode_ids
        missing = [episode_id for episode_id in range(wanted) if episode_id not in done]
        plan = CollectPlan(data.policy, config.seed, data.env_steps_per_episode, data.codec)
        episodes = pool.collect(missing, plan, episodes_per_call=config.scaling.episodes_per_call)
        with console.bar("episodes", wanted) as advance:
            for count, episode in enumerate(episodes, start=wanted - len(missing) + 1):
                writer.write(episode)
                advance(count, "")


def _kind(config: RunConfig) -> dict[str, Any]:
    """What episodes of one dataset have in common."""
    return {
        "env": to_dict(config.env),
        "policy": config.data.policy,
        "seed": config.seed,
        "env_steps": config.data.env_steps_per_episode,
    }


def _check_same_kind(config: RunConfig, path: str) -> None:
    """Episodes that are there, or are added to, must be what the same command would have made at once.

    Raises:
        DataError: The folder's episodes come from another environment, policy, seed or length.
    """
    if not os.path.isfile(os.path.join(path, META_FILE)):
        return
    found = read_meta(Path(path))["source"]
    for key, wanted in json.loads(json.dumps(_kind(config))).items():
        if found.get(key) != wanted:
            raise DataError(
                f"{path}: its episodes were collected with {key} {found.get(key)!r}, these would be with {wanted!r}; "
                "collect into another folder, or use them as they are with --data.source dataset"
            )


def _writer(path: str, spec: DatasetSpec, console: Console) -> EpisodeWriter:
    """A writer of a dataset that another process may be collecting at the moment: then its turn is awaited."""
    try:
        return EpisodeWriter(path, spec, resume=True)
    except WriterBusyError:
        console.say(f"   {path}: another process is collecting these episodes; waiting for it")
        return EpisodeWriter(path, spec, resume=True, wait=True)


def dataset_path(config: RunConfig) -> str:
    """Where the dataset of a configuration lies, or will lie.

    All that the episodes depend on names the folder, so that runs which differ elsewhere share it.

    Raises:
        DataError: The source of a conversion does not exist.
    """
    data = config.data
    if data.source == "dataset" or (data.source == "collect" and data.path is not None):
        return os.path.abspath(str(data.path))
    folder = os.path.join(home(), "datasets")
    if data.source == "convert":
        source = source_path(config)
        stamp = [source, file_stamp(Path(source)), data.num_episodes or 0, data.format, config.env.image_size]
        name = os.path.basename(source).split(".")[0]
        return os.path.join(folder, f"{name}-{_hash(stamp)}")
    facts = [to_dict(config.env), config.seed, data.policy, data.num_episodes, data.env_steps_per_episode, data.codec]
    return os.path.join(folder, f"{_short_name(config.env.id)}-{data.policy}-{_hash(facts)}")


def check_fits(config: RunConfig, dataset: EpisodeDataset) -> None:
    """Refuses a dataset that the configuration's model or environment cannot use.

    Raises:
        ConfigError: No actions, frames of another size, or episodes recorded in another environment.
    """
    if not dataset.spec.action.dim:
        raise ConfigError(
            f"{dataset.path} holds frames without actions (videos): a world model learns what actions do and cannot be "
            "trained on it; such episodes are for pretraining encoders and for heads"
        )
    height, width, _ = dataset.spec.pixels.shape
    size = config.env.image_size
    if (height, width) != (size, size):
        raise ConfigError(
            f"{dataset.path} holds frames of {height}x{width} px, env.image_size is {size}; "
            f"pass --env.image-size {height}"
        )
    env = dataset.spec.source.get("env")
    # Who writes a dataset may write anything into `source`.
    recorded = env.get("id") if isinstance(env, dict) else None
    # Without an environment nothing has to fit: a model may be trained where the recorded one cannot be made.
    if recorded is not None and config.env.id not in (recorded, "none"):
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
    """The dataset of a configuration if it is there and whole; never collects or converts."""
    try:
        return _complete(dataset_path(config))
    except DataError:
        # The name of a converted dataset follows from its source, which may be elsewhere too.
        return None


def source_path(config: RunConfig) -> str:
    """The file or folder that a conversion reads.

    Raises:
        DataError: Nothing is there.
    """
    source = os.path.abspath(str(config.data.path))
    if os.path.isdir(source):
        # A folder around one zarr counts as the zarr.
        found = sorted(name for name in os.listdir(source) if name.endswith((".zarr", ".zarr.zip")))
        if len(found) == 1:
            source = os.path.join(source, found[0])
    if not os.path.exists(source):
        raise DataError(f"there is nothing to convert at {source}; pass --data.path PATH{_hint(config)}")
    return source


def _hint(config: RunConfig) -> str:
    if config.data.format != "pusht-zarr":
        return ""
    return (
        " of pusht_cchi_v7_replay.zarr or its zip, the Push-T demonstrations that Diffusion Policy (arXiv 2303.04137) "
        "publishes"
    )


def _convert(config: RunConfig, path: str, runtime: Runtime, console: Console) -> str:
    path_of_source = source_path(config)
    options = ImportOptions(image_size=config.env.image_size)
    source = open_source(path_of_source, config.data.format, options)
    with console.stage("convert", f"{source.about}: {path_of_source}"):
        with console.bar("episodes", config.data.num_episodes or 0) as advance:
            import_episodes(
                source,
                path,
                max_episodes=config.data.num_episodes or None,
                reader=runtime.reader(),
                progress=lambda done, total: advance(done, total=total),
            )
    console.say(f"   {path}")
    return path


def _complete(path: str) -> EpisodeDataset | None:
    try:
        return EpisodeDataset(path)
    except DataError:
        return None


def _short_name(env_id: str) -> str:
    return env_id.rsplit("/", 1)[-1].rsplit(":", 1)[-1].lower()


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
