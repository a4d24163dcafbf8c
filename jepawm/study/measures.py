"""What is measured of a trained model beside its evaluation: linear probes, and what encoding costs."""

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepawm.config.data import DataConfig
from jepawm.config.encoder import EncoderConfig, VideoEncoderConfig
from jepawm.config.study import StudyMeasuresConfig
from jepawm.data import EpisodeDataset
from jepawm.data.loading.feature_store import FeatureStore
from jepawm.data.loading.split import Split, held_out_windows
from jepawm.encoders import Encoder, FrozenEncoder, build_encoder
from jepawm.study.probes import Samples, named, of_change, ridge_r2
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel

_AT_ONCE = 64
# Frames of one timed forward pass, about, and passes; the first one is not counted.
_TIMED_FRAMES, _TIMED_PASSES = 16, 6


@dataclass(frozen=True)
class ProbedEpisodes:
    """Windows of two frames, a model step apart, that probes see.

    Attributes:
        fitted: Of training episodes.
        tested: Of held-out episodes.
        names: Of the simulator state's numbers.
    """

    fitted: WindowBatch
    tested: WindowBatch
    names: tuple[str, ...]


def probed_episodes(
    dataset: EpisodeDataset,
    split: Split,
    data: DataConfig,
    measures: StudyMeasuresConfig,
    *,
    seed: int,
    store: FeatureStore | None,
) -> ProbedEpisodes | None:
    """Windows of all training episodes and of the held-out ones; None where the dataset holds no simulator states.

    All shares of the training episodes are probed on the same windows, for a probe is of an encoder.

    Args:
        dataset: The episodes.
        split: Whole, of the run's seed.
        data: `frameskip` is used.
        measures: Numbers of windows.
        seed: Of the sample.
        store: Features that stand for the frames; None: the frames are read.
    """
    state = dataset.spec.sim_state
    if state is None:
        return None
    found = []
    for ids, number in ((split.train, measures.num_probe_frames), (split.held_out, measures.num_test_frames)):
        windows = held_out_windows(
            dataset, Split(split.train, ids), data, seed=seed, num_frames=2, num_windows=number, store=store
        )
        if windows is None or len(windows) < 4:
            return None
        found.append(windows)
    return ProbedEpisodes(found[0], found[1], state.names or tuple(str(number) for number in range(state.dim)))


@torch.inference_mode()
def latent_probes(
    model: WorldModel, episodes: ProbedEpisodes, device: torch.device, *, temporal: bool
) -> dict[str, Any]:
    """Probes of the simulator's state, and of how it changed over the last model step, from latents that plan.

    Args:
        model: In evaluation mode.
        episodes: What is probed.
        device: Of the model.
        temporal: Also probe the change.

    Returns:
        `state` (R^2 by name, of the second frame), `change_1` (read from the second frame alone) and `change_2` (from
        both) where asked for, and `width`, the numbers of a latent.
    """
    return _probe(episodes, temporal, *(_latents(model, each, device) for each in _both(episodes)))


@torch.inference_mode()
def feature_probes(
    model: WorldModel, episodes: ProbedEpisodes, device: torch.device, *, temporal: bool
) -> dict[str, Any] | None:
    """The same from what the frozen part of the encoder makes of the frames.

    Args:
        model: In evaluation mode.
        episodes: What is probed.
        device: Of the model.
        temporal: Also probe the change.

    Returns:
        See `latent_probes`; None where no part is frozen, so that latents are all there is.
    """
    frozen = model.encoder.storable
    if frozen is model.encoder:
        return None
    return _probe(episodes, temporal, *(_features(frozen, each, device) for each in _both(episodes)))


def sees_clips(encoder: EncoderConfig) -> bool:
    """Whether an encoder can be probed on clips: a frozen video encoder with weights."""
    return isinstance(encoder, VideoEncoderConfig) and not encoder.trainable and encoder.weights_source is not None


@torch.inference_mode()
def clip_probe(
    encoder: EncoderConfig, image_size: int, episodes: ProbedEpisodes, device: torch.device
) -> dict[str, Any] | None:
    """The change of the state read from clip latents of a frozen video encoder: one latent of the two frames.

    Args:
        encoder: The encoder, or the frozen part of one.
        image_size: Side of the frames, pixels.
        episodes: With frames.
        device: Where it is computed.

    Returns:
        `change_2` and `width`, see `latent_probes`; None where the encoder sees single frames only, or trains.
    """
    if not (isinstance(encoder, VideoEncoderConfig) and sees_clips(encoder)):
        return None
    clips = build_encoder(replace(encoder, tokenization="clip"), image_size).to(device).eval()
    parts = []
    for windows in _both(episodes):
        pixels = torch.from_numpy(np.ascontiguousarray(windows.inputs))
        parts.append(torch.cat([clips(part.to(device)).flatten(1).cpu() for part in pixels.split(_AT_ONCE)]))
    targets = [of_change(_states(windows)) for windows in _both(episodes)]
    r2 = ridge_r2(*(Samples(*each) for each in zip(parts, targets, strict=True)))
    return {"change_2": named(episodes.names, r2), "width": parts[0].shape[1]}


def _both(episodes: ProbedEpisodes) -> tuple[WindowBatch, WindowBatch]:
    return episodes.fitted, episodes.tested


def _latents(model: WorldModel, windows: WindowBatch, device: torch.device) -> Tensor:
    """Visual latents of both frames, `[S,2,F]`."""
    parts = []
    for at in range(0, len(windows), _AT_ONCE):
        part = windows[at : at + _AT_ONCE]
        pixels, proprio = (torch.from_numpy(np.ascontiguousarray(each)) for each in (part.inputs, part.proprio))
        parts.append(model.encode(pixels.to(device), proprio.to(device)).visual.flatten(2).cpu())
    return torch.cat(parts)


def _features(encoder: Encoder, windows: WindowBatch, device: torch.device) -> Tensor:
    """What an encoder makes of both frames, `[S,2,F]`; stored features are taken as they are."""
    inputs = torch.from_numpy(np.ascontiguousarray(windows.inputs))
    if windows.features is not None:
        return inputs.flatten(2)
    return torch.cat([encoder(part.to(device)).flatten(2).cpu() for part in inputs.split(_AT_ONCE)])


def _states(windows: WindowBatch) -> Tensor:
    assert windows.sim_state is not None, "`probed_episodes` has seen to it"
    return torch.from_numpy(windows.sim_state)


def _probe(episodes: ProbedEpisodes, temporal: bool, fitted_S2F: Tensor, tested_S2F: Tensor) -> dict[str, Any]:
    latents, states = (fitted_S2F, tested_S2F), [_states(each) for each in _both(episodes)]

    def read(features: list[Tensor], targets: list[Tensor]) -> dict[str, float]:
        pairs = [Samples(x, y) for x, y in zip(features, targets, strict=True)]
        return named(episodes.names, ridge_r2(*pairs))

    last = [each[:, 1] for each in latents]
    found: dict[str, Any] = {"width": last[0].shape[1], "state": read(last, [each[:, 1] for each in states])}
    if temporal:
        change = [of_change(each) for each in states]
        found["change_1"] = read(last, change)
        found["change_2"] = read([each.flatten(1) for each in latents], change)
    return found


def encoding_cost(model: WorldModel, device: torch.device, *, stored_bytes: int) -> dict[str, float]:
    """What the encoder of a model costs.

    Args:
        model: In evaluation mode.
        device: Of the model.
        stored_bytes: Of one number of a stored feature.

    Returns:
        `encode_ms_per_frame` (median over passes of about 16 frames on this process's threads, in windows as long as
        those that a plan begins with), `encoder_parameters` (of its frozen part, and of what trains on top of that),
        `parameters` (of all that trains, the encoder's included), `latent_bytes_per_frame` (float32, as plans are made)
        and `feature_bytes_per_frame` (as a store keeps the frozen part's).
    """
    side, stored = model.image_size, model.encoder.storable
    # Frames of one window may attend to each other, so that longer windows would cost more.
    windows = max(1, _TIMED_FRAMES // model.context_window)
    pixels = torch.zeros(windows, model.context_window, 3, side, side, dtype=torch.uint8, device=device)
    seconds = []
    with torch.inference_mode():
        for _ in range(_TIMED_PASSES):
            began = time.perf_counter()
            model.encoder(pixels)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
    whole = stored.backbone() if isinstance(stored, FrozenEncoder) else stored
    # A frozen encoder with a file of its own is no part of the model's modules, a base that was trained here is one.
    parameters = {*whole.parameters(), *model.encoder.parameters()}
    return {
        "encode_ms_per_frame": 1000 * statistics.median(seconds[1:]) / (windows * model.context_window),
        "encoder_parameters": float(sum(each.numel() for each in parameters)),
        "parameters": float(sum(each.numel() for each in model.parameters() if each.requires_grad)),
        "latent_bytes_per_frame": 4.0 * model.num_patches * model.latent_dim,
        "feature_bytes_per_frame": float(stored_bytes * stored.num_patches * stored.latent_dim),
    }
