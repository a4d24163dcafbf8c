"""Whether an evaluation has tasks to play, found out before anything is trained or played."""

from dataclasses import replace

from jepawm.config import RunConfig
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split
from jepawm.errors import require
from jepawm.evaluation.episodes import read_episodes
from jepawm.evaluation.goals import HeldOutEpisodes, draw_episodes
from jepawm.evaluation.image_goals import read_goal_images
from jepawm.rollout import EnvDescription, EnvHost, EnvPool, SerialBackend

# Tasks that are drawn to see whether there are any.
NUM_TRIED = 10


def check_tasks(
    config: RunConfig, trained: RunConfig, dataset: EpisodeDataset | None, description: EnvDescription | None
) -> None:
    """Refuses episodes of another environment, and goals that are reached before an episode begins.

    Args:
        config: The evaluation that is wanted.
        trained: The configuration of the training, which fixes the split; `config` itself in a training run.
        dataset: The training episodes; None where they are not there yet.
        description: The environment's, where it is cheap to make; None: only what needs no environment is checked.

    Raises:
        ConfigError: An episode set of another environment; a source of goals that the episodes or the environment do
            not have.
        DataError: An episode set or pictures that cannot be read; almost all tasks solved at the start.
        EnvironmentFault: A scripted policy that there is not.
        MissingDependencyError: Videos are asked for, and the extra that writes them is not installed.
    """
    evaluation = config.evaluation
    if evaluation.videos:
        require("av", "video")
    if config.env.id == "none":
        return
    if evaluation.goal_images is not None:
        read_goal_images(evaluation.goal_images, config.env.image_size, description)
        return
    if evaluation.episodes is not None:
        episodes = read_episodes(evaluation.episodes)
        if not evaluation.allow_other_env:
            episodes.check_environment(config.env.id, config.env.options)
        if description is not None:
            episodes.check_states(description)
        return
    if description is None or (evaluation.takes_recordings and dataset is None):
        return
    held_out = None
    if evaluation.takes_recordings and dataset is not None:
        split = Split.of(dataset, trained.data.held_out_fraction, trained.seed)
        held_out = HeldOutEpisodes.of(dataset, split.held_out)
    few = replace(evaluation, num_episodes=min(NUM_TRIED, evaluation.num_episodes))
    offset = evaluation.goal_offset * config.data.frameskip
    with EnvPool(SerialBackend(lambda: EnvHost(config.env))) as pool:
        draw_episodes(few, config.env, pool, held_out, env_steps_to_goal=offset)
