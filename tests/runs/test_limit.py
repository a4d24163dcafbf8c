"""A run with a limit of hours: it ends at a checkpoint, goes on with a larger limit, and the tracker is told both."""

from dataclasses import replace
from pathlib import Path

import pytest
from configs import few_steps

from jepawm.config import DataConfig, EnvConfig, EvaluationConfig, RunConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import BudgetError, ConfigError
from jepawm.runs.pipeline import run
from jepawm.runs.runtime import LocalRuntime
from jepawm.runs.usage import UsageMeter, earlier_usage
from jepawm.tracking.tracker import open_client
from jepawm.training.checkpoint import checkpoint_step, newest_checkpoint


class HourlyLooks:
    """A clock on which an hour passes between two looks."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return 3600.0 * self.looks


def test_a_run_ends_at_a_checkpoint_when_its_hours_are_used_and_goes_on_with_more(
    wall_dataset: EpisodeDataset, tmp_path: Path, tracker_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig(
        device="cpu",
        local=True,
        run_dir=str(tmp_path / "run"),
        max_gpu_hours=60.0,
        env=EnvConfig(id="none", image_size=64),
        data=DataConfig(source="dataset", path=str(wall_dataset.path), held_out_fraction=0.1, loader="cache"),
        train=few_steps(100, log_every=10),
        evaluation=EvaluationConfig(protocols=("per_chunk",), goal_source="sampler"),
        tracking=TrackingConfig(mlflow_uri=tracker_uri, gpu_hour_price=2.0, cpu_hour_price=0.5),
    )
    runtime = LocalRuntime()
    runtime.usage = UsageMeter(HourlyLooks())
    with pytest.raises(BudgetError) as ended:
        run(config, "limited", runtime, Console())
    newest = newest_checkpoint(str(tmp_path / "run" / "checkpoints"))
    step = checkpoint_step(newest)
    assert step is not None
    assert 0 < step < 60
    assert f"--max-gpu-hours is 60; with a larger one, the same command goes on from train step {step} of 100" in str(
        ended.value
    )
    told = capsys.readouterr().out
    assert "limit      60 GPU-hours, or hours of what trains where no GPU is used; used: 0 worker-hours" in told
    client = open_client(tracker_uri)
    experiment = client.get_experiment_by_name("jepawm")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "KILLED"

    # The hours of the first part are used up for the second one too.
    with pytest.raises(BudgetError):
        run(config, "limited", LocalRuntime(), Console(quiet=True))
    result = run(replace(config, max_gpu_hours=1e6), "limited", LocalRuntime(), Console())
    assert result.played is None
    used = earlier_usage(str(tmp_path / "run"))
    assert used is not None
    assert used.total.process >= 60
    told = capsys.readouterr().out
    assert "process-hours: this process" in told
    assert "USD at 2 per GPU-hour and 0.5 per CPU-hour" in told
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["model_sha256"] == result.model.sha256
    assert tracked.data.metrics["usage/gpu_hours"] == 0.0
    assert tracked.data.metrics["usage/cost"] == pytest.approx(0.5 * tracked.data.metrics["usage/cpu_hours"])
    held = {item.path for item in client.list_artifacts(tracked.info.run_id)}
    assert held >= {"config.yaml", "eval.json", "report.html", "usage.json", "wall_s.json", "model"}
    model = {item.path for item in client.list_artifacts(tracked.info.run_id, "model")}
    assert model == {f"model/{name}" for name in ("config.yaml", "format_version", "model.safetensors", "stats.json")}


@pytest.mark.parametrize("hours", [0.0, -1.0])
def test_a_limit_of_nothing_is_refused(hours: float) -> None:
    with pytest.raises(ConfigError, match="max_gpu_hours must be above 0"):
        RunConfig(max_gpu_hours=hours)


def test_a_password_in_the_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mlflow_uri holds a password, .*MLFLOW_TRACKING_URI"):
        TrackingConfig(mlflow_uri="https://me:secret@host")
