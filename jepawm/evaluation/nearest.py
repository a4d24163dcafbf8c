"""Recorded windows that searches start from: encoded once before an evaluation plays its episodes."""

from collections.abc import Sequence

import numpy as np
import torch

from jepawm.config.evaluation import EvaluationPlan
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import DataError
from jepawm.planning.nearest import LatentProjection, NearestStarts
from jepawm.seeding import stream_seed
from jepawm.training.latent_episodes import encode_episodes
from jepawm.world_model import WorldModel

# Episodes whose whole latents are held at once.
_EPISODES_AT_ONCE = 8


def nearest_starts(
    plan: EvaluationPlan,
    model: WorldModel,
    dataset: EpisodeDataset,
    episode_ids: Sequence[int] | np.ndarray,
    *,
    console: Console,
) -> NearestStarts:
    """An index of training episodes, see `NearestStarts`: on the CPU, a short vector and a chunk for each frame.

    Args:
        plan: `evaluation.nearest_starts`, the planner's horizon, and the objective's proprio weight.
        model: The world model.
        dataset: The episodes.
        episode_ids: Of the training split.
        console: Progress.

    Raises:
        DataError: No episode of two model steps, or episodes that the model cannot read.
    """
    settings = plan.evaluation.nearest_starts
    device = next(model.parameters()).device
    chosen = np.asarray(episode_ids)
    if settings.num_episodes < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, settings.num_episodes).round().astype(np.int64)]
    projection = LatentProjection(
        settings.dims,
        proprio_weight=plan.objective.proprio_weight,
        seed=stream_seed(plan.evaluation.seed, "nearest_starts"),
    )
    vectors, chunks, lengths = [], [], list[int]()
    with console.bar("episodes to start from", len(chosen)) as advance:
        for at in range(0, len(chosen), _EPISODES_AT_ONCE):
            found = encode_episodes(
                model,
                dataset,
                chosen[at : at + _EPISODES_AT_ONCE],
                kept={"chunks", "proprio"},
                memory_gib=settings.memory_gib,
                device=device,
            )
            assert found.chunks is not None, "they are kept"
            first = 0
            for length in found.lengths:
                rows = slice(first, first + length)
                first += length
                if length < 2:
                    continue
                lengths.append(length)
                vectors.append(projection(found.latents[rows]).cpu())
                chunks.append((found.chunks[rows] * model.action_std + model.action_mean).cpu())
            advance(min(at + _EPISODES_AT_ONCE, len(chosen)))
    if not lengths:
        raise DataError(f"{dataset.path}: no training episode is a model step long, so none can be started from")
    return NearestStarts(
        projection,
        torch.cat(vectors),
        torch.cat(chunks),
        lengths,
        horizon=plan.planner.horizon,
        num_starts=settings.num_starts,
    )
