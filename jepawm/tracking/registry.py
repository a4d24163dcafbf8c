"""Models in MLflow's registry: our model folder, as it is, under a name and a version.

A version is read as any model folder is: safetensors, YAML and JSON, and nothing is executed. MLflow's own model
flavours, which are pickles, are neither written nor read.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepawm.config.tracking import TrackingConfig
from jepawm.errors import CheckpointError, TrackingError, first_line
from jepawm.files import atomic_folder
from jepawm.tracking.tracker import Tracker, open_client

SCHEME = "models:/"
# The tag of a version with the hash of all its files.
_HASH_TAG = "jepawm.files_sha256"
_SOURCE = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>\d+|latest)|@(?P<alias>[^/@]+))$")


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a registered model.

    Attributes:
        name: In the registry.
        version: Number of the version.
        run_id: Of the MLflow run that holds the files.
    """

    name: str
    version: str
    run_id: str

    @property
    def source(self) -> str:
        """What `jepawm.load` and `--model` take."""
        return f"{SCHEME}{self.name}/{self.version}"


def is_registered(source: str) -> bool:
    """Whether a source of a model names one in the registry: `models:/NAME/VERSION` or `models:/NAME@ALIAS`."""
    return source.startswith(SCHEME)


def register_model(tracker: Tracker, run_id: str, name: str, model_dir: str) -> RegisteredModel:
    """Gives the model of a run a name and a version; the same files under the same name keep their version.

    The files go to a place of their own among the run's artifacts, which no later training or head changes.

    Args:
        tracker: Holds the run and the registry.
        run_id: Of the run that trained the model.
        name: In the registry.
        model_dir: The model folder.

    Raises:
        CheckpointError: The folder holds no whole model.
        TrackingError: The tracker or its registry does not answer, or does not take the name.
    """
    if not re.fullmatch(r"[^/@:]+", name):
        raise TrackingError(f"'{name}' is no name for a registered model: it may not hold / @ :")
    folder = Path(model_dir)
    if not (folder / "format_version").is_file():
        raise CheckpointError(f"{model_dir} is no model folder: a run exports it when its training is done")
    client = open_client(tracker.uri)
    files_hash = files_sha256(folder)
    try:
        for known in client.search_model_versions(f"name='{name}'"):
            if known.run_id == run_id and known.tags.get(_HASH_TAG) == files_hash:
                return RegisteredModel(name, str(known.version), run_id)
        for path in model_files(folder):
            inside = path.relative_to(folder).parent
            client.log_artifact(run_id, str(path), (Path(_place(files_hash)) / inside).as_posix())
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        source = f"{client.get_run(run_id).info.artifact_uri}/{_place(files_hash)}"
        made = client.create_model_version(name, source, run_id, tags={_HASH_TAG: files_hash})
    except Exception as error:
        raise TrackingError(f"the registry at {tracker.address} did not take '{name}': {first_line(error)}") from error
    return RegisteredModel(name, str(made.version), run_id)


def local_model(source: str | os.PathLike[str]) -> str:
    """A source of a model that is on this machine: a registered one is fetched, any other is returned as it is.

    Registered models are asked of `$MLFLOW_TRACKING_URI`, else of the database beside the runs, and are kept in
    `$JEPAWM_CACHE/registered`, else in `~/.cache/jepawm/registered`.

    Raises:
        CheckpointError: See `fetch_model`.
        TrackingError: The tracker does not open.
    """
    name = os.fspath(source)
    if not is_registered(name):
        return name
    root = os.environ.get("JEPAWM_CACHE") or os.path.expanduser("~/.cache/jepawm")
    return fetch_model(name, Tracker.of(TrackingConfig()).uri, os.path.join(root, "registered"))


def fetch_model(source: str, uri: str, folder: str) -> str:
    """A registered model as a model folder on this machine, fetched where it is not here yet.

    Args:
        source: `models:/NAME/VERSION`, `models:/NAME/latest` or `models:/NAME@ALIAS`.
        uri: Address of the tracker.
        folder: Where fetched models are kept, by the hash of their files.

    Returns:
        The model folder.

    Raises:
        CheckpointError: No such model, one that jepawm did not register, or files that are others than registered.
        TrackingError: The tracker does not open.
    """
    client = open_client(uri)
    try:
        version = _find(client, source)
        expected = version.tags.get(_HASH_TAG)
        if expected is None:
            raise CheckpointError(f"{source} was not registered with `jepawm track register`, and is not read")
        path = Path(folder, expected)
        if not path.is_dir():
            with atomic_folder(path) as temporary:
                fetched = client.download_artifacts(version.run_id, _place(expected), str(temporary))
                os.replace(fetched, temporary / "model")
                found = files_sha256(temporary / "model")
                if found != expected:
                    raise CheckpointError(
                        f"the files of {source} are not those that were registered (SHA-256 {found}, expected "
                        f"{expected}); they were changed in the artifact store of run {version.run_id}"
                    )
        return str(path / "model")
    except (CheckpointError, TrackingError):
        raise
    except Exception as error:
        raise CheckpointError(f"{source} cannot be had: {first_line(error)}") from error


def _find(client: Any, source: str) -> Any:
    parts = _SOURCE.match(source)
    if parts is None:
        raise CheckpointError(f"'{source}': expected models:/NAME/VERSION, models:/NAME/latest or models:/NAME@ALIAS")
    if parts["alias"] is not None:
        return client.get_model_version_by_alias(parts["name"], parts["alias"])
    if parts["version"] != "latest":
        return client.get_model_version(parts["name"], parts["version"])
    versions = client.search_model_versions(f"name='{parts['name']}'")
    if not versions:
        raise CheckpointError(f"{source}: no model of that name is registered")
    return max(versions, key=lambda version: int(version.version))


def _place(files_hash: str) -> str:
    """Where the files of a registered model lie among a run's artifacts."""
    return f"registered/{files_hash[:16]}"


def model_files(model_dir: Path) -> list[Path]:
    """The files of a model folder, without heads whose training is not done."""
    files = (path for path in sorted(model_dir.rglob("*")) if path.is_file())
    return [path for path in files if ".training" not in str(path.relative_to(model_dir))]


def files_sha256(model_dir: Path) -> str:
    """SHA-256 over the names and contents of the files of a model folder."""
    total = hashlib.sha256()
    for path in model_files(model_dir):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(model_dir).as_posix()} {digest}\n".encode())
    return total.hexdigest()
