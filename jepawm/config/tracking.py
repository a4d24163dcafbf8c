"""The section `tracking`: who reads the metrics along."""

from dataclasses import dataclass
from typing import ClassVar

from jepawm.config.checks import no_password


@dataclass(frozen=True)
class TrackingConfig:
    """Metrics: `metrics.jsonl` in the run directory is the truth; MLflow reads along."""

    section: ClassVar[str] = "tracking"

    mlflow: bool = True
    """Copy metrics, config and report to MLflow."""
    mlflow_uri: str | None = None
    """Tracking URI; None: `sqlite:///` beside the runs."""
    experiment: str = "jepawm"
    """MLflow experiment."""

    def __post_init__(self) -> None:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (for a database, PGPASSFILE or my.cnf)"
        no_password(self, "mlflow_uri", remedy)
