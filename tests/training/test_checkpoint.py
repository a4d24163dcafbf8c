"""Checkpoints are read strictly, damage is named, and nothing in them is executed."""

import dataclasses
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import spec_of
from safetensors.torch import load_file, save_file

from jepawm.checkpoints.model_folder import copy_model, load_world_model, read_spec, weights_sha256
from jepawm.config import DataConfig, EnvConfig, LossConfig, RunConfig
from jepawm.errors import CheckpointError, ConfigError
from jepawm.training.checkpoint import (
    checkpoint_name,
    checkpoint_step,
    fresh_state,
    list_checkpoints,
    newest_checkpoint,
    restore_training,
    save_checkpoint,
)
from jepawm.training.loop import TrainingState
from jepawm.types import ActionSpec, Statistics

CPU = torch.device("cpu")
CONFIG = RunConfig(seed=4, env=EnvConfig(image_size=32), data=DataConfig(frameskip=2))
PLAN = CONFIG.training_plan()
SPEC = spec_of(
    CONFIG,
    Statistics(np.float32([0.1, 0.2]), np.float32([1.5, 2.5]), np.float32([3, 4]), np.float32([5, 6])),
    ActionSpec(2, (-1.0, -np.inf), (1.0, np.inf), max_norm=1.8, names=("dx", "dy"), units="px"),
)


def trained_state() -> TrainingState:
    """A state after one update, so that the optimizer holds moments."""
    state = fresh_state(PLAN, SPEC, CPU)
    pixels = torch.randint(0, 256, (4, 3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    state.objective(pixels, torch.zeros(4, 3, 2), torch.ones(4, 2, 4), 0)["loss"].backward()
    state.optimizer.step()
    state.train_step, state.seconds = 11, 2.5
    return state


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(str(tmp_path / "saved"), trained_state(), SPEC)
    return tmp_path / "saved"


def test_a_loaded_model_gives_the_same_latents(checkpoint: Path) -> None:
    model, spec = load_world_model(str(checkpoint))
    original = trained_state().objective.model.eval()
    pixels = torch.randint(0, 256, (2, 1, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    latents = original.encode(pixels)
    assert torch.equal(model.encode(pixels).visual, latents.visual)
    actions = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(model.unroll(latents, actions).visual, original.unroll(latents, actions).visual)
    assert not model.training
    assert spec.run == SPEC.run
    assert spec.action == SPEC.action
    np.testing.assert_array_equal(spec.statistics.action_std, SPEC.statistics.action_std)
    assert spec.statistics.action_std.dtype == np.float32


def test_a_restored_state_is_the_saved_one(checkpoint: Path) -> None:
    saved, state = trained_state(), fresh_state(PLAN, SPEC, CPU)
    restore_training(str(checkpoint), state)
    assert (state.train_step, state.seconds) == (11, 2.5)
    for name, value in saved.objective.state_dict().items():
        assert torch.equal(value, state.objective.state_dict()[name]), name
    moments = state.optimizer.state_dict()["state"]
    assert moments
    for key, expected in saved.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[key][name]) for name, value in expected.items())


def test_saving_again_replaces_and_leaves_no_rubbish(checkpoint: Path) -> None:
    save_checkpoint(str(checkpoint), fresh_state(PLAN, SPEC, CPU), SPEC)
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["saved"]
    state = trained_state()
    restore_training(str(checkpoint), state)
    assert state.train_step == 0


# -- damage ----------------------------------------------------------------------------------------------------------


def truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return apply


@pytest.mark.parametrize("name", ["format_version", "config.yaml", "model.safetensors", "stats.json"])
def test_a_missing_file_is_named(name: str, checkpoint: Path) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=f"not a whole checkpoint: missing {name}"):
        load_world_model(str(checkpoint))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), r"checkpoint folder not found"),
        (write("format_version", "2\n"), r"format_version is '2', this jepawm reads '1'; install a newer"),
        (truncate("model.safetensors"), r"model.safetensors is damaged or truncated"),
        (write("model.safetensors", ""), r"model.safetensors is damaged or truncated"),
        (truncate("stats.json"), r"stats.json is damaged"),
        (write("stats.json", "{}"), r"stats.json is damaged.*statistics"),
        (write("stats.json", "[]"), r"stats.json is damaged"),
        (
            change_weights(lambda weights: weights.pop("action_mean")),
            r"does not fit the model: missing action_mean",
        ),
        (change_weights(lambda weights: weights.update(extra=torch.ones(1))), r"unexpected extra"),
        (
            change_weights(lambda weights: weights.update(action_std=torch.ones(3))),
            r"action_std has shape \[3\], expected \[4\]",
        ),
    ],
)
def test_damage_is_named(damage: Callable[[Path], None], message: str, checkpoint: Path) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        load_world_model(str(checkpoint))


def test_a_damaged_configuration_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.yaml").write_text("train: [")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_spec(str(checkpoint))


def test_a_configuration_of_another_version_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("config_version: 2", "config_version: 3"))
    with pytest.raises(ConfigError, match=r"config\.yaml: config_version is 3, this jepawm reads 2"):
        read_spec(str(checkpoint))
    path.write_text(text.replace("  encoder:\n", "  encoder:\n    warp_drive: true\n"))
    with pytest.raises(ConfigError, match=r"config\.yaml: unknown key 'encoder.warp_drive'"):
        read_spec(str(checkpoint))


# -- training state --------------------------------------------------------------------------------------------------


def test_an_exported_model_plans_but_does_not_train(checkpoint: Path, tmp_path: Path) -> None:
    exported = tmp_path / "model"
    assert copy_model(str(checkpoint), str(exported)) == weights_sha256(str(checkpoint))
    assert sorted(entry.name for entry in exported.iterdir()) == [
        "config.yaml",
        "format_version",
        "model.safetensors",
        "stats.json",
    ]
    load_world_model(str(exported))
    with pytest.raises(CheckpointError, match=r"exported model without training_state\.pt; training cannot resume"):
        restore_training(str(exported), fresh_state(PLAN, SPEC, CPU))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.target),))


def test_a_pickle_bomb_in_the_training_state_is_refused_unexploded(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    torch.save({"train_step": 1, "optimizer": Bomb(target)}, checkpoint / "training_state.pt")
    with pytest.raises(CheckpointError, match=r"training_state\.pt"):
        restore_training(str(checkpoint), fresh_state(PLAN, SPEC, CPU))
    assert not target.exists()
    # The bomb is a real one.
    torch.load(checkpoint / "training_state.pt", weights_only=False)
    assert target.is_dir()


@pytest.mark.parametrize("damage", [truncate("training_state.pt"), write("training_state.pt", "hello")])
def test_a_damaged_training_state_is_named(damage: Callable[[Path], None], checkpoint: Path) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=r"training_state\.pt is damaged"):
        restore_training(str(checkpoint), fresh_state(PLAN, SPEC, CPU))


def test_a_training_state_that_lacks_something_is_named(checkpoint: Path) -> None:
    torch.save({"train_step": 3}, checkpoint / "training_state.pt")
    with pytest.raises(CheckpointError, match=r"training_state\.pt is damaged"):
        restore_training(str(checkpoint), fresh_state(PLAN, SPEC, CPU))


def test_a_head_in_one_of_checkpoint_and_configuration_only_is_refused(checkpoint: Path) -> None:
    config = dataclasses.replace(CONFIG, loss=LossConfig(inverse_dynamics=0))
    with pytest.raises(CheckpointError, match="inverse-dynamics head is on in one"):
        restore_training(str(checkpoint), fresh_state(config.training_plan(), SPEC, CPU))


@pytest.mark.parametrize("cut", ["model.safetensors", "training_state.pt"])
def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoint(cut: str, checkpoint: Path) -> None:
    # A limit on the size of files fails in the same calls as a full disk does.
    limit = (checkpoint / cut).stat().st_size - 1000
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    state = trained_state()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError) as refused:
            save_checkpoint(str(checkpoint), state, SPEC)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(refused.value)
    assert message.startswith(f"the checkpoint {checkpoint} could not be written (")
    assert "GiB are free there. Free some space" in message
    assert "\n" not in message
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert os.listdir(checkpoint.parent) == [checkpoint.name]


# -- folders of checkpoints ------------------------------------------------------------------------------------------


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert newest_checkpoint(str(tmp_path / "none")) is None
    assert newest_checkpoint(str(tmp_path)) is None
    for step in (90, 1000, 200):
        (tmp_path / checkpoint_name(step)).mkdir()
    (tmp_path / f"{checkpoint_name(2000)}.tmp-77").mkdir()
    (tmp_path / "notes").mkdir()
    assert list_checkpoints(str(tmp_path)) == [checkpoint_name(step) for step in (90, 200, 1000)]
    newest = newest_checkpoint(str(tmp_path))
    assert newest == str(tmp_path / checkpoint_name(1000))
    assert checkpoint_step(newest) == checkpoint_step(f"{newest}/") == 1000
    assert checkpoint_step(None) is None


def test_action_specs_survive_json() -> None:
    assert ActionSpec.from_dict(json.loads(json.dumps(SPEC.action.to_dict()))) == SPEC.action
    with pytest.raises(ConfigError, match="low must lie below high"):
        ActionSpec(1, (1.0,), (1.0,))
    with pytest.raises(ConfigError, match="need 2 numbers each, found 1 and 2"):
        ActionSpec(2, (1.0,), (1.0, 2.0))
