"""A pretraining as a run: found again, interrupted, exported; and a world model on what it exported."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_pretraining import SHARES, tensors_of, tiny

from jepawm.cli.pretrain import PRETRAIN
from jepawm.config import RunConfig
from jepawm.config.command_line import parse_as
from jepawm.config.masking import TubesMaskConfig
from jepawm.config.pretrain import PretrainConfig
from jepawm.config.recipe_files import load_recipe, recipe_names
from jepawm.config.yaml_io import from_dict, to_dict
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.encoders import build_encoder
from jepawm.errors import ConfigError, DataError
from jepawm.interrupts import Interrupted
from jepawm.runs.listing import list_runs
from jepawm.runs.preflight.clips import open_clips
from jepawm.runs.pretrain import check_pretraining, pretrain_run
from jepawm.tracking import read_metrics
from jepawm.training.checkpoint import list_checkpoints
from jepawm.training.pretrain_state import STATE_FILE
from jepawm.training.run import run_training

QUIET = Console(quiet=True)


def state_of(run_dir: Path, train_step: int) -> dict[str, torch.Tensor]:
    path = run_dir / "checkpoints" / f"step-{train_step:08d}" / STATE_FILE
    return tensors_of(torch.load(path, weights_only=True))


def test_an_interrupted_run_goes_on_by_the_same_command_and_exports_the_teacher(
    wall_dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepawm.training import pretrain

    config = tiny(str(wall_dataset.path))
    whole = pretrain_run(replace(config, run_dir=str(tmp_path / "whole")), "pretrain/tiny", QUIET)
    update, made = pretrain.PretrainUpdate.__call__, []

    def interrupted(self, batch):  # type: ignore[no-untyped-def]
        made.append(batch.train_step)
        if len(made) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(pretrain.PretrainUpdate, "__call__", interrupted)
        with pytest.raises(Interrupted) as stopped:
            pretrain_run(config, "pretrain/tiny", QUIET)
    assert stopped.value.remark == "the same command goes on from train step 4 of 6 (stage 2 of 2)"
    (run,) = (each for each in list_runs() if each.state == "unfinished")
    encoder = pretrain_run(config, "pretrain/tiny", QUIET)
    assert encoder == os.path.join(run.folder, "encoder")
    ours, theirs = state_of(Path(run.folder), 6), state_of(tmp_path / "whole", 6)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert len(list_checkpoints(os.path.join(run.folder, "checkpoints"))) == config.train.num_checkpoints_kept
    assert [record["train_step"] for record in read_metrics(os.path.join(run.folder, "metrics.jsonl"))] == [
        *range(1, 7)
    ]
    # Both exports are the teacher's weights.
    for name in ("model.safetensors", "encoder.yaml"):
        assert Path(encoder, name).read_bytes() == Path(whole, name).read_bytes()
    from safetensors.torch import load_file

    exported = load_file(os.path.join(encoder, "model.safetensors"))
    for name, value in exported.items():
        assert torch.equal(value, ours[f"/module/teacher.encoder.{name}"]), name


@pytest.mark.parametrize("trainable", [False, True])
def test_a_world_model_trains_on_the_exported_encoder(
    trainable: bool, wall_dataset: EpisodeDataset, tmp_path: Path
) -> None:
    config = tiny(str(wall_dataset.path), run_dir=str(tmp_path / "run"))
    config = replace(config, stages=(replace(config.stages[0], num_train_steps=1, image_size=64),))
    encoder = pretrain_run(config, "pretrain/tiny", QUIET)
    settings = {
        "device": "cpu",
        "env": {"id": "none", "image_size": 64},
        "data": {"source": "dataset", "path": str(wall_dataset.path), "loader": "shards", "held_out_fraction": 0.1},
        "model": {"encoder": {"name": "vjepa2", "weights": encoder, "trainable": trainable}},
        "train": {"num_train_steps": 2, "batch_size": 4, "precision": "float32", "diagnostics_windows": 8},
        "evaluation": {"goal_source": "sampler"},
    }
    run = from_dict(RunConfig, settings)
    records = []
    state = run_training(run.training_plan(), str(wall_dataset.path), on_metrics=records.append)
    assert [record["train_step"] for record in records] == [2]
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        exported = build_encoder(run.model.encoder, 64)(frames)
        trained = state.objective.model.encoder(frames)
    assert torch.equal(exported, trained) == (not trainable)
    assert float(exported.std()) > 0


def test_a_run_of_other_stages_is_another_run(wall_dataset: EpisodeDataset, tmp_path: Path) -> None:
    config = tiny(str(wall_dataset.path), run_dir=str(tmp_path / "run"))
    config = replace(config, stages=(replace(config.stages[0], num_train_steps=1),))
    pretrain_run(config, "pretrain/tiny", QUIET)
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        check_pretraining(replace(config, stages=(replace(config.stages[0], num_train_steps=2),)))
    # How often it is written does not make another run of it.
    check_pretraining(replace(config, train=replace(config.train, checkpoint_every=1)))


def test_what_cannot_work_is_refused_before_anything_is_written(wall_dataset: EpisodeDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pass --clips\.paths FOLDER"):
        pretrain_run(tiny(run_dir=str(tmp_path / "run")), "pretrain/tiny", QUIET)
    config = tiny(str(wall_dataset.path), run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"stages\.0\.image_size must be a multiple .* found 30; use 24 or 32"):
        replace(config, stages=(replace(config.stages[0], image_size=30),))
    # Before a runtime is started.
    with pytest.raises(DataError, match="no such folder"):
        check_pretraining(tiny(str(tmp_path / "nothing"), run_dir=str(tmp_path / "run")))
    # 3 x 3 patches in the first stage, and 1 x 1 in the second.
    small = replace(config.stages[1], image_size=8)
    with pytest.raises(ConfigError, match=r"stages\.1: masks\.sets: .* of the 1 places"):
        check_pretraining(replace(config, masks=TubesMaskConfig(sets=SHARES), stages=(config.stages[0], small)))
    many = replace(config.clips, clips_per_video=4000)
    stages = tuple(replace(stage, batch_size=4000) for stage in config.stages)
    with pytest.raises(DataError, match=r"frames cannot be split into 4000 parts"):
        check_pretraining(replace(config, clips=many, stages=stages))
    assert not (tmp_path / "run").exists()
    check_pretraining(config)


def test_nothing_is_decoded_where_videos_are_counted(
    wall_dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(dataset: EpisodeDataset) -> None:
        raise AssertionError(f"{dataset.path} is decoded")

    monkeypatch.setattr("jepawm.data.clips.sources.FrameCache", decode)
    config = tiny(str(wall_dataset.path), run_dir=str(tmp_path / "run"))
    cached = replace(config, clips=replace(config.clips, loader="cache"))
    check_pretraining(cached)
    (source,) = open_clips(cached)
    assert source.num_frames_each.tolist() == wall_dataset.num_frames_each.tolist()


def test_a_source_at_a_uri_is_checked_when_it_is_here(
    wall_dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("s3://bucket/clips", run_dir=str(tmp_path / "run"))
    check_pretraining(config)
    monkeypatch.setattr("jepawm.runs.pretrain.with_local_clips", lambda _: tiny(str(tmp_path / "nothing")))
    with pytest.raises(DataError, match="no such folder"):
        pretrain_run(config, "pretrain/tiny", QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", recipe_names("pretrain"))
def test_every_recipe_is_read_and_is_no_recipe_of_train(recipe: str) -> None:
    config, name = parse_as(PretrainConfig, ["--recipe", recipe, "--stages.0.num-train-steps", "7"], PRETRAIN)
    assert name == recipe
    assert config.stages[0].num_train_steps == 7
    # YAML and back.
    assert from_dict(PretrainConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match="is a recipe of `jepawm pretrain`"):
        load_recipe(recipe)


def test_the_published_recipe_has_the_published_rates() -> None:
    """The rates of V-JEPA 2: 1e-4 to 5.25e-4 over 12,000 updates, constant, then a line that ends at 1.06e-4."""
    from jepawm.training.schedules import learning_rate, weight_decay

    config, _ = parse_as(PretrainConfig, ["--recipe", "pretrain/vjepa2_large"], PRETRAIN)

    def rate(train_step: int) -> float:
        optim, first, steps = config.schedule_of(config.stage_at(train_step))
        return learning_rate(optim, train_step - first, steps)

    assert config.num_train_steps == 252_000
    assert rate(0) == pytest.approx(1e-4 + 4.25e-4 / 12_000, rel=1e-9)
    assert rate(11_999) == rate(239_999) == pytest.approx(5.25e-4, rel=1e-9)
    assert rate(240_000) == pytest.approx(5.25e-4 + (1e-6 - 5.25e-4) / 15_000, rel=1e-9)
    assert rate(251_999) == pytest.approx(1.058e-4, rel=1e-9)
    assert weight_decay(config.optim, 100_000, 252_000) == 0.04
    assert config.model.teacher.momentum_at(251_999, 252_000) == 0.99925
    assert [(stage.num_frames, stage.image_size, stage.batch_size) for stage in config.stages] == [
        (16, 256, 3072),
        (64, 256, 3072),
    ]
