"""Pictures of latents: drawn by a head, or else the training frame whose latent is nearest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.checkpoints.head_folder import heads_of_kind, load_head
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.data import EpisodeDataset, ShardReader
from jepawm.data.loading.windows import WindowIndex
from jepawm.errors import ConfigError, DataError, did_you_mean
from jepawm.seeding import stream_seed
from jepawm.world_model import WorldModel

DRAWING_KINDS = ("image", "vqvae", "transposed_conv")
"""Kinds of heads that have `decode`: latents to frames."""

_AT_ONCE = 32


class LatentPictures(Protocol):
    """Turns latents into pictures that a person can look at."""

    @property
    def about(self) -> str:
        """How the pictures are made, for a caption."""
        ...

    def of(self, visual_MPD: Tensor) -> np.ndarray:
        """`[M,P,D]` visual latents to `[M,Y,X,3]` uint8."""
        ...


@dataclass(frozen=True)
class DrawnByHead:
    """Pictures that a head draws.

    Attributes:
        decode: The head's `decode`: `[B,T,P,D]` latents to `[B,T,3,Y,X]` uint8.
        name: Of its folder beside the model.
    """

    decode: Callable[[Tensor], Tensor]
    name: str

    @property
    def about(self) -> str:
        """Names the head."""
        return f"drawn by the head {self.name}"

    @torch.no_grad()
    def of(self, visual_MPD: Float[Tensor, "M P D"]) -> np.ndarray:
        """`[M,P,D]` visual latents to `[M,Y,X,3]` uint8."""
        drawn = [self.decode(part[:, None])[:, 0] for part in visual_MPD.split(_AT_ONCE)]
        return np.ascontiguousarray(torch.cat(drawn).movedim(1, -1).cpu().numpy())


@dataclass(frozen=True)
class NearestFrames:
    """The recorded frames whose latents are nearest: what a picture shows was seen, not imagined.

    Attributes:
        visual_LPD: `[L,P,D]` latents of the frames.
        pixels: `[L,Y,X,3]` uint8 frames.
        source: Whose frames they are, e.g. `training frames`.
    """

    visual_LPD: Tensor
    pixels: np.ndarray
    source: str

    @classmethod
    @torch.no_grad()
    def among(
        cls,
        model: WorldModel,
        dataset: EpisodeDataset,
        episode_ids: Sequence[int] | np.ndarray,
        number: int,
        *,
        seed: int,
        source: str = "training frames",
    ) -> "NearestFrames":
        """Takes some frames of episodes at random.

        Args:
            model: Encodes them.
            dataset: Where they are.
            episode_ids: Training episodes, so that no picture shows what was held out.
            number: Frames at most.
            seed: Of the choice.
            source: Whose frames they are, for the caption.

        Raises:
            DataError: No episodes, or frames of another size than the model sees.
        """
        check_frames(model, dataset)
        ids = np.asarray(episode_ids)
        lengths = [dataset.num_frames(int(episode_id)) for episode_id in ids]
        index = WindowIndex(ids, lengths, frameskip=1, num_frames_in_window=1)
        rng = np.random.default_rng(stream_seed(seed, "nearest frames"))
        chosen = np.sort(rng.choice(len(index), size=min(number, len(index)), replace=False))
        reader = ShardReader(dataset, frameskip=dataset.env_steps_per_frame, num_frames_in_window=1)
        batch = reader.read(*index.locate(chosen))
        device = model.action_mean.device
        encoded = []
        for at in range(0, len(batch), _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            pixels = torch.from_numpy(batch.pixels[part]).to(device).movedim(-1, 2)
            encoded.append(encode_visual(model, pixels)[:, 0])
        return cls(torch.cat(encoded), batch.pixels[:, 0], source)

    @property
    def about(self) -> str:
        """Says that the pictures are recorded ones."""
        return (
            f"no head draws this model's latents, so each picture is the nearest of {len(self.pixels)} {self.source} "
            "by latent distance, not what the model imagines itself"
        )

    @torch.no_grad()
    def of(self, visual_MPD: Float[Tensor, "M P D"]) -> np.ndarray:
        """`[M,P,D]` visual latents to `[M,Y,X,3]` uint8: of equally near frames, the first."""
        distance_ML = torch.cdist(visual_MPD.float().flatten(1), self.visual_LPD.float().flatten(1))
        return self.pixels[distance_ML.argmin(dim=1).cpu().numpy()]


def encode_visual(model: WorldModel, pixels_BTCYX: Tensor) -> Float[Tensor, "B T P D"]:
    """The visual part of latents, which does not depend on proprio."""
    proprio = None
    if model.uses_proprio:
        proprio = model.proprio_mean.expand(*pixels_BTCYX.shape[:2], -1)
    return model.encode(pixels_BTCYX, proprio).visual


def drawing_head(model: WorldModel, spec: ModelSpec, name: str | None = None) -> DrawnByHead | None:
    """The head beside a model that draws its latents.

    Args:
        model: The world model.
        spec: What it was read with; `spec.folder` holds its heads.
        name: Of the head's folder; None: the first one by name.

    Returns:
        None where no head is asked for and none draws.

    Raises:
        CheckpointError: A head that is damaged, or that was trained on other weights.
        ConfigError: No head of that name draws.
    """
    names = [] if spec.folder is None else heads_of_kind(spec.folder, *DRAWING_KINDS)
    if name is not None and name not in names:
        raise ConfigError(
            f"no head '{name}' of {spec.folder} draws frames{did_you_mean(name, names) if names else ' (none does)'}; "
            f"train one with jepawm train-head --model {spec.folder} --head.name image"
        )
    if spec.folder is None or not names:
        return None
    found = name or names[0]
    head, _ = load_head(spec.folder, found, model.action_mean.device)
    decode: Callable[[Tensor], Tensor] = head.decode  # type: ignore[assignment]
    return DrawnByHead(decode, found)


def check_frames(model: WorldModel, dataset: EpisodeDataset) -> None:
    """Refuses frames of another size than the model sees.

    Raises:
        DataError: Names both sizes.
    """
    if dataset.spec.pixels.shape != (model.image_size, model.image_size, 3):
        raise DataError(
            f"{dataset.path}: frames are {list(dataset.spec.pixels.shape)}, the model sees "
            f"[{model.image_size}, {model.image_size}, 3]; convert the episodes with --image-size {model.image_size}"
        )
