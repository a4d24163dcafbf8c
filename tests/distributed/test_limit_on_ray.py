"""The hours of a training on Ray are counted, and used-up hours end it at a checkpoint."""

import threading
from pathlib import Path

import pytest
from configs import few_steps

from jepawm.config import DataConfig, RunConfig, ScalingConfig
from jepawm.data import EpisodeDataset
from jepawm.distributed import stopping
from jepawm.interrupts import StopRequest
from jepawm.runs.usage import TRAINING_WORKERS, UsageMeter
from jepawm.training.checkpoint import checkpoint_step


def test_used_up_hours_ask_the_workers_to_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, asked, looks = threading.Event(), [], []

    class Signal:
        class ask:
            @staticmethod
            def remote() -> None:
                asked.append(1)
                ended.set()

    def spent() -> bool:
        looks.append(1)
        return len(looks) >= 3

    monkeypatch.setattr(stopping, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(stopping.ray, "get", lambda _: None)
    assert stopping.run_and_pass_on(lambda: ended.wait(60), StopRequest(), Signal, spent=spent)
    assert asked == [1]
    assert len(looks) >= 3


@pytest.mark.ray
@pytest.mark.long
def test_a_training_on_ray_ends_at_a_checkpoint(ray_local: None, wall_dataset: EpisodeDataset, tmp_path: Path) -> None:
    from jepawm.distributed.train import ray_train

    # So many steps that the workers cannot be done before the driver has looked.
    config = RunConfig(
        data=DataConfig(loader="cache", held_out_fraction=0.1),
        train=few_steps(100_000, batch_size=16, diagnostics_windows=32),
        scaling=ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=0),
    )
    usage, metrics = UsageMeter(), tmp_path / "metrics.jsonl"
    folder = ray_train(
        config,
        str(wall_dataset.path),
        str(tmp_path),
        usage=usage,
        spent=lambda: metrics.is_file() and metrics.stat().st_size > 0,
    )
    step = checkpoint_step(folder)
    assert step is not None
    assert 0 < step < 100_000
    hours = usage.total().roles[TRAINING_WORKERS]
    assert hours.process > 0
    assert (hours.gpu, hours.cpu) == (0.0, hours.process)
