"""A training whose run lies at a URI: nodes share no disk, so each works in copies of its own.

Workers fetch the dataset and the checkpoint that they begin with, once per node. The first worker pushes checkpoints
and metrics as it writes them; on the driver's own machine the driver does. The driver follows, and after a lost worker
it names the newest checkpoint of the store to the next attempt. Ray Train itself is told of no checkpoints.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ray.train

from jepawm.config import to_dict
from jepawm.config.places import SCHEMES, is_uri, local_path, uri_of
from jepawm.errors import ConfigError, JepawmError, TrainingError
from jepawm.runs.directory import Job
from jepawm.storage.folder import StoredFolder
from jepawm.storage.holding import HeldFolder, Permit, holder_above, joined
from jepawm.storage.lease import interval_s
from jepawm.storage.mirror import Mirror, mirror_id, state_dir
from jepawm.storage.reading import fetched, fetched_model
from jepawm.storage.store import open_store
from jepawm.tracking import METRICS_FILE
from jepawm.training.checkpoint import list_checkpoints, newest_checkpoint
from jepawm.training.checkpoint_writer import BEST


@dataclass(frozen=True)
class StoredRun:
    """What the driver tells its workers of a run at a URI.

    Attributes:
        permit: Lets a worker write into the run.
        inside: Path of the training in the stored folder; empty for the run itself, `base` for the encoder below it.
        restore_from: Name of the checkpoint to begin with; None: from the start.
    """

    permit: Permit
    inside: str
    restore_from: str | None

    def path(self, *names: str) -> str:
        """A path in the stored folder."""
        return "/".join(name for name in (self.inside, *names) if name)


# Settings that name a model folder, which a two-stage training or an improvement has made.
_NAMES_A_MODEL = ("weights", "init_from")


@dataclass(frozen=True)
class StoredWorker:
    """What a worker does for a run at a URI.

    Attributes:
        restore_from: Folder of the checkpoint to begin with, on this node; None: from the start.
        folder: Where the first worker pushes; None: the driver, on the same machine, pushes.
    """

    restore_from: str | None
    folder: HeldFolder | None

    def keep(self, checkpoints_dir: str, number: int) -> None:
        """Removes all but the newest checkpoints, and pushes.

        Args:
            checkpoints_dir: Where they lie on this node.
            number: How many stay.
        """
        for name in list_checkpoints(checkpoints_dir)[:-number]:
            shutil.rmtree(os.path.join(checkpoints_dir, name))
        if self.folder is not None:
            self.folder.push_if_possible()


@contextlib.contextmanager
def opened_on_worker(job: dict[str, Any]) -> Iterator[tuple[dict[str, Any], StoredWorker | None]]:
    """A worker's job with paths of its own node; the files that it begins with are there.

    Args:
        job: See `jepawm.distributed.train.train_on_worker`.

    Yields:
        The job, and what the worker does for a run at a URI; None for a plain path.
    """
    stored: StoredRun | None = job["stored"]
    if stored is None:
        yield job | {"dataset_path": _fetched_dataset(job)}, None
        return
    run_dir, first = local_path(job["run_dir"]), ray.train.get_context().get_world_rank() == 0
    if stored.permit.mirror != mirror_id():
        _fetch_beginning(stored, first)
    restore_from = None
    if stored.restore_from is not None:
        restore_from = os.path.join(run_dir, "checkpoints", stored.restore_from)
    os.makedirs(run_dir, exist_ok=True)
    with joined(stored.permit if first else None) as folder:
        here = {
            "run_dir": run_dir,
            "dataset_path": _fetched_dataset(job),
            "config": _with_models(job["config"], lambda path: fetched_model(path) if is_uri(path) else path),
        }
        yield job | here, StoredWorker(restore_from, folder)


def _fetched_dataset(job: dict[str, Any]) -> str | None:
    path = job["dataset_path"]
    return None if path is None else fetched(path)


def _fetch_beginning(stored: StoredRun, first: bool) -> None:
    """Brings the checkpoint to a node; to the first worker's, metrics and the best checkpoint as well."""
    place = local_path(stored.permit.uri)
    mirror = Mirror(place, StoredFolder(open_store(stored.permit.uri)))
    begins_with = [] if stored.restore_from is None else [stored.path("checkpoints", stored.restore_from)]
    if first:
        begins_with += [stored.path(METRICS_FILE), stored.path(BEST)]

    def wanted(name: str) -> bool:
        return any(name == start or name.startswith(f"{start}/") for start in begins_with)

    with mirror.file_lock():
        if first:
            # What an earlier attempt left on this node and never pushed is older than what the driver begins with.
            mirror.pull(mirror.folder.manifest(), written_by=-1, wanted=wanted)
        else:
            mirror.follow(mirror.folder.manifest(), wanted)


def portable_config(config: Job) -> dict[str, Any]:
    """A configuration as plain data, in which models at URIs have names that every machine understands."""
    return _with_models(to_dict(config), lambda path: uri_of(path) or path)


def _with_models(config: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The same configuration with other paths of models; sources of published weights are left as they are."""
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            changed[key] = _with_models(value, change)
        elif key in _NAMES_A_MODEL and isinstance(value, str) and uri_of(_local_model(value)) is not None:
            changed[key] = change(value)
        else:
            changed[key] = value
    return changed


def _local_model(source: str) -> str:
    """The local path of a model at a URI of an object store; any other source as it is."""
    return local_path(source) if source.partition("://")[0] in SCHEMES else source


def stored_run(run_dir: str) -> StoredRun | None:
    """What the driver tells the workers of its next attempt; None for a plain path.

    Raises:
        StorageError: The store does not answer.
    """
    folder = holder_above(run_dir)
    if folder is None:
        return None
    inside = os.path.relpath(run_dir, folder.mirror.path).replace(os.sep, "/")
    inside = "" if inside == "." else inside
    # What a worker on this machine wrote last is in the store too, before another machine begins with it.
    folder.push()
    follow(run_dir, everything=True)
    newest = newest_checkpoint(os.path.join(run_dir, "checkpoints"))
    return StoredRun(folder.permit, inside, None if newest is None else os.path.basename(newest))


def follow(run_dir: str, *, everything: bool) -> None:
    """Brings what workers on other machines pushed to the driver; nothing happens for a plain path.

    Args:
        run_dir: The run.
        everything: With the checkpoints.
    """
    folder = holder_above(run_dir)
    if folder is None:
        return

    def wanted(name: str) -> bool:
        return everything or not {"checkpoints", BEST} & set(name.split("/")[:-1])

    folder.mirror.follow(folder.mirror.folder.manifest(), wanted)


@contextlib.contextmanager
def followed(run_dir: str, *, with_checkpoints: bool) -> Iterator[None]:
    """While the context lasts, metrics that workers push reach the driver.

    Args:
        run_dir: The run.
        with_checkpoints: Whether checkpoints do too, which the driver then evaluates.
    """
    if holder_above(run_dir) is None:
        yield
        return
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(interval_s()):
            # A store that does not answer now may answer at the next look; the last look is not in this thread.
            with contextlib.suppress(JepawmError, OSError):
                follow(run_dir, everything=with_checkpoints)

    thread = threading.Thread(target=look, name="follow-store", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def last_checkpoint(run_dir: str) -> str:
    """The newest checkpoint after an attempt, on the driver's disk.

    Raises:
        TrainingError: There is none.
    """
    follow(run_dir, everything=True)
    newest = newest_checkpoint(os.path.join(run_dir, "checkpoints"))
    if newest is None:
        raise TrainingError(f"training ended without a checkpoint in {uri_of(run_dir)}")
    return newest


def ray_storage(run_dir: str, attempt: str) -> dict[str, str]:
    """Where Ray Train keeps its own notes of an attempt: on the driver's machine, for no checkpoint is among them.

    Args:
        run_dir: The run, at a URI.
        attempt: A name that no other attempt has.
    """
    return {"storage_path": str(state_dir(run_dir) / "ray"), "name": attempt}


@lru_cache(maxsize=64)
def fetched_once(path: str) -> str:
    """`fetched`, asked for once in this process: the episodes of a complete dataset do not change."""
    return fetched(path)


def check_one_machine(path: str, what: str) -> None:
    """Refuses work that writes from several machines into one stored folder.

    Args:
        path: The folder.
        what: The work, for the error.

    Raises:
        ConfigError: The folder is at a URI and Ray has several nodes.
    """
    machines = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if uri_of(path) is not None and len(machines) > 1:
        raise ConfigError(
            f"{what} of {uri_of(path)} on {len(machines)} machines: they would write beside the episodes, and share no "
            "disk; run it on one machine (jepawm encode without a cluster, or --local), and the result is stored for "
            "all of them"
        )
