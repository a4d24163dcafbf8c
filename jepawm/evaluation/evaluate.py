"""A whole evaluation: tasks, every protocol, the random baseline beside each, and held-out prediction."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jepawm.agent import Starts
from jepawm.checkpoints.model_folder import ModelSpec, weights_sha256
from jepawm.config.evaluation import EvaluationPlan
from jepawm.config.published import published_evaluation
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.feature_store import FeatureStore
from jepawm.data.loading.split import Split, held_out_windows
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.conditions import model_conditions
from jepawm.evaluation.decoded import drawn_predictions
from jepawm.evaluation.episodes import EpisodeSet
from jepawm.evaluation.goals import HeldOutEpisodes
from jepawm.evaluation.image_goals import play_image_goals
from jepawm.evaluation.image_outcomes import ImageGoals
from jepawm.evaluation.imagination import with_imagination
from jepawm.evaluation.latent_pictures import LatentPictures, NearestFrames, drawing_head
from jepawm.evaluation.manifest import manifest
from jepawm.evaluation.nearest import nearest_starts
from jepawm.evaluation.planner_host import Players
from jepawm.evaluation.play import Animation, check_environment, play_all
from jepawm.evaluation.result import (
    DatasetFacts,
    EvaluationResult,
    HeldOut,
    ModelFacts,
    Played,
    PredictionRow,
    Provenance,
)
from jepawm.rollout import EnvPool
from jepawm.training.diagnostics import latent_diagnostics, prediction_errors
from jepawm.training.features import feature_store
from jepawm.world_model import WorldModel


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation leaves.

    Attributes:
        result: The numbers.
        animations: Recorded episodes of the headline protocol, by episode id.
        episodes: What was played; None where there is no environment.
    """

    result: EvaluationResult
    animations: dict[int, Animation] = field(default_factory=dict)
    episodes: EpisodeSet | None = None


def evaluate(
    plan: EvaluationPlan,
    model: WorldModel,
    spec: ModelSpec,
    pool: EnvPool | None,
    dataset: EpisodeDataset | None,
    *,
    model_dir: str,
    console: Console,
    players: Players | None = None,
) -> Evaluation:
    """Judges a world model as `plan.evaluation` says.

    Args:
        plan: Planner, objective, episodes and protocols.
        model: The world model.
        spec: Its statistics and action specification.
        pool: Hosts of the environment; None where there is none, and held-out episodes are all there is.
        dataset: For held-out prediction and goals; None leaves prediction out.
        model_dir: Where the model was read from, for the record.
        console: Progress.
        players: What plans and plays; None: this process does, in `pool`.

    Returns:
        What was found, recorded episodes of the headline protocol, and the episode set.

    Raises:
        ConfigError: Goals from held-out data without a dataset; neither an environment nor held-out episodes.
        DataError: Not enough tasks, or no held-out windows.
    """
    split = (
        Split.of(dataset, plan.data.held_out_fraction, plan.seed, plan.data.train_fraction)
        if dataset is not None
        else None
    )
    held_out = dataset is not None and split is not None and len(split.held_out) > 0
    if dataset is not None and split is not None and held_out:
        _check_prediction_horizon(plan, dataset, split)
    played: Played | None = None
    episodes: EpisodeSet | None = None
    image_goals: ImageGoals | None = None
    animations: dict[int, Animation] = {}
    if pool is not None and plan.evaluation.goal_source == "image":
        check_environment(spec, pool.describe(), plan.env.id)
        image_goals, animations = play_image_goals(plan, model, spec, pool, console=console, players=players)
    elif pool is not None:
        goals = None if dataset is None or split is None else HeldOutEpisodes.of(dataset, split.held_out)
        starts: Starts | None = None
        if plan.evaluation.nearest_starts.num_starts:
            if dataset is None or split is None:
                raise ConfigError(
                    "evaluation.nearest_starts starts from recorded actions, and the training data is not here; set "
                    "evaluation.nearest_starts.num_starts to 0, or pass --data.source dataset --data.path DATASET"
                )
            starts = nearest_starts(plan, model, dataset, split.train, console=console)
        played, episodes, animations = play_all(
            plan, model, spec, pool, goals, console=console, starts=starts, players=players
        )
    elif dataset is None:
        raise ConfigError(
            "env.id is 'none' and the training data is not here: there is nothing to judge the model by; set env.id, "
            "or pass --data.source dataset --data.path DATASET"
        )
    elif not held_out:
        raise ConfigError(
            "env.id is 'none' and no episode is held out: there is nothing to judge the model by; set env.id or raise "
            "data.held_out_fraction"
        )
    pictures = _pictures(plan, model, spec, dataset, split) if animations else None
    if pictures is not None:
        animations = with_imagination(animations, model, pictures)
    result = EvaluationResult(
        seed=plan.evaluation.seed,
        model=ModelFacts(
            path=model_dir,
            sha256=weights_sha256(model_dir),
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        ),
        config=dict(plan.run),
        provenance=Provenance(**manifest()),
        played=played,
        image_goals=image_goals,
        conditions=model_conditions(model, spec),
        published=_published(plan),
    )
    if dataset is not None and split is not None and held_out:
        facts = DatasetFacts(
            path=str(dataset.path),
            fingerprint=dataset.fingerprint,
            num_episodes=len(dataset),
            held_out_episodes=[int(i) for i in split.held_out],
        )
        result = replace(result, dataset=facts, held_out=_held_out(plan, model, spec, dataset, split, console))
    return Evaluation(result, animations, episodes)


def _pictures(
    plan: EvaluationPlan, model: WorldModel, spec: ModelSpec, dataset: EpisodeDataset | None, split: Split | None
) -> LatentPictures | None:
    """What shows imagined latents: a head, or else training frames where they are here; None where nothing can."""
    head = drawing_head(model, spec)
    number = plan.evaluation.num_nearest_frames
    if head is not None or dataset is None or split is None or not number:
        return head
    return NearestFrames.among(model, dataset, split.train, number, seed=plan.seed)


def _published(plan: EvaluationPlan) -> dict[str, Any] | None:
    """The published evaluation whose settings were asked for, and in which settings this one differs."""
    name = plan.evaluation.published
    if name is None:
        return None
    published = published_evaluation(name)
    return {
        "name": name,
        "paper": published.paper,
        "differences": published.differences(plan.run),
        "remarks": list(published.remarks),
    }


def _check_prediction_horizon(plan: EvaluationPlan, dataset: EpisodeDataset, split: Split) -> None:
    """Before any episode is played: is there a held-out window to predict in?"""
    horizon = plan.evaluation.prediction_horizon
    needed = horizon * dataset.spec.frames_per_chunk(plan.data.frameskip) + 1
    longest = max(dataset.num_frames(int(episode_id)) for episode_id in split.held_out)
    if longest < needed:
        raise DataError(
            f"evaluation.prediction_horizon {horizon} needs held-out episodes of {needed} frames, the longest of "
            f"{len(split.held_out)} has {longest}; lower it, or raise data.env_steps_per_episode"
        )


def _held_out(
    plan: EvaluationPlan,
    model: WorldModel,
    spec: ModelSpec,
    dataset: EpisodeDataset,
    split: Split,
    console: Console,
) -> HeldOut:
    device = next(model.parameters()).device
    horizon = plan.evaluation.prediction_horizon
    store = _stored(plan, model, spec, dataset)
    windows = held_out_windows(
        *(dataset, split, plan.data),
        seed=plan.seed,
        num_frames=horizon + 1,
        num_windows=plan.diagnostics_windows,
        store=store,
    )
    if windows is None or len(windows) < 2:
        raise DataError(
            f"evaluation.prediction_horizon {horizon} leaves fewer than two held-out windows; lower it or raise "
            "data.held_out_fraction"
        )
    # The frames that training measures on, so that the report's table is the last point of its plot.
    frames = held_out_windows(
        dataset, split, plan.data, seed=plan.seed, num_frames=1, num_windows=plan.diagnostics_windows, store=store
    )
    assert frames is not None, "there are held-out windows"
    names = dataset.spec.sim_state.names if dataset.spec.sim_state is not None else ()
    return HeldOut(
        prediction=tuple(PredictionRow(**row) for row in prediction_errors(model, windows, device, seed=plan.seed)),  # type: ignore[arg-type]
        prediction_windows=len(windows),
        prediction_episodes=len(np.unique(windows.episode_ids)),
        diagnostics=latent_diagnostics(model, frames, names, device),
        images=drawn_predictions(model, spec, windows, say=console.say),
    )


def _stored(plan: EvaluationPlan, model: WorldModel, spec: ModelSpec, dataset: EpisodeDataset) -> FeatureStore | None:
    """The features that the model was trained on, where they are here whole; a head that draws is compared with frames.

    None: the frames are encoded, which gives the same latents up to the number format of the store.
    """
    if plan.data.features != "stored" or drawing_head(model, spec) is not None:
        return None
    store = feature_store(model.encoder, spec.model.encoder, dataset, plan.data.features_dtype)
    return None if store.missing_shards else store
