"""Draws the episodes of an evaluation and writes them to a file, without a model."""

from jepawm.config import RunConfig
from jepawm.console import Console
from jepawm.data.loading.split import Split
from jepawm.errors import ConfigError
from jepawm.evaluation.episodes import EpisodeSet
from jepawm.evaluation.goals import HeldOutEpisodes, draw_episodes
from jepawm.files import write_json
from jepawm.runs.episodes import find_dataset, prepare_dataset
from jepawm.runs.placement import tell_placement
from jepawm.runs.preflight import check_collection
from jepawm.runs.runtime import make_runtime


def make_episodes(config: RunConfig, path: str, console: Console) -> EpisodeSet:
    """Draws starts and goals as `config.evaluation` says and writes them.

    Args:
        config: The environment, and the section `evaluation`; its dataset for goals from recordings.
        path: Of the file.
        console: Progress.

    Returns:
        What the file holds.

    Raises:
        ConfigError: No environment, or settings that draw no episodes.
    """
    if config.env.id == "none":
        raise ConfigError("env.id is 'none': an episode set is one of an environment; set env.id")
    if config.evaluation.episodes is not None:
        raise ConfigError("evaluation.episodes names a set that exists; leave it out where one is made")
    check_collection(config)
    runtime = make_runtime(config, console.say)
    try:
        tell_placement(runtime.place(config, ["collect"]), console)
        held_out = None
        if config.evaluation.takes_recordings:
            prepare_dataset(config, runtime, console)
            dataset = find_dataset(config)
            assert dataset is not None, "it was prepared"
            split = Split.of(dataset, config.data.held_out_fraction, config.seed)
            held_out = HeldOutEpisodes.of(dataset, split.held_out)
        with console.stage("episodes", path), runtime.env_pool(config.env, config.scaling) as pool:
            offset = config.evaluation.goal_offset * config.data.frameskip
            episodes = draw_episodes(config.evaluation, config.env, pool, held_out, env_steps_to_goal=offset)
        write_json(path, episodes.to_dict())
        return episodes
    finally:
        runtime.close()
