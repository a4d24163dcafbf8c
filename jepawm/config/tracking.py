"""The section `tracking`: who reads the metrics along, and what an hour costs."""

from dataclasses import dataclass
from typing import ClassVar

from jepawm.config.checks import no_password, not_negative, positive


@dataclass(frozen=True)
class TrackingConfig:
    """Metrics: `metrics.jsonl` in the run directory is the truth; MLflow reads along."""

    section: ClassVar[str] = "tracking"

    mlflow: bool = True
    """Copy metrics, settings, report and model to MLflow."""
    mlflow_uri: str | None = None
    """Tracking URI; None: `$MLFLOW_TRACKING_URI`, else `sqlite:///` beside the runs."""
    experiment: str = "jepawm"
    """MLflow experiment."""
    log_model: bool = True
    """Copy the model folder too; off, MLflow has a run without its weights."""
    wait_s: float = 60.0
    """Seconds that the end of a run waits for the tracker, at most; `jepawm track sync RUN` sends the rest."""
    gpu_hour_price: float | None = None
    """Price of an hour of one GPU, in `tracking.currency`; None: the cost is not stated."""
    cpu_hour_price: float | None = None
    """Price of an hour of one CPU, in `tracking.currency`; None: CPUs are not priced."""
    currency: str = "USD"
    """Of the prices; a word for messages."""

    def __post_init__(self) -> None:
        positive(self, "wait_s")
        not_negative(self, "gpu_hour_price", "cpu_hour_price")
        remedy = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (for a database, PGPASSFILE or my.cnf, or the "
            "whole address in MLFLOW_TRACKING_URI)"
        )
        no_password(self, "mlflow_uri", remedy)
