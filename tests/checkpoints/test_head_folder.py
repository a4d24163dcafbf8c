"""A head's folder: it reads back what was written, and only beside the model it was trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import unit_spec

from jepawm import hub
from jepawm.agent import Agent
from jepawm.checkpoints.head_folder import HeadSpec, head_names, heads_of_kind, load_head, read_head_spec, save_head
from jepawm.checkpoints.model_folder import (
    build_world_model,
    copy_model,
    load_world_model,
    save_world_model,
    weights_sha256,
)
from jepawm.config import EnvConfig, RunConfig
from jepawm.config.head import HeadConfig
from jepawm.errors import CheckpointError, ConfigError
from jepawm.heads import HeadShape, build_head
from jepawm.types import ActionSpec

CONFIG = RunConfig(env=EnvConfig(image_size=32))
ACTION = ActionSpec(2, (-1.0, -1.0), (1.0, 1.0), names=("x", "y"))
DISTANCE = HeadConfig(name="distance", hidden_dim=8, num_layers=1)


def save_model(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    spec = unit_spec(CONFIG, ACTION)
    save_world_model(folder, build_world_model(spec), spec)
    return str(folder)


@pytest.fixture
def model_dir(tmp_path: Path) -> str:
    """The demo's model with a distance head beside it."""
    folder = save_model(tmp_path / "run" / "model", 0)
    model, _ = load_world_model(folder)
    shape = HeadShape(model.encoder.grid, model.latent_dim, 0, 32, model.action_dim)
    torch.manual_seed(1)
    head = build_head(DISTANCE, shape)
    metrics = {"rank_correlation": 0.5, "undefined": float("nan")}
    spec = HeadSpec(DISTANCE, shape, weights_sha256(folder), metrics, {"num_episodes": 3})
    save_head(folder, "far", head, spec, [{"train_step": 1, "train/loss": 2.0}])
    return folder


def test_a_head_reads_back_as_it_was_written(model_dir: str) -> None:
    head, spec = load_head(model_dir, "far")
    assert (spec.config, spec.training) == (DISTANCE, {"num_episodes": 3})
    assert spec.metrics["rank_correlation"] == 0.5
    assert np.isnan(spec.metrics["undefined"])
    assert not head.training
    torch.manual_seed(1)
    expected = build_head(DISTANCE, spec.shape).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in head.state_dict().items())
    assert head_names(model_dir) == heads_of_kind(model_dir, "distance") == ["far"]
    assert heads_of_kind(model_dir, "image", "state") == []
    (record,) = (json.loads(line) for line in Path(model_dir, "heads", "far", "metrics.jsonl").read_text().splitlines())
    assert record == {"train_step": 1, "train/loss": 2.0}


def test_the_hub_and_the_agent_find_it(model_dir: str) -> None:
    run_dir = str(Path(model_dir).parent)
    agent = Agent(*load_world_model(model_dir))
    expected = load_head(model_dir, "far")[0].state_dict()
    for found in (hub.load_head(run_dir, "far"), hub.load_head(model_dir, "far"), agent.head("far")):
        assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    assert agent.head("far") is agent.head("far")
    with pytest.raises(CheckpointError, match=r"has no head 'fat' \(did you mean 'far'\?\); train one with"):
        agent.head("fat")
    with pytest.raises(ConfigError, match="this model was read from none"):
        Agent(agent.model, unit_spec(CONFIG, ACTION)).head("far")


def test_a_head_of_other_weights_is_refused(model_dir: str, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", 2)
    shutil.copytree(Path(model_dir, "heads"), Path(other, "heads"))
    with pytest.raises(CheckpointError, match=r"trained on the latents of a model with weights \w{16}, the weights of"):
        load_head(other, "far")
    with pytest.raises(CheckpointError, match="train it again"):
        heads_of_kind(other, "image")


def test_a_copy_of_the_same_weights_keeps_heads_and_one_of_others_drops_them(model_dir: str, tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "checkpoint")
    copy_model(model_dir, checkpoint)
    assert head_names(checkpoint) == []
    # The run that is continued exports its checkpoint again.
    copy_model(checkpoint, model_dir)
    assert head_names(model_dir) == ["far"]
    load_head(model_dir, "far")
    copy_model(save_model(tmp_path / "longer", 3), model_dir)
    assert head_names(model_dir) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "head.safetensors").unlink(), r"not a whole head: missing head\.safetensors"),
        (lambda folder: (folder / "format_version").write_text("2\n"), "this jepawm reads '1'; install a newer"),
        (lambda folder: (folder / "head.json").write_text("{"), "head.json is damaged"),
        (lambda folder: (folder / "head.json").write_text("{}"), "head.json is damaged: KeyError"),
        (lambda folder: (folder / "head.safetensors").write_bytes(b"not tensors"), "is damaged or truncated"),
    ],
)
def test_a_damaged_folder_is_refused(model_dir: str, damage, message: str) -> None:
    damage(Path(model_dir, "heads", "far"))
    with pytest.raises(CheckpointError, match=message):
        load_head(model_dir, "far")


def test_weights_of_another_size_are_refused(model_dir: str) -> None:
    path = Path(model_dir, "heads", "far", "head.json")
    data = json.loads(path.read_text())
    data["head"]["hidden_dim"] = 9
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"net\.0\.weight has shape \[8, .*expected \[9, "):
        load_head(model_dir, "far")
    data["head"]["hiden_dim"] = 9
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="unknown key 'hiden_dim'"):
        read_head_spec(model_dir, "far")
