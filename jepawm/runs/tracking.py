"""What a run tells its tracker."""

import os
from dataclasses import replace

from jepawm.config import RunConfig, home, to_dict
from jepawm.config.places import default_artifacts_uri, default_tracking_uri
from jepawm.config.yaml_io import flatten
from jepawm.evaluation.result import EvaluationResult
from jepawm.tracking import MLflowSink, Record

# Numbers of a protocol that a tracker shows besides its success rate.
_TRACKED = (
    "mean_distance",
    "success_ever",
    "success_at_end",
    "median_env_steps_to_success",
    "mean_latent_distance",
    "decision_ms_p50",
    "decision_ms_p95",
    "env_steps_per_s",
)


def tracking_uri(config: RunConfig) -> str:
    """Address of the tracker: the configured one, or a database beside the runs."""
    if config.tracking.mlflow_uri:
        return config.tracking.mlflow_uri
    os.makedirs(home(), exist_ok=True)
    return default_tracking_uri()


def mlflow_sink(config: RunConfig, run_dir: str) -> MLflowSink:
    """The tracker of a run."""
    return MLflowSink(
        run_dir,
        uri=tracking_uri(config),
        experiment=config.tracking.experiment,
        artifacts_uri=None if config.tracking.mlflow_uri else default_artifacts_uri(),
        params=flatten(to_dict(replace(config, run_dir=run_dir))),
    )


def summary_metrics(result: EvaluationResult) -> Record:
    """The numbers of an evaluation that a tracker shows."""
    summary: Record = {}
    if result.played is not None:
        headline = result.played.protocols[result.played.headline]
        summary["eval/success_rate"] = headline.planned.rate.success_rate
        summary["eval/random"] = headline.random.rate.success_rate
    for name, protocol in result.protocols.items():
        summary[f"eval/{name}/success_rate"] = protocol.planned.rate.success_rate
        for key in _TRACKED:
            value = getattr(protocol.planned, key)
            if value is not None:
                summary[f"eval/{name}/{key}"] = value
        if protocol.failures is not None:
            for cause, count in protocol.failures.counts.items():
                summary[f"eval/{name}/failures/{cause}"] = count
    for point in () if result.played is None else result.played.distance_curve:
        rate = point.report.planned.rate.success_rate
        summary[f"eval/success_rate_at_env_steps/{point.goal_offset_env_steps}"] = rate
    for row in result.held_out.prediction:
        summary[f"eval/prediction/{row.model_steps}"] = row.share_of_persistence
    return summary
