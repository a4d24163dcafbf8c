"""Latents of whole episodes, encoded once by a frozen model: what heads are trained on and measured on."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jepawm.data import EpisodeDataset
from jepawm.errors import DataError
from jepawm.latent import Latent, concatenate
from jepawm.world_model import WorldModel

Kept = Literal["pixels", "states", "chunks", "proprio"]
"""What a head needs beside visual latents: frames, simulator states, action chunks, the proprio part."""

_FRAMES_AT_ONCE = 128


@dataclass(frozen=True)
class LatentEpisodes:
    """`E` episodes of `M` frames in all, a model step apart, one after the other.

    Attributes:
        latents: `[M]`; the proprio part is there where it was asked for and the model has one.
        lengths: `[E]` frames of each episode.
        pixels: `[M,3,Y,X]` uint8 frames, or None.
        states: `[M,S]` float32 simulator states, or None.
        chunks: `[M,A]` action chunks that were executed from each frame on, normalised as the model normalises them,
            or None; an episode's last frame has none, and its row is the mean chunk, 0.
    """

    latents: Latent
    lengths: tuple[int, ...]
    pixels: Tensor | None = None
    states: Tensor | None = None
    chunks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents.visual)


def encode_episodes(
    model: WorldModel,
    dataset: EpisodeDataset,
    episode_ids: Sequence[int] | np.ndarray,
    *,
    kept: Collection[Kept],
    memory_gib: float,
    device: torch.device,
    on_progress: Callable[[int], None] | None = None,
) -> LatentEpisodes:
    """Encodes the frames of episodes that are a model step apart, the first frame first.

    Args:
        model: In evaluation mode, on `device`.
        dataset: The episodes.
        episode_ids: Which of them.
        kept: What is kept beside visual latents.
        memory_gib: Most memory that all of it may take.
        device: Where the model is; what is encoded stays there.
        on_progress: Called with the number of episodes that are encoded.

    Returns:
        The latents, float32.

    Raises:
        DataError: Episodes that do not have what is kept, that the model cannot read, or that need more memory.
    """
    _check_readable(model, dataset, kept)
    _check_memory(model, dataset, episode_ids, kept, memory_gib)
    latents: list[Latent] = []
    parts: dict[str, list[Tensor]] = {"pixels": [], "states": [], "chunks": []}
    lengths: list[int] = []
    stride = dataset.spec.frames_per_chunk(model.frameskip)
    for done, episode_id in enumerate(episode_ids, start=1):
        episode = dataset.read_episode(int(episode_id))
        pixels_MCYX = torch.from_numpy(np.ascontiguousarray(episode.pixels[::stride])).movedim(-1, 1)
        lengths.append(len(pixels_MCYX))
        proprio_MR = np.ascontiguousarray(episode.proprio[::stride], dtype=np.float32) if "proprio" in kept else None
        latents.append(_encode(model, pixels_MCYX, proprio_MR, device))
        if "pixels" in kept:
            parts["pixels"].append(pixels_MCYX.to(device))
        if "states" in kept:
            assert episode.sim_state is not None, "checked above"
            states = episode.sim_state[::stride].astype(np.float32)
            parts["states"].append(torch.from_numpy(states).to(device))
        if "chunks" in kept:
            parts["chunks"].append(_chunks(model, episode.actions, lengths[-1]).to(device))
        if on_progress is not None:
            on_progress(done)
    joined = {name: torch.cat(items) if items else None for name, items in parts.items()}
    return LatentEpisodes(concatenate(latents, axis=0), tuple(lengths), **joined)


@torch.no_grad()
def _encode(model: WorldModel, pixels_MCYX: Tensor, proprio_MR: np.ndarray | None, device: torch.device) -> Latent:
    """Latents `[M]` of one episode's frames; visual ones alone where no proprio is given."""
    frames = len(pixels_MCYX)
    felt_MR = None
    if model.uses_proprio:
        # The visual part does not depend on proprio, and videos of other robots have another one.
        felt_MR = torch.zeros(frames, model.proprio_dim) if proprio_MR is None else torch.from_numpy(proprio_MR)
    found = []
    for at in range(0, frames, _FRAMES_AT_ONCE):
        part = slice(at, at + _FRAMES_AT_ONCE)
        proprio = None if felt_MR is None else felt_MR[part, None].to(device)
        found.append(model.encode(pixels_MCYX[part, None].to(device), proprio)[:, 0])
    latents = concatenate(found, axis=0)
    return latents if proprio_MR is not None else Latent(latents.visual)


def _chunks(model: WorldModel, actions_Fa: np.ndarray, frames: int) -> Tensor:
    """`[M,A]` normalised action chunks from each frame on; 0 for the last frame."""
    raw = actions_Fa[: (frames - 1) * model.frameskip].reshape(frames - 1, -1).astype(np.float32)
    chunks = torch.zeros(frames, model.action_dim)
    chunks[:-1] = model.normalize_actions(torch.from_numpy(raw).to(model.action_mean.device)).cpu()
    return chunks


def _check_readable(model: WorldModel, dataset: EpisodeDataset, kept: Collection[Kept]) -> None:
    spec = dataset.spec
    if spec.pixels.shape != (model.image_size, model.image_size, 3):
        raise DataError(
            f"{dataset.path}: frames are {list(spec.pixels.shape)}, the model sees "
            f"[{model.image_size}, {model.image_size}, 3]; convert the episodes with --image-size {model.image_size}"
        )
    if "states" in kept and spec.sim_state is None:
        raise DataError(f"{dataset.path}: the episodes hold no simulator state (sim_state) for the head to read")
    if "chunks" in kept and spec.action.dim * model.frameskip != model.action_dim:
        raise DataError(
            f"{dataset.path}: actions have {spec.action.dim} dimensions, the model's have "
            f"{model.action_dim // model.frameskip}; use episodes of the model's own robot"
        )
    if "proprio" in kept and model.uses_proprio and spec.proprio.dim != model.proprio_dim:
        raise DataError(
            f"{dataset.path}: proprio has {spec.proprio.dim} numbers, the model reads {model.proprio_dim}; use "
            "episodes of the model's own robot, or --head.no-reads-proprio"
        )


def _check_memory(
    model: WorldModel,
    dataset: EpisodeDataset,
    episode_ids: Sequence[int] | np.ndarray,
    kept: Collection[Kept],
    memory_gib: float,
) -> None:
    stride = dataset.spec.frames_per_chunk(model.frameskip)
    frames = sum(-(-dataset.num_frames(int(episode_id)) // stride) for episode_id in episode_ids)
    latent_bytes = 4 * model.num_patches * model.latent_dim
    pixel_bytes = int(np.prod(dataset.spec.pixels.shape)) if "pixels" in kept else 0
    needed_gib = frames * (latent_bytes + pixel_bytes) / 2**30
    if needed_gib > memory_gib:
        fitting = max(1, int(len(episode_ids) * memory_gib / needed_gib))
        raise DataError(
            f"{len(episode_ids)} episodes of {dataset.path} are {frames} frames a model step apart, of "
            f"{latent_bytes:,} bytes of latents and {pixel_bytes:,} bytes of pixels each: {needed_gib:.1f} GiB, "
            f"train.memory_gib is {memory_gib:g}; raise it, or use fewer episodes (--data.num-episodes {fitting})"
        )
