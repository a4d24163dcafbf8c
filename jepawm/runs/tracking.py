"""What a run tells its tracker."""

import os
from dataclasses import replace
from typing import Any

from jepawm.config import RunConfig, home, to_dict
from jepawm.config.head import HeadJob
from jepawm.config.places import default_artifacts_uri, default_tracking_uri
from jepawm.config.yaml_io import flatten
from jepawm.data import EpisodeDataset
from jepawm.evaluation.manifest import git_revision, versions
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


def tracking_uri(config: RunConfig | HeadJob) -> str:
    """Address of the tracker: the configured one, or a database beside the runs."""
    if config.tracking.mlflow_uri:
        return config.tracking.mlflow_uri
    os.makedirs(home(), exist_ok=True)
    return default_tracking_uri()


def mlflow_sink(config: RunConfig, run_dir: str, tags: dict[str, str] | None = None) -> MLflowSink:
    """The tracker of a run.

    Args:
        config: The run's configuration.
        run_dir: The run.
        tags: What the run is about, see `run_tags`.
    """
    return MLflowSink(
        run_dir,
        uri=tracking_uri(config),
        experiment=config.tracking.experiment,
        artifacts_uri=None if config.tracking.mlflow_uri else default_artifacts_uri(),
        params=used_params(replace(config, run_dir=run_dir)),
        tags=tags,
    )


def head_sink(job: HeadJob, folder: str, tags: dict[str, str]) -> MLflowSink:
    """The tracker of a head's training.

    Args:
        job: What is trained.
        folder: Where its metrics are.
        tags: What it is about, see `head_tags`.
    """
    return MLflowSink(
        folder,
        uri=tracking_uri(job),
        experiment=job.tracking.experiment,
        artifacts_uri=None if job.tracking.mlflow_uri else default_artifacts_uri(),
        params=flatten(to_dict(job)),
        tags=tags,
    )


def head_tags(job: HeadJob, model_sha256: str, dataset: EpisodeDataset) -> dict[str, str]:
    """What the training of a head is about."""
    return {
        "head": job.head.name,
        "model": job.model,
        "model_sha256": model_sha256,
        "code_version": code_version(),
        "dataset": str(dataset.path),
        "dataset_fingerprint": dataset.fingerprint,
    }


def code_version() -> str:
    """Version of this package, with the revision of its checkout where it is one."""
    revision = git_revision()
    return versions().get("jepawm", "unknown") + (f" {revision}" if revision else "")


def run_tags(config: RunConfig, recipe: str, dataset: EpisodeDataset | None) -> dict[str, str]:
    """What a run is about: recipe, environment, dataset and the version of the code.

    Args:
        config: The run's configuration.
        recipe: Name or file of its recipe.
        dataset: The episodes; None where they are not here.
    """
    tags = {"recipe": recipe, "environment": config.env.id, "code_version": code_version()}
    if dataset is not None:
        tags |= {"dataset": str(dataset.path), "dataset_fingerprint": dataset.fingerprint}
    return tags


def used_params(config: RunConfig) -> dict[str, Any]:
    """The flat configuration without the settings that a run of its kind never reads."""
    unused: set[str] = set()
    if config.data.source != "collect":
        unused |= {"data.policy", "data.env_steps_per_episode", "data.codec", "scaling.episodes_per_call"}
    if config.data.source != "convert":
        unused.add("data.format")
    if config.data.source == "dataset":
        unused.add("data.num_episodes")
    if config.local:
        unused.add("scaling")
    if config.env.id == "none":
        unused |= {"planner", "objective", "scaling.num_env_actors", "scaling.env_call_timeout_s"}
        unused |= {"scaling.max_actor_restarts", "scaling.episodes_per_call"}
    settings = flatten(to_dict(config))
    return {key: value for key, value in settings.items() if key not in unused and key.split(".")[0] not in unused}


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
    if result.image_goals is not None:
        _, summary["eval/image_goals/latent_distance"], summary["eval/image_goals/random"] = result.image_goals.means
    for row in result.held_out.prediction:
        share = row.share_of_persistence
        if share is not None:
            summary[f"eval/prediction/{row.model_steps}"] = share
    return summary
