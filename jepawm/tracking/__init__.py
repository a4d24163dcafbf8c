"""Metrics of a run: the file that holds them, and the tracker that reads along."""

from jepawm.tracking.metrics import METRICS_FILE, MetricsFollower, MetricsWriter, Record, read_metrics
from jepawm.tracking.mlflow_sink import BackgroundTracker, MLflowSink

__all__ = [
    "METRICS_FILE",
    "BackgroundTracker",
    "MLflowSink",
    "MetricsFollower",
    "MetricsWriter",
    "Record",
    "read_metrics",
]
