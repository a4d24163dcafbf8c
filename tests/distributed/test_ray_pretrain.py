"""Pretraining on Ray Train: two workers train what one process trains, across a stage change."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_pretraining import tensors_of, tiny

from jepawm.config.scaling import ScalingConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
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
