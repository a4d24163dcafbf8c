"""Where things are kept: one root for runs, datasets, evaluations and the tracker's database."""

import os
from pathlib import Path
from urllib.parse import quote


def home() -> str:
    """Root of runs and datasets: `$JEPAWM_HOME`, else `./runs`; under `ray job submit`, `~/jepawm-runs`.

    Ray deletes the working directory of a submitted job when the job ends, so nothing is kept there.
    """
    if os.environ.get("JEPAWM_HOME"):
        return os.path.abspath(os.path.expanduser(os.environ["JEPAWM_HOME"]))
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return os.path.expanduser("~/jepawm-runs")
    return os.path.abspath("runs")


def datasets_dir() -> str:
    """Folder of the datasets that runs share."""
    return os.path.join(home(), "datasets")


def evaluations_dir() -> str:
    """Folder of evaluations that belong to no run."""
    return os.path.join(home(), "evaluations")


def default_tracking_uri() -> str:
    """Address of the MLflow database beside the runs; characters that mean something in an address are quoted."""
    return f"sqlite:///{quote(os.path.join(home(), 'mlflow.db'))}"


def default_artifacts_uri() -> str:
    """Where that database keeps the files of its runs: beside the runs too, whatever the current folder is."""
    return Path(home(), "mlartifacts").as_uri()
