"""Which tracker a run is copied to, and how it is reached."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from jepawm.config.places import default_artifacts_uri, default_tracking_uri, home
from jepawm.config.tracking import TrackingConfig
from jepawm.errors import TrackingError, require
from jepawm.tracking.database import sqlite_file, why_not_opened

# MLflow waits for a server for up to 120 s and asks seven times; a thread that sends again by itself needs neither.
# Variables that are set already stay.
_CALLS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Tracker:
    """A place at a tracker.

    Attributes:
        uri: Tracking URI, e.g. `sqlite:////path/mlflow.db`, or the address of a server.
        experiment: Experiment name.
        artifacts_uri: Where a new experiment keeps files; None: the tracker's own place.
    """

    uri: str
    experiment: str
    artifacts_uri: str | None = None

    @classmethod
    def of(cls, tracking: TrackingConfig) -> "Tracker":
        """The tracker of a configuration: the one it names, `$MLFLOW_TRACKING_URI`, or a database beside the runs."""
        named = tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not named:
            os.makedirs(home(), exist_ok=True)
            return cls(default_tracking_uri(), tracking.experiment, default_artifacts_uri())
        database = sqlite_file(named)
        # MLflow would put the files of a database's runs under the working directory.
        beside = None if database is None else Path(os.path.abspath(database)).with_name("mlartifacts").as_uri()
        return cls(named, tracking.experiment, beside)

    @property
    def address(self) -> str:
        """The URI as it may be shown and written down: without name and password."""
        return without_password(self.uri)

    def open(self) -> "tuple[Any, str]":
        """A client and the id of the experiment, which is made where it is missing.

        Raises:
            TrackingError: The tracker does not open; says why and what to do.
        """
        client = open_client(self.uri)
        try:
            found = client.get_experiment_by_name(self.experiment)
            if found is not None:
                return client, str(found.experiment_id)
            return client, str(client.create_experiment(self.experiment, artifact_location=self.artifacts_uri))
        except Exception as error:
            raise TrackingError(why_not_opened(self.uri, error)) from error


def open_client(uri: str) -> Any:
    """MLflow's client of a tracker and its registry.

    Raises:
        TrackingError: The tracker does not open; says why and what to do.
    """
    require("mlflow")
    for name, value in _CALLS.items():
        os.environ.setdefault(name, value)
    # The first use of a database prints a line for each of its tables.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:
        raise TrackingError(why_not_opened(uri, error)) from error


def without_password(uri: str) -> str:
    """A URI without the name and password of its user."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[1]))
