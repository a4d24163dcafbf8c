"""Pretraining on Ray Train: two workers train what one process trains, across a stage change."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_pretraining import tensors_of, tiny

from jepawm.config.scaling import ScalingConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.distributed import pretrain
from jepawm.runs.pretrain import pretrain_run
from jepawm.tracking import read_metrics
from jepawm.training.pretrain_state import STATE_FILE

QUIET = Console(quiet=True)

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.mark.parametrize("loader", ["files", "stream"])
def test_two_workers_on_ray_are_one_process(
    loader: str, ray_local: None, wall_dataset: EpisodeDataset, tmp_path: Path
) -> None:
    def run(name: str, **changes: object) -> dict[str, torch.Tensor]:
        config = tiny(str(wall_dataset.path), run_dir=str(tmp_path / name), **changes)
        if not config.local and loader == "stream":
            config = replace(config, clips=replace(config.clips, loader="stream", num_threads=None))
        folder = pretrain_run(config, name, QUIET)
        return tensors_of(torch.load(Path(folder).parent / "checkpoints/step-00000006" / STATE_FILE, weights_only=True))

    one = run("one")
    scaling = ScalingConfig(num_workers=2, cpus_per_worker=1, max_train_failures=0)
    two = run("two", local=False, scaling=scaling)
    assert one.keys() == two.keys()
    # Six updates of AdamW, whose steps are at most about as large as the rate: where a gradient is all but zero its
    # sign may differ by the order of a sum.
    apart = [float((two[name] - value).abs().max()) for name, value in one.items() if name.startswith("/module")]
    assert max(apart) <= 2 * 6 * 3e-3
    records = [read_metrics(str(tmp_path / name / "metrics.jsonl")) for name in ("one", "two")]
    for ours, theirs in zip(*records, strict=True):
        # Masks are those of the global batch.
        for key in (key for key in ours if key.startswith("train/masks/")):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-6), key
    assert os.path.isfile(tmp_path / "two" / "encoder" / "model.safetensors")


def test_a_worker_that_dies_in_each_stage_leaves_the_weights_of_a_run_without_a_death(
    ray_local: None, wall_dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are at train steps 2, 4 and 6; the first stage ends at 3."""

    # Ray sends a function inside a function by value, so the worker runs it without this file.
    def pretrain_and_die_twice(job):  # type: ignore[no-untyped-def]
        from jepawm.distributed import pretrain, train

        write, deaths = train.MetricsWriter.write, Path(job["run_dir"]) / "deaths"

        def write_and_die(writer, record):  # type: ignore[no-untyped-def]
            write(writer, record)
            told = deaths.read_text().split() if deaths.exists() else []
            if record["train_step"] in (3, 5) and str(record["train_step"]) not in told:
                deaths.write_text(" ".join([*told, str(record["train_step"])]))
                os.kill(os.getpid(), signal.SIGKILL)

        train.MetricsWriter.write = write_and_die
        pretrain.pretrain_on_worker(job)

    config = tiny(str(wall_dataset.path), run_dir=str(tmp_path / "one"))
    pretrain_run(config, "one", QUIET)
    scaling = ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=2)
    (tmp_path / "died").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "pretrain_on_worker", pretrain_and_die_twice)
        pretrain.ray_pretrain(replace(config, local=False, scaling=scaling), str(tmp_path / "died"))
    assert (tmp_path / "died" / "deaths").read_text() == "3 5"
    one, died = (
        tensors_of(torch.load(tmp_path / name / "checkpoints/step-00000006" / STATE_FILE, weights_only=True))
        for name in ("one", "died")
    )
    assert one.keys() == died.keys()
    for name, value in one.items():
        torch.testing.assert_close(died[name], value, rtol=0, atol=0, msg=name)
    steps = [record["train_step"] for record in read_metrics(str(tmp_path / "died" / "metrics.jsonl"))]
    assert steps == [1, 2, 3, 4, 5, 6]
