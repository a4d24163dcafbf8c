"""Metrics of a run: the file that holds them, and the tracker that reads along."""

from jepawm.tracking.background import BackgroundTracker
from jepawm.tracking.metrics import (
    EVALUATIONS_FILE,
    METRICS_FILE,
    MetricsFollower,
    MetricsWriter,
    Record,
    append_metrics,
    read_metrics,
)
from jepawm.tracking.mlflow_sink import MLflowSink, Outcome, TrackedRun
from jepawm.tracking.tracker import Tracker

__all__ = [
    "EVALUATIONS_FILE",
    "METRICS_FILE",
    "BackgroundTracker",
    "MLflowSink",
    "MetricsFollower",
    "MetricsWriter",
    "Outcome",
    "Record",
    "TrackedRun",
    "Tracker",
    "append_metrics",
    "read_metrics",
]
