"""Shows what a trained model imagines under actions made by hand: a page, its numbers, and an animation."""

import os
import time
from dataclasses import dataclass

from jepawm.checkpoints.head_folder import model_dir_of
from jepawm.checkpoints.model_folder import ModelSpec, load_world_model, weights_sha256
from jepawm.config.counterfactual import CounterfactualJob
from jepawm.config.places import evaluations_dir, local_path
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split
from jepawm.data.video_writer import write_video
from jepawm.device import pick_device
from jepawm.errors import CheckpointError, ConfigError, DataError, require
from jepawm.evaluation.branches import read_branches
from jepawm.evaluation.counterfactual import (
    Counterfactual,
    Moment,
    films,
    imagine_branches,
    moment_of_clip,
    moment_of_picture,
)
from jepawm.evaluation.counterfactual_page import FRAME_MS, durations, filmstrip, write_page
from jepawm.evaluation.filmstrips import write_gif
from jepawm.evaluation.latent_pictures import LatentPictures, NearestFrames, drawing_head
from jepawm.files import write_json
from jepawm.runs.episodes import find_dataset
from jepawm.runs.evaluation import trained_config
from jepawm.storage.holding import held
from jepawm.storage.reading import fetched, fetched_model
from jepawm.world_model import WorldModel

JSON_FILE, PAGE_FILE, GIF_FILE, MP4_FILE = (f"counterfactual.{kind}" for kind in ("json", "html", "gif", "mp4"))


@dataclass(frozen=True)
class _Episodes:
    """Recorded episodes: those of clips, and those whose frames may stand for latents.

    Attributes:
        dataset: Where they are; None: nowhere.
        training: Ids of training episodes; all episodes of a dataset that the model was not trained on.
        held_out: Ids of those that it has not seen.
        is_own: Whether the model was trained on them.
    """

    dataset: EpisodeDataset | None
    training: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()
    is_own: bool = False

    def clip(self, job: CounterfactualJob) -> int | None:
        """The episode of the clip; None for a picture."""
        if job.observation is not None:
            return None
        # A clip that the model was trained on shows less than one that it has not seen.
        return (self.held_out or self.training)[0] if job.episode is None else job.episode


def show_counterfactual(job: CounterfactualJob, console: Console) -> Counterfactual:
    """Unrolls the branches, and writes `counterfactual.html`, `.json`, `.gif` and, where asked for, `.mp4`.

    Args:
        job: Model, moment and actions.
        console: Where progress is shown.

    Returns:
        The numbers.

    Raises:
        CheckpointError: No model, or a damaged one; a head of other weights.
        ConfigError: A wrong file of actions, or a head that does not draw.
        DataError: No clip or picture that the model can see.
        MissingDependencyError: A video is asked for, and `av` is not installed.
    """
    if not job.model or not job.actions:
        raise ConfigError("pass --model RUN, a run or the `model` folder of one, and --actions FILE")
    model_dir = model_dir_of(fetched_model(job.model))
    if not os.path.isfile(os.path.join(model_dir, "config.yaml")):
        raise CheckpointError(f"{model_dir} is no model folder: it has no config.yaml; pass --model RUN or RUN/model")
    if job.mp4:
        require("av", "video")
    model, spec = load_world_model(model_dir, pick_device(job.device))
    episodes = _episodes(job, model_dir)
    moment = _moment(job, model, episodes)
    branches = read_branches(job.actions, spec.action, model.frameskip, moment.later_actions)
    pictures = _pictures(job, model, spec, episodes)
    what = f"{len(branches.names)} branches of {branches.horizon} model steps, from {moment.about}"
    with console.stage("imagine", what):
        imagined = imagine_branches(model, moment, branches)
        strip = filmstrip(films(imagined, moment, branches, pictures), model.frameskip)
    rows = zip(branches.names, branches.actions_BSa, strict=True)
    found = Counterfactual(
        model=model_dir,
        model_sha256=weights_sha256(model_dir),
        moment=moment.about,
        actions_file=job.actions,
        horizon=branches.horizon,
        frameskip=model.frameskip,
        action_names=list(spec.action.names or map(str, range(spec.action.dim))),
        action_units=spec.action.units,
        pictures=pictures.about,
        branches=tuple(imagined.branch(number, name, actions) for number, (name, actions) in enumerate(rows)),
        distances=imagined.distances(branches.names),
    )
    folder = (
        local_path(job.output)
        if job.output
        else os.path.join(evaluations_dir(), f"counterfactual-{time.strftime('%Y%m%d-%H%M%S')}")
    )
    os.makedirs(folder, exist_ok=True)
    with held(folder, console.say):
        write_json(os.path.join(folder, JSON_FILE), found.to_dict())
        write_page(os.path.join(folder, PAGE_FILE), found, strip)
        write_gif(os.path.join(folder, GIF_FILE), strip, frame_ms=durations(len(strip)))
        if job.mp4:
            write_video(os.path.join(folder, MP4_FILE), strip, fps=1000 / FRAME_MS)
    console.say(f"pictures     {found.pictures}")
    for pair in found.distances:
        console.say(
            f"apart        {pair.first} | {pair.second}: latent distance {pair.per_model_step[1]:.4g} after 1 model "
            f"step, {pair.per_model_step[-1]:.4g} after {found.horizon}"
        )
    console.say(f"written to   {os.path.join(folder, PAGE_FILE)}")
    return found


def _episodes(job: CounterfactualJob, model_dir: str) -> _Episodes:
    trained = trained_config(model_dir)
    own = find_dataset(trained)
    dataset = own if job.data.path is None else EpisodeDataset(fetched(job.data.path))
    if dataset is None:
        return _Episodes(None)
    if own is not None and own.fingerprint == dataset.fingerprint:
        split = Split.of(dataset, trained.data.held_out_fraction, trained.seed)
        return _Episodes(dataset, tuple(split.train.tolist()), tuple(split.held_out.tolist()), is_own=True)
    every = tuple(int(episode_id) for episode_id in dataset.episode_ids)
    return _Episodes(dataset, every, every)


def _moment(job: CounterfactualJob, model: WorldModel, episodes: _Episodes) -> Moment:
    if job.observation is not None:
        return moment_of_picture(model, job.observation, job.frame)
    if episodes.dataset is None:
        raise DataError(
            "the episodes that the model was trained on are not here; pass --data.path DATASET, or --observation FILE"
        )
    episode_id = episodes.clip(job)
    assert episode_id is not None, "there is no picture"
    return moment_of_clip(model, episodes.dataset, episode_id, job.frame, context_frames=job.context_frames)


def _pictures(job: CounterfactualJob, model: WorldModel, spec: ModelSpec, episodes: _Episodes) -> LatentPictures:
    head = None if job.nearest else drawing_head(model, spec, job.head)
    if head is not None:
        return head
    # The frames of the clip itself would show what was recorded in place of what is imagined.
    clip = episodes.clip(job) if episodes.dataset is not None else None
    ids = [episode_id for episode_id in episodes.training if episode_id != clip]
    if episodes.dataset is None or not ids:
        raise DataError(
            "nothing can show what the model imagines: no head draws its latents, and no recorded episodes are here; "
            f"train one (jepawm train-head --model {job.model} --head.name image), or pass --data.path DATASET"
        )
    source = "training frames" if episodes.is_own else f"frames of {episodes.dataset.path}"
    return NearestFrames.among(model, episodes.dataset, ids, job.nearest_frames, seed=0, source=source)
