"""What is measured of a trained model: probes of clips, and what encoding costs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepawm.config import EncoderConfig, ModelConfig, from_dict
from jepawm.data.statistics import Statistics
from jepawm.encoders import build_encoder
from jepawm.encoders.exported import export_encoder
from jepawm.study.measures import ProbedEpisodes, clip_probe, encoding_cost
from jepawm.study.probes import Samples, ridge_r2
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel

SIDE, CPU = 16, torch.device("cpu")
VIDEO = {"name": "vjepa2", "latent_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8, "trainable": False}
CONV = {"name": "conv_map", "channels": [6, 4], "kernel_sizes": [4, 4], "strides": [4, 2]}


def model(encoder: dict[str, Any], context_window: int = 1) -> WorldModel:
    config = from_dict(
        ModelConfig,
        {
            "encoder": encoder,
            "predictor": {"name": "mlp", "hidden_dim": 8, "context_window": context_window},
            "proprio": {"encoding": "none"},
        },
    )
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    statistics = Statistics(zeros, ones, zeros, ones)
    return WorldModel(config, image_size=SIDE, frameskip=1, statistics=statistics).eval()


def numel(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def windows(number: int, seed: int) -> WindowBatch:
    rng = np.random.default_rng(seed)
    return WindowBatch(
        pixels=rng.integers(0, 256, (number, 2, SIDE, SIDE, 3), dtype=np.uint8),
        actions=np.zeros((number, 1, 2), np.float32),
        proprio=np.zeros((number, 2, 2), np.float32),
        sim_state=rng.normal(size=(number, 2, 3)),
        episode_ids=np.zeros(number, np.int64),
        starts=np.zeros(number, np.int64),
    )


@pytest.fixture(scope="module")
def video_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video") / "encoder"
    torch.manual_seed(0)
    export_encoder(build_encoder(from_dict(EncoderConfig, {**VIDEO, "trainable": True}), SIDE), folder)
    return folder


def test_a_clip_is_one_latent_of_two_frames_and_its_probe_is_of_the_change(video_weights: Path) -> None:
    # More windows than are encoded at once.
    episodes = ProbedEpisodes(windows(70, seed=1), windows(66, seed=2), ("x", "y", "angle"))
    config = from_dict(EncoderConfig, {**VIDEO, "weights": str(video_weights)})
    found = clip_probe(config, SIDE, episodes, CPU)
    assert found is not None
    # Two by two patches of the clip.
    assert found["width"] == 4 * 24
    clips = build_encoder(
        from_dict(EncoderConfig, {**VIDEO, "weights": str(video_weights), "tokenization": "clip"}), SIDE
    )
    samples = []
    for each in (episodes.fitted, episodes.tested):
        with torch.no_grad():
            latents = clips(torch.from_numpy(np.ascontiguousarray(each.inputs))).flatten(1)
        assert each.sim_state is not None
        samples.append(Samples(latents, torch.from_numpy(each.sim_state[:, 1] - each.sim_state[:, 0])))
    # Batches of other sizes round differently in float32.
    assert list(found["change_2"].values()) == pytest.approx(ridge_r2(*samples), rel=1e-3, abs=1e-3)
    assert list(found["change_2"]) == ["x", "y", "angle"]


def test_encoders_that_see_no_clips_or_train_have_no_clip_probe(video_weights: Path) -> None:
    episodes = ProbedEpisodes(windows(8, seed=1), windows(8, seed=2), ("x", "y", "angle"))
    for settings in (CONV, {**VIDEO, "trainable": True, "weights": str(video_weights)}, {**VIDEO, "trainable": True}):
        assert clip_probe(from_dict(EncoderConfig, settings), SIDE, episodes, CPU) is None


def test_the_parameters_of_an_encoder_count_once(video_weights: Path) -> None:
    """A base that was trained here is a module of the model; one with weights of its own is kept outside of it."""
    alone = model(CONV)
    trained = model({"name": "compact", "latent_dim": 4, "hidden_dim": 8, "base": CONV})
    given = {**VIDEO, "weights": str(video_weights)}
    frozen = model({"name": "compact", "latent_dim": 4, "hidden_dim": 8, "base": given})
    video = build_encoder(from_dict(EncoderConfig, {**VIDEO, "trainable": True}), SIDE)
    costs = [encoding_cost(each, CPU, stored_bytes=2) for each in (alone, trained, frozen)]
    expected = [numel(alone.encoder), numel(alone.encoder) + numel(trained.encoder.phi)]  # type: ignore[arg-type]
    expected += [numel(video) + numel(frozen.encoder.phi)]  # type: ignore[arg-type]
    assert [each["encoder_parameters"] for each in costs] == expected
    # Two by two places of four numbers, in two bytes each; a latent of four numbers in four.
    assert (costs[1]["feature_bytes_per_frame"], costs[1]["latent_bytes_per_frame"]) == (32, 16)


@pytest.mark.parametrize(("context_window", "shape"), [(1, (16, 1)), (3, (5, 3)), (20, (1, 20))])
def test_frames_are_timed_in_windows_that_a_plan_begins_with(context_window: int, shape: tuple[int, int]) -> None:
    timed = model(CONV, context_window)
    seen: list[tuple[int, int]] = []
    timed.encoder.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[:2])))
    assert encoding_cost(timed, CPU, stored_bytes=2)["encode_ms_per_frame"] > 0
    assert set(seen) == {shape}
