"""Whether episodes, recorded or still to be collected, fit the model, the windows and the evaluation."""

from dataclasses import dataclass

import numpy as np

from jepawm.config import DataConfig, EnvConfig, EvaluationConfig
from jepawm.config.evaluation import WITH_OFFSET
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import train_share
from jepawm.data.loading.windows import split_episodes, window_span
from jepawm.errors import ConfigError, DataError


@dataclass(frozen=True)
class EpisodeLengths:
    """How long the episodes of a run are.

    Attributes:
        subject: What errors call the episodes.
        train: `[E]` length of each training episode: frames, with those that were not kept between two kept ones.
        held_out: `[F]` length of each held-out episode.
        is_collected: Whether the run collects them itself, so that their length is a setting.
        env_steps_per_frame: Environment steps from one kept frame to the next.
    """

    subject: str
    train: np.ndarray
    held_out: np.ndarray
    is_collected: bool
    env_steps_per_frame: int = 1

    @classmethod
    def of_dataset(cls, dataset: EpisodeDataset, data: DataConfig, seed: int) -> "EpisodeLengths":
        """Lengths of a dataset's episodes, split as the run splits them."""
        parts = _parts(dataset.episode_ids, data, seed)
        every = dataset.spec.env_steps_per_frame
        train, held_out = (
            np.array([(dataset.num_frames(int(i)) - 1) * every + 1 for i in part], np.int64) for part in parts
        )
        return cls(str(dataset.path), train, held_out, is_collected=False, env_steps_per_frame=every)

    @classmethod
    def planned(cls, data: DataConfig, seed: int) -> "EpisodeLengths":
        """Lengths of the episodes a run will collect; an environment may end some of them earlier."""
        parts = _parts(np.arange(data.num_episodes or 0), data, seed)
        train, held_out = (np.full(len(part), data.env_steps_per_episode + 1, np.int64) for part in parts)
        return cls(
            "the episodes to collect", train, held_out, is_collected=True, env_steps_per_frame=data.env_steps_per_frame
        )

    @property
    def remedy(self) -> str:
        """How to get longer episodes."""
        return "raise data.env_steps_per_episode" if self.is_collected else "use longer episodes"


def _parts(episode_ids: np.ndarray, data: DataConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the episodes that are trained on, and of those that are held out."""
    train, held_out = split_episodes(episode_ids, data.held_out_fraction, seed)
    return train_share(train, data.train_fraction, seed), held_out


def check_frameskip(dataset: EpisodeDataset, frameskip: int) -> None:
    """Refuses windows whose frames were not recorded.

    Raises:
        ConfigError: Names the env_steps between two recorded frames.
    """
    if frameskip % dataset.spec.env_steps_per_frame:
        raise ConfigError(
            f"{dataset.path} holds a frame every {dataset.spec.env_steps_per_frame} env_steps; data.frameskip must be "
            f"a multiple of that, found {frameskip}"
        )


def check_frames(dataset: EpisodeDataset, env: EnvConfig) -> None:
    """Refuses a dataset without actions, with frames of another size, or of another environment.

    Raises:
        ConfigError: Says what the dataset holds and which setting does not fit it.
    """
    if not dataset.spec.action.dim:
        raise ConfigError(
            f"{dataset.path} holds frames without actions (videos): a world model learns what actions do and cannot be "
            "trained on it; such episodes are for pretraining encoders and for heads"
        )
    height, width, _ = dataset.spec.pixels.shape
    if (height, width) != (env.image_size, env.image_size):
        raise ConfigError(
            f"{dataset.path} holds frames of {height}x{width} px, env.image_size is {env.image_size}; "
            f"pass --env.image-size {height}"
        )
    recorded_env = dataset.spec.source.get("env")
    # `source` is free-form: other writers may put anything there.
    recorded_id = recorded_env.get("id") if isinstance(recorded_env, dict) else None
    # With env.id 'none' a model may be trained on a machine where the recorded environment cannot be made.
    if recorded_id is not None and env.id not in (recorded_id, "none"):
        raise ConfigError(
            f"{dataset.path} was recorded in {recorded_id}, env.id is {env.id}; pass --env.id {recorded_id}"
        )


def check_windows(data: DataConfig, lengths: EpisodeLengths, batch_size: int) -> None:
    """Refuses episodes that hold no training window, or fewer windows than one batch.

    Raises:
        DataError: Names the settings that make the window, and the longest episode.
    """
    span = window_span(data.frameskip, data.num_frames_in_window)
    longest = int(lengths.train.max())
    if longest < span:
        raise DataError(
            f"data.num_frames_in_window {data.num_frames_in_window} and data.frameskip {data.frameskip} need episodes "
            f"of {span} frames; of {lengths.subject} the longest training episode has {longest}; lower one of them, or "
            f"{lengths.remedy}"
        )
    num_windows = int(np.maximum((lengths.train - span) // lengths.env_steps_per_frame + 1, 0).sum())
    # A stream of windows draws its batches across epochs and takes any batch size.
    if num_windows < batch_size and data.loader != "stream":
        raise DataError(
            f"train.batch_size is {batch_size}; {len(lengths.train)} training episodes of {lengths.subject} hold "
            f"{num_windows} windows; lower it to at most {num_windows}, or use more episodes"
        )


def check_evaluation_lengths(
    evaluation: EvaluationConfig, frameskip: int, lengths: EpisodeLengths, *, has_env: bool
) -> None:
    """Refuses held-out episodes that are too short for the evaluation.

    Args:
        evaluation: Prediction horizon, and goals.
        frameskip: Environment steps per model step.
        lengths: Of the episodes.
        has_env: Whether plans are executed; otherwise held-out episodes alone judge the model.

    Raises:
        ConfigError: Nothing is held out, and nothing else can judge the model.
        DataError: Names the setting, what it needs, and the longest held-out episode.
    """
    longest = int(lengths.held_out.max(initial=0))
    needs_goals = has_env and evaluation.takes_recordings
    if not len(lengths.held_out):
        if needs_goals or not has_env:
            source = f"evaluation.goal_source '{evaluation.goal_source}' takes goals from them"
            why = source if needs_goals else "env.id is 'none'"
            raise ConfigError(f"no episode is held out ({why}); raise data.held_out_fraction")
        return
    held_out = f"the longest of {len(lengths.held_out)} held-out episodes of {lengths.subject} has {longest}"
    needed = evaluation.prediction_horizon * frameskip + 1
    if longest < needed:
        fitting = (longest - 1) // frameskip
        lower = f"lower it to at most {fitting}" if fitting else "lower data.frameskip"
        raise DataError(
            f"evaluation.prediction_horizon {evaluation.prediction_horizon} needs held-out episodes of {needed} "
            f"frames; {held_out}; {lower}, or {lengths.remedy}"
        )
    if not needs_goals or evaluation.goal_source not in WITH_OFFSET:
        return
    fitting = (longest - 1) // frameskip
    needed = evaluation.goal_offset * frameskip + 1
    if longest < needed:
        raise DataError(
            f"evaluation.goal_offset {evaluation.goal_offset} needs held-out episodes of {needed} frames; {held_out}; "
            f"lower it to at most {fitting}, or {lengths.remedy}"
        )
    farthest = max(evaluation.goal_offsets_env_steps, default=0)
    if longest < farthest + 1:
        raise DataError(
            f"evaluation.goal_offsets_env_steps {farthest} needs held-out episodes of {farthest + 1} frames; "
            f"{held_out}; lower it to at most {fitting * frameskip}, or {lengths.remedy}"
        )
