"""A shared home that goes away while workers train on Ray; tests/runs/test_folder_gone.py is the one without Ray."""

import os
from pathlib import Path

import pytest
from configs import few_steps

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.config import DataConfig, RunConfig, ScalingConfig
from jepawm.errors import FolderGoneError
from jepawm.runs.directory import lock_run
from jepawm.runs.runtime import LocalRuntime
from jepawm.tracking import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_workers_whose_home_goes_away_leave_nothing_in_its_place_and_go_on_when_it_is_back(
    ray_local, wall_dataset, tmp_path, monkeypatch
):
    from jepawm.distributed import train

    # Ray sends a function inside a function by value, so the worker runs it without this file.
    def train_and_unmount(job):
        from jepawm.distributed import train

        write, home = train.MetricsWriter.write, Path(job["run_dir"]).parent

        def write_and_unmount(writer, record):
            write(writer, record)
            if record["train_step"] == 9:
                # What every path sees of a file system that is no longer mounted: an empty mount point.
                home.rename(home.with_name("away"))
                home.mkdir()

        train.MetricsWriter.write = write_and_unmount
        train.train_on_worker(job)

    config = RunConfig(
        data=DataConfig(loader="cache", held_out_fraction=0.1),
        train=few_steps(18, checkpoint_every=6, log_every=3, diagnostics_every=6, diagnostics_windows=32),
        scaling=ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=0),
        device="cpu",
    )
    home, data = tmp_path / "home", str(wall_dataset.path)
    run_dir = home / "run"
    run_dir.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(train, "train_on_worker", train_and_unmount)
        with pytest.raises(FolderGoneError, match=r"home/run went away"), lock_run(str(run_dir)):
            train.ray_train(config, data, str(run_dir))
    assert list(home.iterdir()) == []
    home.rmdir()
    os.rename(tmp_path / "away", home)
    with lock_run(str(run_dir)):
        checkpoint = train.ray_train(config, data, str(run_dir))
    assert [record["train_step"] for record in read_metrics(str(run_dir / "metrics.jsonl"))] == [3, 6, 9, 12, 15, 18]
    local = LocalRuntime().train(config, data, str(tmp_path / "local"))
    assert weights_sha256(checkpoint) == weights_sha256(local)
