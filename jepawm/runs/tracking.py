"""What a run tells its tracker."""

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jepawm.config import RunConfig, to_dict
from jepawm.config.head import HeadJob
from jepawm.config.pretrain import PretrainConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.yaml_io import flatten
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import BudgetError
from jepawm.evaluation.manifest import git_revision, versions
from jepawm.evaluation.result import EvaluationResult
from jepawm.runs.usage import earlier_usage
from jepawm.tracking import BackgroundTracker, MLflowSink, Outcome, Record, TrackedRun, Tracker
from jepawm.tracking.background import Sink
from jepawm.tracking.mlflow_sink import Status
from jepawm.tracking.registry import model_files
from jepawm.tracking.sent import SentFile

_ARTIFACTS = ("config.yaml", "recipe", "eval.json", "episodes.json", "report.html", "wall_s.json", "usage.json")
_MEDIA = ("*.mp4", "*.webp", "*.png")

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


@contextmanager
def tracked(
    sink: Sink | None,
    tracking: TrackingConfig,
    console: Console,
    *,
    folder: str | None,
    outcome: Callable[[Status], Outcome],
) -> Iterator[None]:
    """A tracker follows a run while the context lasts, and is told how it ended.

    Args:
        sink: The run's copy; None: nothing is tracked.
        tracking: How long the end of the run waits.
        console: Told what the tracker does not take.
        folder: What `jepawm track sync` sends later; None: it cannot.
        outcome: What the tracker is told at the end; called in the tracker's thread.
    """
    again = None if folder is None else shlex.join(["jepawm", "track", "sync", folder])
    tracker = BackgroundTracker(sink, say=console.say, again=again, wait_s=tracking.wait_s)
    status: Status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except BudgetError:
        raise
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracker.close(lambda: outcome(status))


def mlflow_sink(
    config: RunConfig, run_dir: str, tags: dict[str, str] | None = None, group: TrackedRun | None = None
) -> MLflowSink | None:
    """The copy of a run at its tracker; None where the configuration wants none.

    Args:
        config: The run's configuration.
        run_dir: The run.
        tags: What the run is about, see `run_tags`.
        group: The run above it, such as the improvement that it is a round of.
    """
    if not config.tracking.mlflow:
        return None
    params = used_params(replace(config, run_dir=run_dir))
    return MLflowSink(TrackedRun(run_dir, params, tags or {}, group), Tracker.of(config.tracking))


def pretraining_sink(config: PretrainConfig, run_dir: str, tags: dict[str, str]) -> MLflowSink | None:
    """The copy of a pretraining at its tracker; None where the configuration wants none.

    Args:
        config: What is trained.
        run_dir: Where its metrics are.
        tags: What it is about.
    """
    if not config.tracking.mlflow:
        return None
    params = flatten(to_dict(replace(config, run_dir=run_dir)))
    return MLflowSink(TrackedRun(run_dir, params, tags), Tracker.of(config.tracking))


def head_sink(job: HeadJob, folder: str, tags: dict[str, str]) -> MLflowSink | None:
    """The copy of a head's training at its tracker; None where the job wants none.

    Args:
        job: What is trained.
        folder: Where its metrics are.
        tags: What it is about, see `head_tags`.
    """
    if not job.tracking.mlflow:
        return None
    return MLflowSink(TrackedRun(folder, flatten(to_dict(job)), tags), Tracker.of(job.tracking))


def evaluation_sink(config: RunConfig, folder: str, model_dir: str) -> MLflowSink | None:
    """The copy of an evaluation at its tracker, below the run of its model; None where the configuration wants none.

    Args:
        config: The evaluation's configuration.
        folder: Of the evaluation.
        model_dir: The model folder.
    """
    tags = {"kind": "evaluation", "model": model_dir, "environment": config.env.id}
    return mlflow_sink(config, folder, tags, run_of_model(model_dir, config.tracking, besides=folder))


def run_of_model(model_dir: str, tracking: TrackingConfig, *, besides: str) -> TrackedRun | None:
    """The run that trained a model, where the tracker knows it: evaluations of the model stand below it there.

    Args:
        model_dir: The model folder.
        tracking: Names the tracker.
        besides: Folder of the evaluation.
    """
    folder = os.path.dirname(os.path.abspath(model_dir))
    if not tracking.mlflow or os.path.abspath(besides) == folder:
        return None
    known = SentFile(folder).trackers.get(Tracker.of(tracking).address)
    return TrackedRun(folder) if known is not None and known.run_id else None


def outcome_of(folder: str, status: Status, tracking: TrackingConfig) -> Outcome:
    """How a run ended, as its folder says: the evaluation's numbers, and the files that a tracker keeps.

    Args:
        folder: Of a run or of an evaluation.
        status: How it ended.
        tracking: Whether the tracker gets the model, and what an hour costs.
    """
    artifacts = artifacts_of(folder, with_model=tracking.log_model)
    summary: Record = {}
    tags: dict[str, str] = {}
    if "eval.json" in artifacts:
        with open(artifacts["eval.json"], encoding="utf-8") as file:
            result = EvaluationResult.from_dict(json.load(file))
        summary, tags = summary_metrics(result), {"model_sha256": result.model.sha256}
    used = earlier_usage(folder)
    if used is not None:
        summary |= {f"usage/{name}": value for name, value in used.numbers(tracking).items()}
    return Outcome(status, summary, artifacts, tags)


def artifacts_of(folder: str, *, with_model: bool) -> dict[str, str]:
    """The files of a run that a tracker keeps, by their place there: settings, results, report, videos and model.

    Args:
        folder: Of a run or of an evaluation.
        with_model: Whether the model folder is among them.
    """
    root = Path(folder)
    found = {name: root / name for name in _ARTIFACTS if (root / name).is_file()}
    found |= {f"media/{path.name}": path for pattern in _MEDIA for path in sorted(root.glob(pattern))}
    if with_model and (root / "model" / "format_version").is_file():
        model = root / "model"
        found |= {f"model/{path.relative_to(model).as_posix()}": path for path in model_files(model)}
    return {place: str(path) for place, path in found.items()}


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
