"""Where a run's episodes come from: collected, converted, or a dataset that is there already."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from jepawm.config import RunConfig, to_dict
from jepawm.config.places import datasets_dir, is_uri, local_path
from jepawm.console import Console
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.data.importers.base import file_stamp
from jepawm.data.meta import META_FILE, read_meta
from jepawm.data.writer import WriterBusyError, discard_dataset
from jepawm.errors import ConfigError, DataError
from jepawm.rollout import CollectPlan, EnvPool
from jepawm.runs.hosts import environment_hosts
from jepawm.runs.runtime import Runtime
from jepawm.shared_folders import told_if_gone
from jepawm.storage.holding import held
from jepawm.storage.reading import fetched


def prepare_dataset(config: RunConfig, runtime: Runtime, console: Console) -> str:
    """Collects or converts the dataset a run trains on, unless it exists already.

    Args:
        config: The resolved configuration.
        runtime: Where environments and importers work.
        console: Where progress is shown.

    Returns:
        Path of a complete dataset.

    Raises:
        ConfigError: The folder to collect into holds more episodes than the run asks for.
        DataError: A source that is missing or wrong; a folder to collect into that holds other episodes.
    """
    data, wanted = config.data, config.data.num_episodes or 0
    path = dataset_path(config)
    if data.source == "dataset":
        return fetched(path)
    if data.source == "convert":
        if find_complete(path) is None:
            return _convert(config, path, runtime, console)
        console.say(f"episodes   {path} (converted earlier)")
        return path
    if check_collected(config) is not None:
        console.say(f"episodes   {path} (collected earlier)")
        return path
    with console.stage("collect", f"{wanted} episodes of {config.env.id}, policy {data.policy}"):
        _collect(config, path, runtime, console)
    console.say(f"   {path}")
    return path


def check_collected(config: RunConfig) -> EpisodeDataset | None:
    """Refuses a folder to collect into that holds other episodes than the run asks for, or more of them.

    Returns:
        The dataset where every episode is there already; None where some are missing.

    Raises:
        ConfigError: The folder holds more episodes.
        DataError: The folder's episodes come from another environment, policy, seed or length.
    """
    path, wanted = fetched(dataset_path(config)), config.data.num_episodes or 0
    _check_same_kind(config, path)
    dataset = find_complete(path)
    if dataset is not None and len(dataset) > wanted:
        raise ConfigError(
            f"{path} holds {len(dataset)} episodes, data.num_episodes is {wanted}; use them all with "
            f"--data.source dataset, or collect into another folder"
        )
    return dataset if dataset is not None and len(dataset) == wanted else None


def _collect(config: RunConfig, path: str, runtime: Runtime, console: Console) -> None:
    data = config.data
    is_new = not os.path.exists(path)
    with held(path, console.say, waits=True), environment_hosts(config, runtime, console) as pool:
        description = pool.describe()
        spec = DatasetSpec(
            name=config.env.short_name,
            control_hz=description.control_hz,
            pixels=PixelSpec(config.env.image_size, config.env.image_size, 3, data.codec),
            action=description.action,
            proprio=description.proprio,
            sim_state=description.sim_state,
            source=_kind(config),
            env_steps_per_frame=data.env_steps_per_frame,
        )
        try:
            _fill(config, path, spec, pool, console)
        except Exception:
            # No episode was written: remove the empty folder, which looks like a dataset. Where another process
            # writes into the folder by now, the folder stays.
            if is_new:
                with suppress(WriterBusyError):
                    discard_dataset(path, only_without_shards=True)
            raise
        for line in pool.log:
            console.say(f"   {line}")


def _fill(config: RunConfig, path: str, spec: DatasetSpec, pool: EnvPool, console: Console) -> None:
    """Collects the episodes that a dataset does not hold yet."""
    data, wanted = config.data, config.data.num_episodes or 0
    opened = _writer(path, spec, console)
    with told_if_gone(path), opened as writer:
        # Once more: the process that this one waited for may have collected another kind of episodes.
        _check_same_kind(config, path)
        done = writer.finished_episode_ids
        missing = [episode_id for episode_id in range(wanted) if episode_id not in done]
        plan = CollectPlan(data.policy, config.seed, data.env_steps_per_episode, data.codec, data.env_steps_per_frame)
        episodes = pool.collect(missing, plan, episodes_per_call=config.scaling.episodes_per_call)
        with console.bar("episodes", wanted) as advance:
            for count, episode in enumerate(episodes, start=wanted - len(missing) + 1):
                writer.write(episode)
                advance(count, "")


def _kind(config: RunConfig) -> dict[str, Any]:
    """What all collected episodes of one dataset have in common."""
    return {
        "env": _shown_env(config),
        "policy": config.data.policy,
        "seed": config.seed,
        "env_steps": config.data.env_steps_per_episode,
        **_kept_frames(config),
    }


def _shown_env(config: RunConfig) -> dict[str, Any]:
    """What episodes show of their environment; which Python ran it is no part of that."""
    return {key: value for key, value in to_dict(config.env).items() if key != "python"}


def _kept_frames(config: RunConfig) -> dict[str, int]:
    """Which frames are kept, where it is not every one: what earlier datasets say nothing of."""
    every = config.data.env_steps_per_frame
    return {"env_steps_per_frame": every} if every > 1 else {}


def _check_same_kind(config: RunConfig, path: str) -> None:
    """Refuses to use or extend episodes that this configuration would not have collected itself.

    Raises:
        DataError: The folder's episodes come from another environment, policy, seed or length.
    """
    if not os.path.isfile(os.path.join(path, META_FILE)):
        return
    recorded = dict(read_meta(Path(path))["source"])
    if isinstance(recorded.get("env"), dict):
        recorded["env"] = {key: value for key, value in recorded["env"].items() if key != "python"}
    kind = {"env_steps_per_frame": None, **json.loads(json.dumps(_kind(config)))}
    for key, wanted in kind.items():
        if recorded.get(key) != wanted:
            raise DataError(
                f"{path}: its episodes were collected with {key} {recorded.get(key)!r}, these would be with "
                f"{wanted!r}; collect into another folder, or use them as they are with --data.source dataset"
            )


def _writer(path: str, spec: DatasetSpec, console: Console) -> EpisodeWriter:
    """Opens a dataset for writing; waits while another process collects into it."""
    try:
        return EpisodeWriter(path, spec, resume=True)
    except WriterBusyError:
        console.say(f"   {path}: another process is collecting these episodes; waiting for it")
        return EpisodeWriter(path, spec, resume=True, wait=True)


def dataset_path(config: RunConfig) -> str:
    """Path of a configuration's dataset, which need not exist yet.

    The folder's name is a hash of everything the episodes depend on, so runs that differ elsewhere share the dataset.

    Raises:
        DataError: The source of a conversion does not exist.
    """
    data = config.data
    if data.source == "dataset" or (data.source == "collect" and data.path is not None):
        return os.path.abspath(local_path(str(data.path)))
    folder = datasets_dir()
    if data.source == "convert":
        source = source_path(config)
        stamp = [source, file_stamp(Path(source)), data.num_episodes or 0, data.format, config.env.image_size]
        name = os.path.basename(source).split(".")[0]
        return os.path.join(folder, f"{name}-{_hash(stamp)}")
    facts = [_shown_env(config), config.seed, data.policy, data.num_episodes, data.env_steps_per_episode, data.codec]
    facts += [_kept_frames(config)] if data.env_steps_per_frame > 1 else []
    return os.path.join(folder, f"{config.env.short_name}-{data.policy}-{_hash(facts)}")


def find_dataset(config: RunConfig) -> EpisodeDataset | None:
    """The dataset of a configuration where it is complete, else None; never collects or converts."""
    try:
        return find_complete(dataset_path(config))
    except DataError:
        # The name of a converted dataset depends on its source, which may be missing as well.
        return None


def source_path(config: RunConfig) -> str:
    """The file or folder that a conversion reads.

    Raises:
        DataError: Nothing is there.
    """
    if is_uri(str(config.data.path)):
        raise ConfigError(
            f"data.path is {config.data.path}: a recording is converted from a local disk; copy it to one first"
        )
    source = os.path.abspath(str(config.data.path))
    if os.path.isdir(source):
        # A folder around one zarr counts as the zarr.
        stores = sorted(name for name in os.listdir(source) if name.endswith((".zarr", ".zarr.zip")))
        if len(stores) == 1:
            source = os.path.join(source, stores[0])
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
    with console.stage("convert", f"{source.about}: {path_of_source}"), held(path, console.say, waits=True):
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


def find_complete(path: str) -> EpisodeDataset | None:
    """The dataset in a folder where it is complete, else None; one at a URI is fetched first."""
    try:
        return EpisodeDataset(fetched(path))
    except DataError:
        return None


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
