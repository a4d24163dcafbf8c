import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from configs import split_of
from safetensors.numpy import load_file

from jepawm.config import DataConfig, OptimConfig, RunConfig, ScalingConfig, TrainConfig
from jepawm.data import ShardReader
from jepawm.errors import TrainingError
from jepawm.runs.runtime import LocalRuntime
from jepawm.tracking import read_metrics

pytestmark = pytest.mark.ray


def _config(**changes):
    config = RunConfig(
        data=DataConfig(loader="cache", held_out_fraction=0.1),
        train=TrainConfig(
            num_train_steps=12,
            batch_size=16,
            precision="float32",
            checkpoint_every=6,
            log_every=3,
            diagnostics_every=6,
            diagnostics_windows=32,
        ),
        scaling=ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=0),
    )
    return replace(config, **changes)


def _weights(checkpoint):
    return load_file(os.path.join(checkpoint, "model.safetensors"))


def _largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float(np.abs(a[key] - b[key]).max()) for key in a)


@pytest.fixture(scope="module")
def local_weights(wall_dataset, tmp_path_factory):
    return _weights(LocalRuntime().train(_config(), str(wall_dataset.path), str(tmp_path_factory.mktemp("local"))))


def test_one_ray_worker_is_bit_equal_to_the_local_loop(ray_local, wall_dataset, local_weights, tmp_path):
    from jepawm.distributed.train import ray_train

    checkpoint = ray_train(_config(), str(wall_dataset.path), str(tmp_path))
    assert _largest_difference(_weights(checkpoint), local_weights) == 0
    assert [record["train_step"] for record in read_metrics(str(tmp_path / "metrics.jsonl"))] == [3, 6, 9, 12]
    # The same command again finds the run finished; a longer one goes on from its last checkpoint.
    longer = replace(_config(), train=replace(_config().train, num_train_steps=15))
    checkpoint = ray_train(longer, str(wall_dataset.path), str(tmp_path))
    assert checkpoint.endswith("step-00000015")
    steps = [record["train_step"] for record in read_metrics(str(tmp_path / "metrics.jsonl"))]
    assert steps == [3, 6, 9, 12, 15]


def test_two_workers_train_the_same_model_as_one(ray_local, wall_dataset, local_weights, tmp_path):
    from jepawm.distributed.train import ray_train

    config = _config(scaling=ScalingConfig(num_workers=2, cpus_per_worker=1, max_train_failures=0))
    checkpoint = ray_train(config, str(wall_dataset.path), str(tmp_path))
    # AdamW divides by the root of tiny second moments, which enlarges rounding; 12 steps of 1e-3 move weights by 1e-2.
    assert _largest_difference(_weights(checkpoint), local_weights) < 2e-4


def test_a_loss_that_is_not_finite_reaches_the_user_as_itself(ray_local, wall_dataset, tmp_path):
    from jepawm.distributed.train import ray_train

    config = _config(optim=OptimConfig(learning_rate=1e30, grad_clip_norm=None))
    with pytest.raises(TrainingError, match=r"the loss at train step \d+ is not finite"):
        ray_train(config, str(wall_dataset.path), str(tmp_path))


def test_the_stream_brings_each_window_once_per_epoch(ray_local, wall_dataset):
    from jepawm.data.loading.split import window_index
    from jepawm.distributed.window_stream import window_stream

    config = _config()
    index = window_index(wall_dataset, split_of(config, wall_dataset).train, config.data, 4)
    expected = sorted(zip(*(a.tolist() for a in index.locate(np.arange(len(index)))), strict=True))
    # Twelve steps of 16 windows end inside the first epoch; the stream holds one to spare.
    stream = window_stream(config.training_plan(), str(wall_dataset.path), start_step=0)
    rows = [row for batch in stream.iter_batches(batch_size=64, batch_format="pyarrow") for row in _ids(batch)]
    assert sorted(rows) == sorted(expected * 2)
    assert rows[: len(expected)] != expected
    # A resume goes on with the next epoch's order, not with the first one's again.
    resumed = window_stream(config.training_plan(), str(wall_dataset.path), start_step=6)
    later = [row for batch in resumed.iter_batches(batch_size=64, batch_format="pyarrow") for row in _ids(batch)]
    assert later[:64] != rows[:64]


def _ids(batch):
    return list(zip(batch["episode_id"].to_pylist(), batch["start"].to_pylist(), strict=True))


def test_training_on_the_stream(ray_local, wall_dataset, tmp_path):
    from jepawm.distributed.train import ray_train
    from jepawm.distributed.window_stream import stream_batches, window_stream

    config = _config(
        data=DataConfig(loader="stream", held_out_fraction=0.1),
        train=replace(_config().train, num_train_steps=60, log_every=10, checkpoint_every=60),
    )
    shard = window_stream(config.training_plan(), str(wall_dataset.path), start_step=0).iterator()
    batch = next(stream_batches(config.training_plan(), str(wall_dataset.path), shard, world_size=1))
    same = ShardReader(wall_dataset, frameskip=5, num_frames_in_window=4).read(batch.episode_ids, batch.starts)
    np.testing.assert_array_equal(batch.pixels, same.pixels)
    np.testing.assert_array_equal(batch.actions, same.actions)
    ray_train(config, str(wall_dataset.path), str(tmp_path))
    records = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert records[-1]["train_step"] == 60
    assert records[-1]["train/loss"] < records[0]["train/loss"]


def test_a_killed_training_worker_costs_the_steps_since_its_checkpoint_and_nothing_else(
    ray_local, wall_dataset, local_weights, tmp_path
):
    from jepawm.distributed.train import ray_train

    config = _config(scaling=ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=1))
    metrics, killed = tmp_path / "metrics.jsonl", []

    def kill_past_the_first_checkpoint():
        while not killed:
            time.sleep(0.02)
            if any(record["train_step"] >= 9 for record in read_metrics(str(metrics))):
                for process in Path("/proc").glob("[0-9]*"):
                    if b"RayTrainWorker" in (process / "cmdline").read_bytes():
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(process.name)

    watcher = threading.Thread(target=kill_past_the_first_checkpoint, daemon=True)
    watcher.start()
    checkpoint = ray_train(config, str(wall_dataset.path), str(tmp_path))
    assert killed
    assert _largest_difference(_weights(checkpoint), local_weights) == 0
