"""A model in two stages from one command: the recipe `pusht` at toy size, through the whole pipeline."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jepawm
from jepawm.checkpoints.model_folder import load_world_model
from jepawm.config import RunConfig
from jepawm.config.recipe_files import load_recipe, recipe_layers
from jepawm.config.yaml_io import resolve
from jepawm.console import Console
from jepawm.errors import ConfigError, DataError
from jepawm.runs.episodes import dataset_path
from jepawm.runs.features import encode_run
from jepawm.runs.pipeline import evaluate_run, train_run
from jepawm.runs.stages import base_run
from jepawm.tracking import METRICS_FILE, read_metrics

TRAIN = {"num_train_steps": 4, "batch_size": 8, "checkpoint_every": 2, "log_every": 2, "diagnostics_windows": 16}
TOY: dict[str, Any] = {
    "local": True,
    "device": "cpu",
    "data": {"num_episodes": 8, "env_steps_per_episode": 30, "held_out_fraction": 0.25},
    "model": {"encoder": {"base_training": {"train": TRAIN}}},
    "train": TRAIN,
    "planner": {"num_samples": 8, "num_elites": 3, "num_iterations": 2, "num_iterations_warm": 1},
    "evaluation": {"num_episodes": 2, "num_animations": 1},
    "tracking": {"mlflow": False},
}


def toy(**changes: Any) -> RunConfig:
    config, _ = resolve(RunConfig, [*recipe_layers("pusht"), ("toy", TOY), ("test", changes)])
    return config


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs and episodes of this file are."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(home))
    monkeypatch.setenv("JEPAWM_CACHE", str(home / "cache"))


@pytest.fixture(scope="module")
def ran(home: Path):
    """A run of the toy recipe: its directory, and what it found."""
    pytest.importorskip("pymunk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPAWM_HOME", str(home))
        patch.setenv("JEPAWM_CACHE", str(home / "cache"))
        return home / "run", train_run(toy(run_dir=str(home / "run")), "pusht", Console())


def test_both_stages_leave_one_model(ran, tmp_path):
    run_dir, result = ran
    assert result.wall_s.keys() >= {"collect", "train base", "encode", "train", "evaluate"}
    assert [read_metrics(str(folder / METRICS_FILE))[-1]["train_step"] for folder in (run_dir / "base", run_dir)] == [
        4,
        4,
    ]
    # The encoder below reads the frames, so its normalisation is told.
    assert result.conditions["image_normalisation"].startswith("data, ")
    # The exported model alone encodes, unrolls and plans.
    alone = shutil.copytree(run_dir / "model", tmp_path / "model")
    model, spec = load_world_model(str(alone))
    assert (model.num_patches, model.latent_dim) == (1, 16)
    np.testing.assert_array_equal(spec.statistics.action_std, np.float32([0.2, 0.2]))
    base, _ = load_world_model(str(run_dir / "base" / "model"))
    for name, value in base.encoder.state_dict().items():
        assert torch.equal(model.encoder.base.state_dict()[name], value), name
    agent = jepawm.load(str(alone))
    rng = np.random.default_rng(0)
    seen = [{"pixels": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), "proprio": np.float32([200, 300, 0, 0])}] * 2
    plan = agent.plan(*seen, num_iterations=1)
    assert plan.actions.shape == (25, 2)
    assert np.isfinite(plan.cost)


def test_a_run_that_was_stopped_goes_on_where_it_was(ran):
    run_dir, result = ran
    weights = (run_dir / "model" / "model.safetensors").read_bytes()
    (run_dir / "finished").unlink()
    shutil.rmtree(run_dir / "checkpoints" / "step-00000004")
    features = next(Path(dataset_path(toy())).glob("features/*/features-*.npy"))
    kept = {path: path.stat().st_mtime_ns for path in (features, *run_dir.glob("base/checkpoints/*/model.safetensors"))}
    again = train_run(toy(run_dir=str(run_dir)), "pusht", Console())
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (run_dir / "model" / "model.safetensors").read_bytes() == weights
    assert again.played.protocols["two_plan"].planned.episodes == result.played.protocols["two_plan"].planned.episodes


def test_features_of_its_episodes_are_those_of_the_model(ran, capsys):
    run_dir, _ = ran
    model_dir = str(run_dir / "model")
    folder = encode_run(toy(), Console(), model_dir)
    assert "encoded earlier" in capsys.readouterr().out
    stated = json.loads(Path(folder, "store.json").read_text())
    assert (stated["num_patches"], stated["latent_dim"], stated["dtype"]) == (16, 16, "float32")
    encode_run(replace(toy(), data=replace(toy().data, features_dtype="float16")), Console(), model_dir)
    said = capsys.readouterr().out
    # 8 episodes of 7 kept frames, 16 x 16 numbers of 2 bytes.
    assert "56 frames of 56 x 16 x 16 float16, 0.0 MiB on disk" in said
    assert re.search(r"^used +0 GPU-hours, \S+ CPU-hours; process-hours: this process", said, re.MULTILINE)


def test_the_model_is_judged_again_without_its_base(ran, tmp_path, capsys):
    run_dir, result = ran
    moved = run_dir / "base-moved"
    (run_dir / "base").rename(moved)
    try:
        config = replace(toy(), run_dir=str(tmp_path), model=_trained_model(run_dir))
        again = evaluate_run(config, Console(), str(run_dir / "model"))
    finally:
        moved.rename(run_dir / "base")
    assert "process-hours: this process" in capsys.readouterr().out
    assert again.played.protocols["two_plan"].planned.episodes == result.played.protocols["two_plan"].planned.episodes


def _trained_model(run_dir: Path):
    from jepawm.config.yaml_io import load_yaml

    return load_yaml(RunConfig, run_dir / "model" / "config.yaml").model


def test_the_base_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    late = {"model": {"encoder": {"base_training": {"num_frames_in_window": 9}}}}
    with pytest.raises(ConfigError, match=r"shorter than one training window: 9 frames, 5 env_steps apart, need 40"):
        train_run(toy(**late), "pusht", Console())
    many = {"model": {"encoder": {"base_training": {"train": {"batch_size": 512}}}}}
    with pytest.raises(
        DataError, match=r"train.batch_size is 512; 6 training episodes of the episodes to collect hold 30"
    ):
        train_run(toy(**many), "pusht", Console())
    for stated, message in (
        ({"data": {"action_std": [0.2]}}, r"data.action_std states 1 numbers, action has 2 \(target_x, target_y\)"),
        ({"objective": {"proprio_dims": [0, 4]}}, r"objective.proprio_dims names number 4, proprio has numbers 0 to 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_run(toy(**stated), "pusht", Console())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"base is not trained yet: jepawm train trains and encodes it"):
        encode_run(toy(), Console(), None)
    with pytest.raises(ConfigError, match=r"model.encoder.name 'conv' trains, so its features change"):
        encode_run(RunConfig(local=True), Console(), None)


def test_the_recipe_states_the_measured_settings():
    config = load_recipe("pusht")
    base = base_run(config)
    assert base is not None
    assert base_run(base) is None
    shared = {"prediction": 1.0, "variance": 16.0, "covariance": 8.0, "time_similarity": 12.0, "inverse_dynamics": 0.0}
    for stage in (base, config):
        assert {name: getattr(stage.loss, name) for name in shared} == shared
        assert (stage.optim.weight_decay, stage.optim.grad_clip_norm, stage.optim.schedule.final_fraction) == (
            1e-5,
            2.0,
            0.02,
        )
    facts = [
        (
            stage.data.num_frames_in_window,
            stage.train.batch_size,
            stage.train.num_train_steps,
            stage.optim.learning_rate,
        )
        for stage in (base, config)
    ]
    assert facts == [(3, 96, 11400, 1.5e-3), (6, 256, 5800, 1e-3)]
