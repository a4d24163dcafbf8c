"""The section `tracking`: who reads the metrics along."""

from dataclasses import dataclass
from typing import ClassVar


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
