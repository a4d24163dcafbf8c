"""A registered model loads back, plans the same, and is our folder: nothing in it is executed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import unit_spec

import jepawm
from jepawm.checkpoints.model_folder import build_world_model, save_world_model
from jepawm.cli.main import main
from jepawm.config import (
    EncoderConfig,
    EnvConfig,
    EvaluationConfig,
    ModelConfig,
    PlannerConfig,
    PredictorConfig,
    RunConfig,
)
from jepawm.config.yaml_io import save_yaml
from jepawm.errors import CheckpointError, TrackingError
from jepawm.tracking.registry import fetch_model, files_sha256, local_model
from jepawm.tracking.tracker import open_client
from jepawm.types import ActionSpec

CONFIG = RunConfig(
    env=EnvConfig(id="none", image_size=32),
    data=replace(RunConfig().data, source="dataset", path="nowhere"),
    model=ModelConfig(
        EncoderConfig(name="vit", latent_dim=24, depth=1, num_heads=2, patch_size=8),
        PredictorConfig(name="adaln", depth=1, num_heads=4),
    ),
    planner=PlannerConfig(horizon=3, num_samples=16, num_elites=4, num_iterations=2, precision="float32"),
    evaluation=EvaluationConfig(protocols=("per_chunk",), goal_source="sampler"),
)


@pytest.fixture
def run_dir(tmp_path: Path, tracker_uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is done, with a head beside its model; the tracker is the one that the environment names."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker_uri)
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "my-run"
    spec = unit_spec(CONFIG, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)))
    save_world_model(str(folder / "model"), build_world_model(spec).eval(), spec)
    for name in ("reach", "draw.training"):
        (folder / "model" / "heads" / name).mkdir(parents=True)
        (folder / "model" / "heads" / name / "config.yaml").write_text(name)
    save_yaml(CONFIG, str(folder / "config.yaml"))
    (folder / "finished").touch()
    return folder


def observation(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return {"pixels": pixels, "proprio": random.normal(size=2).astype(np.float32)}


def plan_of(source: Any) -> np.ndarray:
    torch.manual_seed(3)
    return np.asarray(jepawm.load(source, device="cpu").plan(observation(1), observation(2)).actions)


def test_a_registered_model_loads_back_and_plans_the_same(
    run_dir: Path, tracker_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register = ["track", "register", str(run_dir), "--name", "wall-walker"]
    assert main(register) == 0
    told = capsys.readouterr().out
    assert "registered as wall-walker, version 1" in told
    assert "jepawm.load('models:/wall-walker/1')" in told
    expected = plan_of(run_dir)
    for source in ("models:/wall-walker/1", "models:/wall-walker/latest"):
        np.testing.assert_array_equal(plan_of(source), expected)
    # The same weights are no new version; others are.
    assert main(register) == 0
    assert "version 1" in capsys.readouterr().out
    first = Path(local_model("models:/wall-walker/1"))
    spec = unit_spec(CONFIG, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)))
    save_world_model(str(run_dir / "model"), build_world_model(spec).eval(), spec)
    assert main(register) == 0
    assert "version 2" in capsys.readouterr().out
    open_client(tracker_uri).set_registered_model_alias("wall-walker", "best", "2")
    np.testing.assert_array_equal(plan_of("models:/wall-walker@best"), plan_of(run_dir))
    fetched = Path(local_model("models:/wall-walker/2"))
    assert files_sha256(fetched) == files_sha256(run_dir / "model")
    # Version 1 is what it was, also for a machine that fetches it now.
    again = fetch_model("models:/wall-walker/1", tracker_uri, str(run_dir.parent / "elsewhere"))
    assert files_sha256(Path(again)) == files_sha256(first) != files_sha256(fetched)


def test_finished_heads_go_along_and_what_is_fetched_once_stays(
    run_dir: Path, tracker_uri: str, tmp_path: Path
) -> None:
    assert main(["track", "register", str(run_dir), "--name", "w"]) == 0
    folder = Path(fetch_model("models:/w/1", tracker_uri, str(tmp_path / "kept")))
    assert [path.name for path in (folder / "heads").iterdir()] == ["reach"]
    # The registry may be away by now, but not the question of which files version 1 has.
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch_model("models:/w/1", tracker_uri, str(tmp_path / "kept")) == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_files_that_were_changed_in_the_store_are_refused(run_dir: Path, tracker_uri: str, tmp_path: Path) -> None:
    assert main(["track", "register", str(run_dir), "--name", "w"]) == 0
    client = open_client(tracker_uri)
    stored = Path(client.get_run(client.get_model_version("w", "1").run_id).info.artifact_uri.removeprefix("file://"))
    (held,) = stored.glob("registered/*/model.safetensors")
    held.write_bytes(b"evil")
    with pytest.raises(CheckpointError, match="are not those that were registered"):
        fetch_model("models:/w/1", tracker_uri, str(tmp_path / "kept"))
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("models:/w", r"expected models:/NAME/VERSION, models:/NAME/latest or models:/NAME@ALIAS"),
        ("models:/w/../1", r"expected models:/NAME/VERSION"),
        ("models:/nobody/latest", r"no model of that name is registered"),
        ("models:/nobody/1", r"models:/nobody/1 cannot be had: .*not found"),
        ("models:/foreign/1", r"was not registered with `jepawm track register`"),
    ],
)
def test_what_is_no_model_of_ours_is_refused(source: str, words: str, tracker_uri: str, tmp_path: Path) -> None:
    client = open_client(tracker_uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", (tmp_path / "pickles").as_uri())
    with pytest.raises(CheckpointError, match=words):
        fetch_model(source, tracker_uri, str(tmp_path / "kept"))


def test_a_run_without_a_model_cannot_be_registered(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_dir / "model" / "format_version").unlink()
    assert main(["track", "register", str(run_dir), "--name", "w"]) == 1
    assert "is no model folder: a run exports it when its training is done" in capsys.readouterr().err


def test_a_name_with_a_slash_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", "register", str(run_dir), "--name", "a/b"]) == 1
    assert "'a/b' is no name for a registered model" in capsys.readouterr().err
    assert issubclass(TrackingError, jepawm.JepawmError)
