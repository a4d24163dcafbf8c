"""Reading stored folders without holding them: what a home holds, and files that are fetched before they are opened."""

import os
import sys
from pathlib import PurePosixPath

from filelock import Timeout

from jepawm.config.places import home, local_path, uri_of
from jepawm.storage.folder import StoredFolder
from jepawm.storage.holding import holder_above
from jepawm.storage.lease import Holder, holder_of
from jepawm.storage.manifest import Manifest
from jepawm.storage.mirror import Mirror, Wanted, everything
from jepawm.storage.store import for_each, open_store

# Folders of a home that hold stored folders and are none themselves.
COLLECTIONS = ("datasets", "evaluations")
_OVERVIEW = (".json", ".jsonl", ".yaml", "")


def overview(path: str) -> bool:
    """Wants what lists and tables are made from: the small files at the top of a folder."""
    return "/" not in path and PurePosixPath(path).suffix in _OVERVIEW


def fetched(path: str, wanted: Wanted = everything) -> str:
    """A path whose files are on this disk: those of a URI are pulled first, and a plain path is returned as it is.

    Several processes of a machine that fetch one folder download it once. Where another process of this machine works
    in the folder, its working copy is ahead of the store and is returned as it is.

    Args:
        path: A path or URI, of a stored folder or of anything inside one.
        wanted: Which files are needed where `path` is a stored folder; of a path inside one, all that lies below it is.

    Raises:
        StorageError: The store does not answer.
    """
    place = local_path(path)
    if uri_of(place) is None or holder_above(place) is not None:
        return place
    found = _stored_folder_around(place)
    if found is None:
        return place
    mirror, manifest = found
    inside = os.path.relpath(place, mirror.path).replace(os.sep, "/")

    def needed(name: str) -> bool:
        return wanted(name) if inside == "." else name == inside or name.startswith(f"{inside}/")

    _pull(mirror, manifest, needed, waits=True)
    return place


def fetched_model(path: str) -> str:
    """`fetched` for a run, of which only its models are needed, or for a model folder."""
    return fetched(path, lambda name: overview(name) or name.startswith(("model/", "base/model/")))


def results(path: str) -> bool:
    """Wants every file of a run but those of its checkpoints."""
    return "checkpoints" not in path.split("/")[:-1]


def fetched_results(path: str) -> str:
    """`fetched` for a run, without its checkpoints."""
    return fetched(path, results)


def stored_root(path: str) -> str:
    """The working copy of the stored folder that a path lies in; the path itself where it lies in none."""
    found = None if uri_of(path) is None else _stored_folder_around(path)
    return path if found is None else str(found[0].path)


def refresh(path: str, wanted: Wanted = overview) -> None:
    """Brings the small files of a stored folder up to date; a folder that a process here works in is left alone.

    Args:
        path: Its working copy, or a path inside; nothing happens where it stands for no URI.
        wanted: Which files are pulled.
    """
    if uri_of(path) is None or holder_above(path) is not None:
        return
    found = _stored_folder_around(path)
    if found is not None:
        _pull(*found, wanted, waits=False)


def refresh_home(collection: str | None = None) -> None:
    """Brings the overview of all runs of the home up to date, or that of one of its collections.

    Args:
        collection: One of `COLLECTIONS`; None: the runs.
    """
    place = home() if collection is None else os.path.join(home(), collection)
    uri = uri_of(place)
    if uri is None:
        return
    names = [name for name in open_store(uri).folders() if not name.startswith(".") and name not in COLLECTIONS]
    for_each(lambda name: refresh(os.path.join(place, name)), names)


def stored_names(path: str) -> set[str]:
    """Names that a stored folder has at a path, as far as this machine has heard; empty for a plain path."""
    if uri_of(path) is None:
        return set()
    parent = path
    while uri_of(parent) is not None:
        manifest = Mirror(parent, StoredFolder(open_store(str(uri_of(parent))))).last_seen()
        if manifest.number:
            inside = os.path.relpath(path, parent).replace(os.sep, "/")
            prefix = "" if inside == "." else f"{inside}/"
            return {name.removeprefix(prefix).partition("/")[0] for name in manifest.files if name.startswith(prefix)}
        parent = os.path.dirname(parent)
    return set()


def holder(path: str) -> Holder | None:
    """The driver that holds the stored folder at a path; None where no one does, or the path is a plain one."""
    uri = uri_of(path)
    return None if uri is None else holder_of(open_store(uri))


def _stored_folder_around(path: str) -> tuple[Mirror, Manifest] | None:
    """The stored folder that a path is or lies in, with its last manifest."""
    place = os.path.abspath(path)
    # The home holds stored folders and is none; above it, this machine may have no permission.
    above = (home(), os.path.dirname(home()))
    while place not in above and (uri := uri_of(place)) is not None:
        folder = StoredFolder(open_store(uri))
        manifest = folder.manifest()
        if manifest.number:
            return Mirror(place, folder, _tell), manifest
        place = os.path.dirname(place)
    return None


def _tell(text: str) -> None:
    """On standard error, because what a command prints may be read by a program."""
    print(text, file=sys.stderr, flush=True)


def _pull(mirror: Mirror, manifest: Manifest, wanted: Wanted, *, waits: bool) -> None:
    try:
        with mirror.file_lock(timeout=-1 if waits else 0):
            if mirror.is_worked_in():
                return
            if manifest.files:
                mirror.pull(manifest, wanted=wanted)
            else:
                mirror.clear(manifest)
    except Timeout:
        # A process of this machine works there: its working copy is ahead of the store.
        return
