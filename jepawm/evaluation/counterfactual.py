"""What a model imagines under actions made by hand, from one moment on: branch beside branch."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepawm.data import EpisodeDataset, ShardReader
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.branches import Branches
from jepawm.evaluation.latent_pictures import LatentPictures, check_frames, encode_visual
from jepawm.latent import Latent
from jepawm.pictures import read_pictures
from jepawm.world_model import WorldModel


@dataclass(frozen=True)
class Moment:
    """Where branches begin.

    Attributes:
        about: The clip, or the picture.
        pixels: `[T,Y,X,3]` uint8, a model step apart, the present last.
        proprio: `[T,R]` float32, or None where there is none.
        past_actions: `[(T-1)*frameskip,a]` float32 between these frames.
        later_pixels: `[K,Y,X,3]` uint8 recorded frames after each chunk from the present on; empty for a picture.
        later_actions: `[K*frameskip,a]` recorded actions from the present on; None for a picture.
    """

    about: str
    pixels: np.ndarray
    proprio: np.ndarray | None
    past_actions: np.ndarray
    later_pixels: np.ndarray
    later_actions: np.ndarray | None


@dataclass(frozen=True)
class Branch:
    """One sequence of actions, and where it leads in the model's imagination.

    Distances are mean squared differences of visual latents, as in `eval.json`.

    Attributes:
        name: As the file calls it.
        actions: `S` rows of `a` numbers, raw units, one row an env_step.
        from_present: `[H+1]` distance from the latent of the present; 0 at first.
        from_recording: Distance from the latents of the recorded frames, for as many model steps as were recorded, the
            present first; empty where nothing was recorded.
    """

    name: str
    actions: list[list[float]]
    from_present: list[float]
    from_recording: list[float]


@dataclass(frozen=True)
class BranchDistance:
    """How far apart two branches are.

    Attributes:
        first, second: Names of the branches.
        per_model_step: `[H+1]` mean squared difference of visual latents, the present first.
    """

    first: str
    second: str
    per_model_step: list[float]


@dataclass(frozen=True)
class Counterfactual:
    """What a model imagines under several branches from one moment.

    Attributes:
        model: Path of the model folder.
        model_sha256: Of its weights.
        moment: The clip, or the picture.
        actions_file: Where the branches are from.
        horizon: Model steps of a branch.
        frameskip: Env_steps of a model step.
        action_names: One for each of the `a` numbers.
        action_units: Their units.
        pictures: How the pictures were made.
        branches: In the file's order.
        distances: Of each pair of branches.
    """

    model: str
    model_sha256: str
    moment: str
    actions_file: str
    horizon: int
    frameskip: int
    action_names: list[str]
    action_units: str
    pictures: str
    branches: tuple[Branch, ...]
    distances: tuple[BranchDistance, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `counterfactual.json` holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Counterfactual":
        """Inverse of `to_dict`."""
        parts = {
            "branches": tuple(Branch(**each) for each in data["branches"]),
            "distances": tuple(BranchDistance(**each) for each in data["distances"]),
        }
        return cls(**{**data, **parts})


@dataclass(frozen=True)
class Imagined:
    """Branches as latents.

    Attributes:
        visual_BTPD: `[B,H+1,P,D]` the present's encoded latent, and the predicted ones.
        recorded_KPD: `[K+1,P,D]` latents of the recorded frames, the present first.
    """

    visual_BTPD: Tensor
    recorded_KPD: Tensor

    def distances(self, names: Sequence[str]) -> tuple[BranchDistance, ...]:
        """How far apart each pair of branches is."""
        pairs = itertools.combinations(range(len(names)), 2)
        return tuple(
            BranchDistance(names[i], names[j], _apart(self.visual_BTPD[i], self.visual_BTPD[j])) for i, j in pairs
        )

    def branch(self, number: int, name: str, actions_Sa: np.ndarray) -> Branch:
        """One branch as numbers."""
        visual_TPD = self.visual_BTPD[number]
        recorded = min(len(visual_TPD), len(self.recorded_KPD)) if len(self.recorded_KPD) > 1 else 0
        return Branch(
            name=name,
            actions=[[float(str(x)) for x in row] for row in actions_Sa.astype(np.float32)],
            from_present=_apart(visual_TPD, visual_TPD[:1]),
            from_recording=_apart(visual_TPD[:recorded], self.recorded_KPD[:recorded]),
        )


def moment_of_clip(
    model: WorldModel, dataset: EpisodeDataset, episode_id: int, frame: int, *, context_frames: int = 1
) -> Moment:
    """A moment of a recorded episode, with what was recorded before and after it.

    Args:
        model: It says how far its steps are apart.
        dataset: The episodes.
        episode_id: Which of them.
        frame: The present.
        context_frames: Frames `T` that the model sees, the present last.

    Raises:
        ConfigError: More context than the model looks back.
        DataError: Frames or actions that the model does not read, no such episode, or a moment outside of it.
    """
    check_frames(model, dataset)
    width = model.action_dim // model.frameskip
    if dataset.spec.action.dim != width:
        raise DataError(f"{dataset.path}: actions have {dataset.spec.action.dim} numbers, the model's have {width}")
    if model.uses_proprio and dataset.spec.proprio.dim != model.proprio_dim:
        raise DataError(
            f"{dataset.path}: proprio has {dataset.spec.proprio.dim} numbers, the model reads {model.proprio_dim}"
        )
    if context_frames > model.context_window:
        raise ConfigError(
            f"--context-frames {context_frames}: the model looks back {model.context_window} frames at most"
        )
    stride = dataset.spec.frames_per_chunk(model.frameskip)
    first, total = frame - (context_frames - 1) * stride, dataset.num_frames(episode_id)
    if first < 0 or frame >= total:
        raise DataError(
            f"{dataset.path}: episode {episode_id} has frames 0 to {total - 1}; frame {frame} with {context_frames} "
            f"frames of context, {stride} apart, begins at {first}"
        )
    later = (total - 1 - frame) // stride
    reader = ShardReader(dataset, frameskip=model.frameskip, num_frames_in_window=context_frames + later)
    batch = reader.read(np.array([episode_id]), np.array([first]))
    actions = batch.actions[0].reshape(-1, width)
    past = (context_frames - 1) * model.frameskip
    return Moment(
        about=f"{dataset.path}, episode {episode_id}, frame {frame}",
        pixels=batch.pixels[0, :context_frames],
        proprio=batch.proprio[0, :context_frames],
        past_actions=actions[:past],
        later_pixels=batch.pixels[0, context_frames:],
        later_actions=actions[past:],
    )


def moment_of_picture(model: WorldModel, path: str, number: int = 0) -> Moment:
    """A moment that a picture shows.

    Args:
        model: It says how large its frames are, and whether it reads proprio.
        path: See `jepawm.pictures.read_pictures`; a `.npz` may hold `proprio` `[n,R]` as well.
        number: Which picture, where there are several.

    Raises:
        DataError: No such picture, or no proprio for a model that reads it.
    """
    read = read_pictures(path, model.image_size)
    if number >= len(read.pixels):
        raise DataError(f"{path} holds {len(read.pixels)} picture(s), numbered from 0; there is no --frame {number}")
    proprio = None
    if model.uses_proprio:
        found = read.others.get("proprio")
        shape = (len(read.pixels), model.proprio_dim)
        if found is None or found.reshape(-1, found.shape[-1] if found.ndim else 1).shape != shape:
            raise DataError(
                f"{path}: the model reads proprio of {model.proprio_dim} numbers, so the observation is a .npz with "
                f"'pixels' and 'proprio' {list(shape)}; found "
                f"{'no proprio' if found is None else f'proprio {list(found.shape)}'}"
            )
        proprio = found.reshape(shape)[number : number + 1].astype(np.float32)
    width = model.action_dim // model.frameskip
    side = model.image_size
    return Moment(
        about=read.names[number],
        pixels=read.pixels[number : number + 1],
        proprio=proprio,
        past_actions=np.zeros((0, width), np.float32),
        later_pixels=np.zeros((0, side, side, 3), np.uint8),
        later_actions=None,
    )


@torch.no_grad()
def imagine_branches(model: WorldModel, moment: Moment, branches: Branches) -> Imagined:
    """Unrolls every branch from a moment, all of them in one batch.

    Args:
        model: In evaluation mode.
        moment: Where they begin.
        branches: Actions in raw units.
    """
    device = model.action_mean.device
    B = len(branches.names)

    def frames(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).movedim(-1, 1)[None]

    proprio = None
    if model.uses_proprio and moment.proprio is not None:
        proprio = torch.from_numpy(moment.proprio).to(device)[None]
    context = model.encode(frames(moment.pixels), proprio)
    past = None
    if len(moment.past_actions):
        past = torch.from_numpy(moment.past_actions).to(device).reshape(1, -1, model.action_dim).expand(B, -1, -1)
    chunks = torch.from_numpy(branches.chunks(model.frameskip)).to(device)
    spread = context.map(lambda part: part.expand(B, *part.shape[1:]))
    predicted: Latent = model.unroll(spread, chunks, past)
    now_PD = context.visual[0, -1]
    recorded = [now_PD[None]]
    kept = min(branches.horizon, len(moment.later_pixels))
    if kept:
        recorded.append(encode_visual(model, frames(moment.later_pixels[:kept]))[0])
    return Imagined(
        torch.cat([now_PD.expand(B, 1, *now_PD.shape), predicted.visual], dim=1).float(), torch.cat(recorded).float()
    )


def films(imagined: Imagined, moment: Moment, branches: Branches, pictures: LatentPictures) -> dict[str, np.ndarray]:
    """`[H+1,Y,X,3]` frames of every branch by its name, the recorded ones first where there are any.

    The first frame of a branch is the picture of the present's encoded latent, so that what a head or a nearest frame
    loses is told apart from what the unroll does. A recording that ends early rests on its last frame.
    """
    B, T = imagined.visual_BTPD.shape[:2]
    drawn = pictures.of(imagined.visual_BTPD.flatten(0, 1))
    shown = drawn.reshape(B, T, *drawn.shape[1:])
    found = dict(zip(branches.names, shown, strict=True))
    if not len(moment.later_pixels):
        return {"the observation": np.repeat(moment.pixels[-1:], T, axis=0), **found}
    true = np.concatenate([moment.pixels[-1:], moment.later_pixels])[:T]
    return {"what was recorded": np.concatenate([true, np.repeat(true[-1:], T - len(true), axis=0)]), **found}


def _apart(first_TPD: Tensor, second_TPD: Tensor) -> list[float]:
    apart_T: list[float] = (first_TPD - second_TPD).square().flatten(1).mean(dim=1).tolist()
    return apart_T
