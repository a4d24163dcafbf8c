"""What a run tells its tracker."""

import os
from dataclasses import replace

from jepawm.config import RunConfig, home, to_dict
from jepawm.config.places import default_artifacts_uri, default_tracking_uri
from jepawm.config.yaml_io import flatten
from jepawm.evaluation.result import EvaluationResult
from jepawm.tracking import MLflowSink, Record


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
        if protocol.planned.mean_distance is not None:
            summary[f"eval/{name}/mean_distance"] = protocol.planned.mean_distance
    for row in result.held_out.prediction:
        summary[f"eval/prediction/{row.model_steps}"] = row.share_of_persistence
    return summary
