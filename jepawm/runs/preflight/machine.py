"""What a run needs of the machine: CPUs for its processes, free disk, a folder to write to."""

import os
import shutil
from pathlib import Path

from jepawm.config import DataConfig, ScalingConfig
from jepawm.data.loading.cache_folder import default_cache_root
from jepawm.errors import ConfigError

# The least of a machine's CPUs that a training worker, an environment actor and a planner host need to get on, where a
# run starts a Ray of its own. Of a cluster they claim what `jepawm.runs.placement` says.
CPUS_OF_WORKER = 0.5
CPUS_OF_ENV_ACTOR = 0.1
CPUS_OF_PLANNER_HOST = 0.5
# Size of compressed shards as a share of the decoded frames: what Wall's zstd shards take, rounded up.
SHARDS_OVER_FRAMES = 0.2


def joins_a_cluster() -> bool:
    """Whether the run joins a Ray that runs already; then this machine's CPUs say nothing."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


def capacity_problem(scaling: ScalingConfig, num_cpus: float, *, evaluates_while_training: bool = False) -> str | None:
    """Says, with the sums, which processes of a run the CPUs cannot hold; None where all fit.

    Training workers are counted apart from the others, unless episodes are played while training goes on. Planner hosts
    play in environment actors of their own, beside those that draw the episodes.

    Args:
        scaling: Workers, actors and planner hosts.
        num_cpus: Logical CPUs of the machine or cluster.
        evaluates_while_training: Whether checkpoints are evaluated while training goes on.
    """
    env_actors = scaling.num_env_actors
    workers = "scaling.num_workers" if scaling.min_workers is None else "scaling.min_workers"
    for key, kind, count, claim in (
        (workers, "workers", scaling.fewest_workers, CPUS_OF_WORKER),
        ("scaling.num_env_actors", "environment actors", env_actors, CPUS_OF_ENV_ACTOR),
    ):
        if count * claim > num_cpus:
            return (
                f"{key} is {count}: {count} {kind} x {claim:g} CPU = {count * claim:g} CPUs, there are {num_cpus:g}; "
                f"at most {int(num_cpus / claim)} fit"
            )
    hosts = scaling.num_planner_hosts
    total = hosts * CPUS_OF_PLANNER_HOST + 2 * env_actors * CPUS_OF_ENV_ACTOR
    if hosts and total > num_cpus:
        return (
            f"scaling.num_planner_hosts is {hosts}: {hosts} planner hosts x {CPUS_OF_PLANNER_HOST:g} CPU, their "
            f"{env_actors} environment actors and {env_actors} that draw the episodes x {CPUS_OF_ENV_ACTOR:g} CPU = "
            f"{total:g} CPUs, there are {num_cpus:g}; lower it or scaling.num_env_actors"
        )
    playing = total if hosts else env_actors * CPUS_OF_ENV_ACTOR
    training = scaling.fewest_workers * CPUS_OF_WORKER
    if evaluates_while_training and training + playing > num_cpus:
        return (
            f"evaluation.every_num_train_steps evaluates while training goes on: {training:g} CPUs of "
            f"{scaling.fewest_workers} workers and {playing:g} of environment actors and planner hosts, there are "
            f"{num_cpus:g}; lower scaling.num_workers or scaling.num_env_actors, or leave it out"
        )
    return None


def check_capacity(scaling: ScalingConfig, num_cpus: float, *, evaluates_while_training: bool = False) -> None:
    """Refuses more training workers, environment actors or planner hosts than the CPUs hold.

    Raises:
        ConfigError: The sums of `capacity_problem`.
    """
    problem = capacity_problem(scaling, num_cpus, evaluates_while_training=evaluates_while_training)
    if problem is not None:
        raise ConfigError(problem)


def check_writable(folder: str, key: str) -> None:
    """Refuses a folder that cannot be made or written to; makes nothing.

    Args:
        folder: The folder, which need not exist.
        key: Setting that names it, for the error.

    Raises:
        ConfigError: The closest existing folder above is a file or is read-only.
    """
    place = nearest(folder)
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        what = "cannot be written to" if os.path.isdir(place) else "is a file, expected a folder"
        raise ConfigError(f"{key} is {folder}: {place} {what}; choose another with --run-dir or $JEPAWM_HOME")


def check_disk(needs: dict[str, tuple[str, float]]) -> None:
    """Refuses a run whose files do not fit on the disks they go to.

    Args:
        needs: What is written -> (folder, bytes).

    Raises:
        ConfigError: Names each file kind on the full disk with its size, and the free space.
    """
    on_disk: dict[int, list[tuple[str, str, float]]] = {}
    for what, (folder, size) in needs.items():
        place = nearest(folder)
        on_disk.setdefault(os.stat(place).st_dev, []).append((what, place, size))
    for parts in on_disk.values():
        needed = sum(size for _, _, size in parts)
        free = shutil.disk_usage(parts[0][1]).free
        if needed > free:
            sums = " + ".join(f"{what} {gib(size)}" for what, _, size in parts)
            raise ConfigError(
                f"the disk of {parts[0][1]} has {gib(free)} GiB free, the run needs about {gib(needed)} GiB ({sums}); "
                "lower data.num_episodes or train.num_checkpoints_kept, or choose other disks with $JEPAWM_HOME and "
                "$JEPAWM_CACHE"
            )


def disk_needs_of_collection(data: DataConfig, image_size: int, path: str) -> dict[str, tuple[str, float]]:
    """Bytes of the shards that will be collected, and of the decoded frames where they will be cached.

    Args:
        data: Episodes and loader.
        image_size: Side of the square frames, pixels.
        path: Dataset to collect into.
    """
    frames = float(data.planned_frames) * image_size**2 * 3
    needs = {"shards": (path, SHARDS_OVER_FRAMES * frames)}
    if data.loader == "cache" or (data.loader == "auto" and frames <= data.cache_limit_gib * 2**30):
        needs["decoded frames"] = (str(default_cache_root()), frames)
    return needs


def nearest(path: str) -> str:
    """The path, or the closest one above it that exists."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return str(place)


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.1f}"
