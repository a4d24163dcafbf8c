"""`jepawm train-head` from a model folder and a dataset to a head, its metrics and what reads it."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import split_of, trained_spec

from jepawm import interrupts
from jepawm.agent import load_agent
from jepawm.checkpoints.head_folder import head_names, load_head
from jepawm.checkpoints.model_folder import load_world_model
from jepawm.cli.main import main
from jepawm.config import DataConfig, ModelConfig, OptimConfig, PlannerConfig, PredictorConfig, ProprioConfig, RunConfig
from jepawm.config.head import HeadConfig, HeadDataConfig, HeadJob, HeadTrainConfig
from jepawm.config.predictor import MLPPredictorConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset, EpisodeWriter
from jepawm.errors import CheckpointError, ConfigError, DataError, TrainingError
from jepawm.interrupts import Interrupted
from jepawm.runs import tracking as tracking_of_runs
from jepawm.runs.head_progress import UnfinishedHead
from jepawm.runs.heads import train_head
from jepawm.training.checkpoint import fresh_state, save_checkpoint
from jepawm.training.heads import HeadProgress
from jepawm.training.latent_episodes import encode_episodes

FRAMESKIP = 10
SIZES: dict[str, dict[str, Any]] = {
    "image": {"dim": 16, "depth": 1, "num_heads": 2},
    "vqvae": {"channels": 8, "num_codes": 4, "num_residual": 1, "residual_channels": 4},
    "transposed_conv": {"depth": 1},
    "state": {"dim": 16, "depth": 1, "num_heads": 2},
    "distance": {"hidden_dim": 16, "horizon": 4},
    "inverse_dynamics": {"hidden_dim": 16, "horizon": 4},
    "macro": {"hidden_dim": 16, "num_model_steps": 2, "predictor": MLPPredictorConfig(hidden_dim=8)},
}


def config_of(dataset: EpisodeDataset) -> RunConfig:
    data = DataConfig(source="dataset", path=str(dataset.path), frameskip=FRAMESKIP, held_out_fraction=0.1)
    model = ModelConfig(
        predictor=PredictorConfig(name="adaln", depth=1, num_heads=2, mlp_dim=16), proprio=ProprioConfig("token")
    )
    return RunConfig(device="cpu", data=data, model=model)


@pytest.fixture(scope="module")
def run_dir(wall_dataset: EpisodeDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an untrained model that reads pixels and proprio."""
    config = config_of(wall_dataset)
    folder = tmp_path_factory.mktemp("run")
    spec = trained_spec(config, wall_dataset)
    torch.manual_seed(0)
    save_checkpoint(str(folder / "model"), fresh_state(config.training_plan(), spec, torch.device("cpu")), spec)
    return folder


def job(run_dir: Path, name: str, **changes: Any) -> HeadJob:
    head = HeadConfig(name=name, **SIZES[name])
    train = HeadTrainConfig(num_train_steps=3, batch_size=8, log_every=2)
    settings = {"train": train, "tracking": TrackingConfig(mlflow=False), **changes}
    return dataclasses.replace(HeadJob(model=str(run_dir), device="cpu", head=head), **settings)


@pytest.mark.parametrize("name", SIZES)
def test_every_kind_is_trained_measured_and_found(name: str, run_dir: Path, wall_dataset: EpisodeDataset) -> None:
    trained = train_head(job(run_dir, name), Console(quiet=True))
    assert trained.folder == str(run_dir / "model" / "heads" / name)
    split = split_of(config_of(wall_dataset), wall_dataset)
    assert trained.spec.training["num_episodes"] == len(split.train)
    assert trained.spec.training["num_held_out_episodes"] == len(split.held_out)
    assert trained.spec.training["dataset"]["fingerprint"] == wall_dataset.fingerprint
    assert all(np.isfinite(value) for value in trained.spec.metrics.values())
    *steps, last = (json.loads(line) for line in Path(trained.folder, "metrics.jsonl").read_text().splitlines())
    assert [record["train_step"] for record in steps] == [2, 3]
    assert not list((run_dir / "model" / "heads").glob("*.training"))
    assert last == {"train_step": 3, **{f"held_out/{key}": value for key, value in trained.spec.metrics.items()}}
    agent = load_agent(run_dir, device="cpu")
    saved = load_head(str(run_dir / "model"), name)[0].state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in agent.head(name).state_dict().items())


def test_the_command_line_is_the_same_function(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(run_dir / "model"), "--head.name", "inverse_dynamics", "--head.hidden-dim", "16"]
    words += ["--head.horizon", "4", "--train.num-train-steps", "3", "--train.batch-size", "8", "--device", "cpu"]
    untracked = ["--tracking.no-mlflow"]
    assert main(["train-head", *words, "--save-as", "policy", "--train.log-every", "2", *untracked]) == 0
    said = capsys.readouterr().out
    assert "mse_mean_chunk" in said
    assert "process-hours: this process" in said
    direct = train_head(job(run_dir, "inverse_dynamics", save_as="direct"), Console(quiet=True))
    assert load_head(str(run_dir / "model"), "policy")[1].metrics == direct.spec.metrics
    words = ["--model", str(run_dir), "--head.name", "macro", "--head.predictor.name=recurrent", "--device", "cpu"]
    words += ["--head.predictor.hidden-dim", "8", "--head.num-model-steps", "2", "--train.num-train-steps", "2"]
    assert main(["train-head", *words, "--save-as", "gated"]) == 0
    assert "mse_persistence_after_2" in capsys.readouterr().out
    assert load_head(str(run_dir / "model"), "gated")[1].config.predictor == PredictorConfig(
        name="recurrent", hidden_dim=8
    )
    assert main(["train-head", "--head.name", "nonsense"]) == 2
    assert "unknown 'nonsense'" in capsys.readouterr().err


def test_latents_and_chunks_are_those_of_frames_a_model_step_apart(run_dir: Path, wall_dataset: EpisodeDataset) -> None:
    model, _ = load_world_model(str(run_dir / "model"))
    ids = wall_dataset.episode_ids[[3, 1]]
    kept = {"pixels", "states", "chunks", "proprio"}
    found = encode_episodes(model, wall_dataset, ids, kept=kept, memory_gib=1.0, device=torch.device("cpu"))
    assert found.lengths == (6, 6)
    assert found.pixels is not None and found.states is not None and found.chunks is not None  # noqa: PT018
    row = 6 + 2
    episode = wall_dataset.read_episode(int(ids[1]))
    frame = 2 * FRAMESKIP
    assert torch.equal(found.pixels[row], torch.from_numpy(episode.pixels[frame]).movedim(-1, 0))
    chunk = torch.from_numpy(episode.actions[frame : frame + FRAMESKIP].reshape(-1))
    torch.testing.assert_close(found.chunks[row], model.normalize_actions(chunk))
    assert found.chunks[5].abs().max() == found.chunks[11].abs().max() == 0
    np.testing.assert_allclose(found.states[row], episode.sim_state[frame], rtol=1e-6)
    pixels = torch.from_numpy(episode.pixels[None, frame : frame + 1]).movedim(-1, 2)
    alone = model.encode(pixels, torch.from_numpy(episode.proprio[None, frame : frame + 1]))
    torch.testing.assert_close(found.latents.visual[row], alone.visual[0, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.latents.proprio[row], alone.proprio[0, 0], rtol=1e-4, atol=1e-5)


def test_latents_are_the_same_where_only_frames_a_model_step_apart_were_kept(
    run_dir: Path, wall_dataset: EpisodeDataset, tmp_path: Path
) -> None:
    model, _ = load_world_model(str(run_dir / "model"))
    spec = dataclasses.replace(wall_dataset.spec, env_steps_per_frame=FRAMESKIP)
    with EpisodeWriter(tmp_path / "kept", spec) as writer:
        for episode_id in (0, 1):
            whole = wall_dataset.read_episode(episode_id)
            every = slice(None, None, FRAMESKIP)
            columns = {name: getattr(whole, name)[every] for name in ("pixels", "proprio", "sim_state")}
            writer.write(dataclasses.replace(whole, **columns))
    fewer = EpisodeDataset(tmp_path / "kept")
    kept = {"pixels", "states", "chunks", "proprio"}
    expected, found = (
        encode_episodes(model, dataset, [0, 1], kept=kept, memory_gib=1.0, device=torch.device("cpu"))
        for dataset in (wall_dataset, fewer)
    )
    assert found.lengths == expected.lengths
    for name in ("pixels", "states", "chunks"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.latents.visual, expected.latents.visual)


def test_an_objective_reads_the_distance_head(run_dir: Path, wall_dataset: EpisodeDataset) -> None:
    train_head(job(run_dir, "distance"), Console(quiet=True))
    agent = load_agent(run_dir, device="cpu")
    episode = wall_dataset.read_episode(0)
    now, goal = ({"pixels": episode.pixels[at], "proprio": episode.proprio[at]} for at in (0, 40))
    settings = {"name": "random_shooting", "num_samples": 8, "horizon": 2, "precision": "float32"}
    plan = agent.plan(now, goal, **settings, distance="temporal")
    head = agent.head("distance")
    end, wanted = plan.latents[-1], agent.encode(goal)[0, 0]
    with torch.no_grad():
        steps = head(end.visual, wanted.visual, end.proprio, wanted.proprio)
    assert plan.cost == pytest.approx(float(steps), rel=1e-4)
    with pytest.raises(CheckpointError, match="has no head 'nothing'"):
        agent.plan(now, goal, **settings, distance="temporal", head="nothing")
    assert isinstance(agent.planner, PlannerConfig)


def test_what_cannot_work_is_refused(run_dir: Path, wall_dataset: EpisodeDataset, tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    with pytest.raises(CheckpointError, match="pass --model RUN"):
        train_head(HeadJob(), quiet)
    with pytest.raises(CheckpointError, match="is no model folder"):
        train_head(job(tmp_path, "image"), quiet)
    small = dataclasses.replace(job(run_dir, "image").train, memory_gib=1e-6)
    with pytest.raises(DataError, match=r"train\.memory_gib is 1e-06; raise it, or use fewer episodes"):
        train_head(job(run_dir, "image", train=small), quiet)
    with pytest.raises(DataError):
        train_head(job(run_dir, "image", data=HeadDataConfig(path=str(tmp_path / "absent"))), quiet)
    with pytest.raises(ConfigError, match="must be a folder's name"):
        job(run_dir, "image", save_as="../out")
    with pytest.raises(ConfigError, match=r"head\.lpips_weights is not set"):
        HeadConfig(name="image", lpips_weight=1.0)
    assert not [path for path in (run_dir / "model" / "heads").iterdir() if ".tmp" in path.name]


def test_fewer_episodes_are_spread_over_the_dataset(run_dir: Path) -> None:
    few = train_head(job(run_dir, "inverse_dynamics", data=HeadDataConfig(num_episodes=5)), Console(quiet=True))
    assert few.spec.training["num_episodes"] == 5


@pytest.mark.parametrize("name", ["inverse_dynamics", "vqvae"])
def test_a_training_that_was_interrupted_goes_on_to_the_same_head(
    name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = HeadTrainConfig(num_train_steps=6, batch_size=8, log_every=2, checkpoint_every=2)
    whole = train_head(job(run_dir, name, train=train, save_as="whole"), Console(quiet=True))
    write, unfinished = UnfinishedHead.write, run_dir / "model" / "heads" / f"again_{name}.training"

    def write_and_send_a_signal(self: UnfinishedHead, record: dict[str, Any]) -> None:
        write(self, record)
        if record["train_step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    # Tests that come later in this process have had no signal.
    monkeypatch.setattr(interrupts, "_last", interrupts.StopRequest())
    monkeypatch.setattr(UnfinishedHead, "write", write_and_send_a_signal)
    again = job(run_dir, name, train=train, save_as=f"again_{name}")
    with pytest.raises(Interrupted, match="goes on from train step 3 of 6"):
        train_head(again, Console(quiet=True))
    assert head_names(str(run_dir / "model")).count(f"again_{name}") == 0
    monkeypatch.setattr(UnfinishedHead, "write", write)
    trained = train_head(dataclasses.replace(again, device="auto"), Console(quiet=True))
    ended = [load_head(str(run_dir / "model"), each)[0].state_dict() for each in ("whole", f"again_{name}")]
    assert all(torch.equal(value, ended[1][key]) for key, value in ended[0].items())
    assert trained.spec.metrics == whole.spec.metrics
    steps = [json.loads(line)["train_step"] for line in Path(trained.folder, "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 3, 4, 6, 6]
    assert not unfinished.exists()


def test_another_job_of_the_same_name_begins_anew_and_damage_is_named(run_dir: Path) -> None:
    model_dir = str(run_dir / "model")
    first = UnfinishedHead(model_dir, job(run_dir, "distance"), "abc", "def")
    first.save(HeadProgress(2, 1.0, {}, {}))
    assert UnfinishedHead(model_dir, job(run_dir, "distance"), "abc", "def").progress == HeadProgress(2, 1.0, {}, {})
    # Another head of other episodes.
    assert UnfinishedHead(model_dir, job(run_dir, "distance"), "abc", "xyz").progress is None
    first = UnfinishedHead(model_dir, job(run_dir, "distance"), "abc", "def")
    Path(first.folder, "state.pt").write_text("no state")
    with pytest.raises(CheckpointError, match=r"distance\.training to train the head from its start"):
        UnfinishedHead(model_dir, job(run_dir, "distance"), "abc", "def")
    first.remove()


def test_a_tracker_is_told_of_a_head(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    class Tracker:
        def __init__(self, sink: Any, **_settings: Any) -> None:
            told["sink"] = sink

        def close(self, outcome: Any) -> None:
            told["outcome"] = outcome()

    monkeypatch.setattr(tracking_of_runs, "BackgroundTracker", Tracker)
    tracking = TrackingConfig(experiment="heads")
    trained = train_head(job(run_dir, "state", tracking=tracking, save_as="told"), Console(quiet=True))
    sink = told["sink"]
    assert (sink.tracker.experiment, sink.run.params["head.name"], sink.run.tags["head"]) == ("heads", "state", "state")
    assert sink.run.tags["model_sha256"] == trained.spec.model_sha256
    summary = {f"held_out/{name}": value for name, value in trained.spec.metrics.items()}
    assert (told["outcome"].status, told["outcome"].summary) == ("FINISHED", summary)
    wrong = job(run_dir, "state", tracking=tracking, optim=OptimConfig(learning_rate=1e30))
    with pytest.raises(TrainingError, match="not finite"):
        train_head(wrong, Console(quiet=True))
    assert told["outcome"].status == "FAILED"
