"""Ray Train: the same training in one worker, in two, and after a worker's death."""

import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import few_steps, split_of, trained_spec
from safetensors.numpy import load_file

from jepawm.config import DataConfig, LossConfig, OptimConfig, RunConfig, ScalingConfig
from jepawm.data import ShardReader, WindowSampler, decode_window_batch
from jepawm.data.loading.split import open_reader, sampled_batches, window_index
from jepawm.errors import DataError, TrainingError
from jepawm.interrupts import Interrupted
from jepawm.runs.runtime import LocalRuntime
from jepawm.tracking import read_metrics
from jepawm.training.checkpoint import fresh_state
from jepawm.training.optim import learning_rate
from jepawm.training.run import run_training
from jepawm.training.step import to_device

pytestmark = pytest.mark.ray


def _config(**changes):
    config = RunConfig(
        data=DataConfig(loader="cache", held_out_fraction=0.1),
        train=few_steps(
            12, batch_size=16, checkpoint_every=6, log_every=3, diagnostics_every=6, diagnostics_windows=32
        ),
        scaling=ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=0),
    )
    return replace(config, **changes)


def _weights(checkpoint):
    return load_file(os.path.join(checkpoint, "model.safetensors"))


def _largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float(np.abs(a[key] - b[key]).max()) for key in a)


@pytest.mark.long
def test_two_workers_make_the_updates_of_one_process_that_averages_both_halves(ray_local, wall_dataset, tmp_path):
    from jepawm.distributed.train import ray_train

    # Means over windows only: with them the average of both halves' gradients is the gradient of the whole batch. Terms
    # over the global batch have a test without Ray, in tests/training.
    config = _config(
        loss=LossConfig(variance=0, covariance=0),
        train=replace(_config().train, num_train_steps=3, log_every=1, checkpoint_every=3),
        scaling=ScalingConfig(num_workers=2, cpus_per_worker=1, max_train_failures=0),
    )
    checkpoint = ray_train(config, str(wall_dataset.path), str(tmp_path))
    records = read_metrics(str(tmp_path / "metrics.jsonl"))
    weights, losses, gradient_norms = _average_of_two_halves(config, wall_dataset)
    # Halving and adding two numbers have one order, so these are equal and not only close.
    assert [record["train_step"] for record in records] == [1, 2, 3]
    assert [record["train/loss"] for record in records] == losses
    assert [record["train/gradient_norm"] for record in records] == gradient_norms
    trained = _weights(checkpoint)
    assert trained.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(trained[name], value, err_msg=name)


def _average_of_two_halves(config, dataset):
    """Trains in this process; returns the weights, rank 0's losses and the gradient norms."""
    plan, train = config.training_plan(), config.train
    index = window_index(dataset, split_of(config, dataset).train, config.data, config.data.num_frames_in_window)
    reader = open_reader(config.data, dataset)
    samplers = [WindowSampler(len(index), train.batch_size, seed=plan.seed, rank=rank, world_size=2) for rank in (0, 1)]
    halves = [sampled_batches(reader, index, sampler, 0) for sampler in samplers]
    state = fresh_state(plan, trained_spec(config, dataset), torch.device("cpu"))
    state.objective.train()
    parameters = list(state.objective.parameters())
    losses, gradient_norms = [], []
    for step in range(train.num_train_steps):
        gradients = []
        for rank, batches in enumerate(halves):
            loss = state.objective(*to_device(next(batches), torch.device("cpu")), step)["loss"]
            gradients.append(torch.autograd.grad(loss, parameters))
            if rank == 0:
                losses.append(float(loss.detach()))
        for parameter, first, second in zip(parameters, *gradients, strict=True):
            parameter.grad = first / 2 + second / 2
        gradient_norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, config.optim.grad_clip_norm)))
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config.optim, step, train.num_train_steps)
        state.optimizer.step()
    return {name: value.numpy() for name, value in state.objective.model.state_dict().items()}, losses, gradient_norms


@pytest.mark.long
def test_a_loss_that_is_not_finite_reaches_the_user_as_itself_and_is_not_tried_again(
    ray_local, wall_dataset, tmp_path, monkeypatch
):
    from jepawm.distributed import train

    attempts, fit = [], train._fit
    monkeypatch.setattr(train, "_fit", lambda *arguments: attempts.append(1) or fit(*arguments))
    scaling = ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=3)
    config = _config(optim=OptimConfig(learning_rate=1e30, grad_clip_norm=None), scaling=scaling)
    with pytest.raises(TrainingError, match=r"the loss at train step \d+ is not finite"):
        train.ray_train(config, str(wall_dataset.path), str(tmp_path))
    assert attempts == [1]


@pytest.mark.long
def test_the_stream_brings_each_window_once_per_epoch_and_goes_on_where_it_stopped(ray_local, wall_dataset, tmp_path):
    from jepawm.data.loading.split import window_index
    from jepawm.distributed.window_stream import WindowFeed, window_stream

    def rows(start_step):
        plan, part_bytes = config.training_plan(), 40 * 2**10
        stream = window_stream(plan, str(wall_dataset.path), start_step=start_step, part_bytes=part_bytes)
        return [row for batch in stream.iter_batches(batch_size=64, batch_format="pyarrow") for row in _ids(batch)]

    config = _config()
    index = window_index(wall_dataset, split_of(config, wall_dataset).train, config.data, 4)
    steps = -(-2 * len(index) // config.train.batch_size)
    config = replace(config, train=replace(config.train, num_train_steps=steps))
    expected = sorted(zip(*(a.tolist() for a in index.locate(np.arange(len(index)))), strict=True))
    whole = rows(start_step=0)
    first, second = whole[: len(expected)], whole[len(expected) : 2 * len(expected)]
    assert sorted(first) == expected
    assert first != expected
    assert first != second
    assert set(second) <= set(expected)
    assert rows(start_step=6) == whole[6 * 16 :]

    # What a worker gets depends on (seed, train step) alone: not on the number of workers, nor on where it began.
    feed = WindowFeed(config.training_plan(), str(wall_dataset.path), part_bytes=40 * 2**10)
    halves = [feed.share(step, rank, 2) for step in (5, 6, 7) for rank in (1, 0)]
    assert [_ids(half) for half in halves] == [
        whole[start : start + 8] for step in (5, 6, 7) for start in (16 * step + 8, 16 * step)
    ]
    # Another number of workers goes on from an earlier checkpoint.
    assert _ids(feed.share(2, 3, 4)) == whole[44:48]
    assert _ids(feed.share(3, 0, 1)) == whole[48:64]
    damaged = shutil.copytree(wall_dataset.path, tmp_path / "damaged")
    shard = max(damaged.rglob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    shard.write_bytes(content)
    feed.close()
    with pytest.raises(DataError, match=shard.name):
        WindowFeed(config.training_plan(), str(damaged), part_bytes=40 * 2**10).share(steps - 1, 0, 1)


def _ids(batch):
    return list(zip(batch["episode_id"].to_pylist(), batch["start"].to_pylist(), strict=True))


@pytest.mark.long
def test_training_on_the_stream(ray_local, wall_dataset, tmp_path):
    from jepawm.distributed.train import ray_train
    from jepawm.distributed.window_stream import WindowFeed

    config = _config(
        data=DataConfig(loader="stream", held_out_fraction=0.1),
        train=replace(_config().train, num_train_steps=60, log_every=10, checkpoint_every=60),
    )
    feed = WindowFeed(config.training_plan(), str(wall_dataset.path))
    batch = decode_window_batch(feed.share(0, 0, 1), wall_dataset.spec)
    feed.close()
    same = ShardReader(wall_dataset, frameskip=5, num_frames_in_window=4).read(batch.episode_ids, batch.starts)
    np.testing.assert_array_equal(batch.pixels, same.pixels)
    np.testing.assert_array_equal(batch.actions, same.actions)
    ray_train(config, str(wall_dataset.path), str(tmp_path))
    records = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert records[-1]["train_step"] == 60
    assert records[-1]["train/loss"] < records[0]["train/loss"]


@pytest.mark.long
def test_a_killed_worker_costs_the_steps_since_its_checkpoint_and_the_weights_are_the_local_loops(
    ray_local, wall_dataset, tmp_path, monkeypatch
):
    from jepawm.distributed import train

    # Ray sends a function inside a function by value, so the worker runs it without this file.
    def train_and_die_once(job):
        from jepawm.distributed import train

        write, death = train.MetricsWriter.write, Path(job["run_dir"]) / "death"

        def write_and_die(writer, record):
            write(writer, record)
            if record["train_step"] == 9 and not death.exists():
                death.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)

        train.MetricsWriter.write = write_and_die
        train.train_on_worker(job)

    config = _config(scaling=ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=1))
    run_dir, metrics = tmp_path / "ray", str(tmp_path / "ray" / "metrics.jsonl")
    run_dir.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(train, "train_on_worker", train_and_die_once)
        checkpoint = train.ray_train(config, str(wall_dataset.path), str(run_dir))
    # The worker died after train step 9, three steps past its checkpoint.
    assert int((run_dir / "death").read_text()) != os.getpid()
    local = LocalRuntime().train(_config(), str(wall_dataset.path), str(tmp_path / "local"))
    assert _largest_difference(_weights(checkpoint), _weights(local)) == 0
    assert [record["train_step"] for record in read_metrics(metrics)] == [3, 6, 9, 12]
    # A longer training of the same run goes on from the last checkpoint.
    longer = replace(config, train=replace(config.train, num_train_steps=15))
    checkpoint = train.ray_train(longer, str(wall_dataset.path), str(run_dir))
    assert checkpoint.endswith("step-00000015")
    assert [record["train_step"] for record in read_metrics(metrics)] == [3, 6, 9, 12, 15]


@pytest.mark.long
def test_a_node_that_is_taken_away_and_a_signal_end_at_a_checkpoint_and_lose_no_step(
    ray_local, wall_dataset, tmp_path, monkeypatch
):
    from jepawm.distributed import train, worker_count

    def train_on_a_node_that_is_taken_away_once(job):
        import ray.train

        from jepawm.distributed import train
        from jepawm.training import stopping

        told = Path(job["run_dir"]) / "told"

        def preemption():
            # After the fourth question the node goes away, and the next workers are on another one.
            questions = len(told.read_text()) if told.exists() else 0
            told.write_text("?" * (questions + 1))
            return "soon" if questions == 3 else None

        stopping.ASK_EVERY_S = 0.0
        ray.train.get_preemption_info = preemption
        train.train_on_worker(job)

    fits, fit = [], train._fit
    monkeypatch.setattr(train, "_fit", lambda *arguments: fits.append(1) or fit(*arguments))
    monkeypatch.setattr(train, "train_on_worker", train_on_a_node_that_is_taken_away_once)
    # At first there is room for one worker; when its node goes away, two others come.
    monkeypatch.setattr(worker_count, "live_resources", lambda _claim: {"CPU": 1.0 * len(fits)})
    monkeypatch.setattr(worker_count, "used_by_others", lambda claim: {})
    config = _config(
        train=replace(_config().train, num_train_steps=100_000, checkpoint_every=100_000, log_every=1),
        scaling=ScalingConfig(num_workers=2, min_workers=1, cpus_per_worker=1, max_train_failures=0),
    )
    metrics, ended = tmp_path / "metrics.jsonl", threading.Event()

    def send_a_signal_after_nine_steps():
        while not ended.wait(0.05):
            if len(read_metrics(str(metrics))) >= 9:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    sender = threading.Thread(target=send_a_signal_after_nine_steps)
    sender.start()
    try:
        with pytest.raises(Interrupted) as stop:
            train.ray_train(config, str(wall_dataset.path), str(tmp_path))
    finally:
        ended.set()
        sender.join()
    assert stop.value.signal_number == signal.SIGTERM
    assert len(fits) == 2
    records = read_metrics(str(metrics))
    steps = [record["train_step"] for record in records]
    assert steps == list(range(1, len(steps) + 1))
    assert [record["scaling/num_workers"] for record in records] == [1] * 4 + [2] * (len(steps) - 4)
    checkpoints = tmp_path / "checkpoints"
    saved = sorted(path.name for path in checkpoints.glob("step-*"))
    assert saved == ["step-00000004", f"step-{len(steps):08d}"]
    before, local = (_trained_locally(config, wall_dataset, number) for number in (len(steps) - 1, len(steps)))
    # The learning rate of a long run grows step by step, so equal weights mean equal steps. Two workers round otherwise
    # than one, by a share of 1e-6; where a gradient is as small as that, AdamW may step to the other side.
    ours = _weights(checkpoints / saved[-1])
    assert _distance(ours, local) < 0.1 * _distance(before, local)


def _trained_locally(config, dataset, num_steps):
    state = run_training(config.training_plan(), str(dataset.path), stop=lambda train_step: train_step == num_steps)
    assert state.train_step == num_steps
    return {name: value.numpy() for name, value in state.objective.model.state_dict().items()}


def _distance(a, b):
    assert a.keys() == b.keys()
    return float(np.sqrt(sum(np.square(a[key] - b[key], dtype=np.float64).sum() for key in a)))
