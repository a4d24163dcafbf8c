"""What the model imagined of recorded episodes, beside what happened.

Nothing of this is computed while episodes are played: a recording holds the frames, the executed chunks and the
proprio, and from these the imagination is unrolled afterwards, in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jepawm.evaluation.latent_pictures import LatentPictures, encode_visual
from jepawm.evaluation.play import Animation
from jepawm.latent import Latent
from jepawm.world_model import WorldModel


@dataclass(frozen=True)
class Imagination:
    """What the model imagined of one episode, at its start and after each executed chunk: `K+1` moments.

    Distances to the goal are mean squared differences of visual latents, as `latent_distance` in `eval.json`.

    Attributes:
        planned: `[K+1,Y,X,3]` uint8, what the plan in force imagined of the moment: the first `context_window` frames
            before the plan were seen. At the start: the picture of the first frame's own latent.
        from_start: `[K+1,Y,X,3]` uint8, the same where only the first frame was ever seen.
        distance_seen: `[K+1]` from the frames to the goal.
        distance_planned: `[K+1]` from `planned` to the goal.
        distance_from_start: `[K+1]` from `from_start` to the goal.
        frameskip: Env_steps from one moment to the next.
        about: How the pictures are made.
    """

    planned: np.ndarray
    from_start: np.ndarray
    distance_seen: np.ndarray
    distance_planned: np.ndarray
    distance_from_start: np.ndarray
    frameskip: int
    about: str

    def moments(self, num_frames: int) -> np.ndarray:
        """`[F]` which moment is shown at each frame of a rollout: while a chunk is executed, the one after it."""
        shown: np.ndarray = -(-np.arange(num_frames) // self.frameskip)
        return shown

    def films(self, num_frames: int) -> dict[str, np.ndarray]:
        """Both imaginations as `[F,Y,X,3]` films in step with a rollout of `F` frames, by their titles."""
        at = self.moments(num_frames)
        return {"imagined, as planned": self.planned[at], "imagined from the start": self.from_start[at]}


def with_imagination(
    animations: Mapping[int, Animation], model: WorldModel, pictures: LatentPictures
) -> dict[int, Animation]:
    """Adds to recorded episodes what the model imagined of them.

    Args:
        animations: By episode id.
        model: In evaluation mode.
        pictures: Makes pictures of latents.
    """
    return {number: replace(each, imagination=imagine(each, model, pictures)) for number, each in animations.items()}


@torch.no_grad()
def imagine(animation: Animation, model: WorldModel, pictures: LatentPictures) -> Imagination:
    """What the model imagined of one recorded episode.

    Args:
        animation: The recording.
        model: In evaluation mode.
        pictures: Makes pictures of latents.
    """
    device = model.action_mean.device
    every = slice(None, None, model.frameskip)
    pixels = torch.from_numpy(np.ascontiguousarray(animation.rollout[every])).to(device).movedim(-1, 1)[None]
    proprio = None
    if model.uses_proprio and animation.proprio is not None:
        proprio = torch.from_numpy(animation.proprio[every].astype(np.float32)).to(device)[None]
    seen = model.encode(pixels, proprio)
    chunks = [torch.from_numpy(part.astype(np.float32)).to(device).flatten(1)[None] for part in animation.chunks]
    goal = torch.from_numpy(animation.goal).to(device).movedim(-1, 0)[None, None]
    goal_PD = encode_visual(model, goal)[0, 0]
    executed = torch.cat(chunks, dim=1)
    planned, at = [seen.visual[0, :1]], 0
    for part in chunks:
        planned.append(_unrolled(model, seen, executed, at, part.shape[1]))
        at += part.shape[1]
    planned_KPD = torch.cat(planned)
    from_start_KPD = torch.cat([seen.visual[0, :1], _unrolled(model, seen, executed, 0, at)])
    return Imagination(
        planned=pictures.of(planned_KPD),
        from_start=pictures.of(from_start_KPD),
        distance_seen=_distance(seen.visual[0, : at + 1], goal_PD),
        distance_planned=_distance(planned_KPD, goal_PD),
        distance_from_start=_distance(from_start_KPD, goal_PD),
        frameskip=model.frameskip,
        about=pictures.about,
    )


def _unrolled(model: WorldModel, seen: Latent, chunks_1KA: Tensor, now: int, number: int) -> Tensor:
    """`[number,P,D]` visual latents predicted from moment `now` on, with what the agent had seen until then."""
    first = max(0, now + 1 - model.context_window)
    past = chunks_1KA[:, first:now] if now > first else None
    return model.unroll(seen[:, first : now + 1], chunks_1KA[:, now : now + number], past).visual[0]


def _distance(visual_KPD: Tensor, goal_PD: Tensor) -> np.ndarray:
    return (visual_KPD - goal_PD).float().square().flatten(1).mean(dim=1).cpu().numpy()
