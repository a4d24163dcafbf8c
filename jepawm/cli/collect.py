"""`jepawm collect`: the first stage of `jepawm train` by itself.

jepawm collect --env envs/PointMaze-v1 --episodes 2000 --env-steps 100 --output DATASET
jepawm collect --env envs/PointMaze-v1 --episodes 3000 --env-steps 100 --output DATASET      adds 1000 more
"""

from collections.abc import Sequence

from jepawm.config.command_line import Command, parse

SHORT = {
    "--env": "--env.id",
    "--policy": "--data.policy",
    "--episodes": "--data.num-episodes",
    "--env-steps": "--data.env-steps-per-episode",
    "--output": "--data.path",
    "--actors": "--scaling.num-env-actors",
}
COLLECT = Command(
    prog="jepawm collect",
    about="Play a policy in an environment and keep the episodes. The same command goes on where a kill stopped it, "
    "and adds episodes where it is asked for more.\n\n"
    f"Short flags: {', '.join(f'{short} is {long}' for short, long in SHORT.items())}. With --env and without "
    "--policy, the environment's usual policy plays.",
    common=(
        *("seed", "local"),
        *("env.id", "env.image_size", "env.vary", "env.options"),
        *("data.policy", "data.num_episodes", "data.env_steps_per_episode", "data.env_steps_per_frame"),
        *("data.path", "data.codec"),
        *("scaling.num_env_actors", "scaling.episodes_per_call"),
    ),
)


def expand(argv: Sequence[str]) -> list[str]:
    """Short flags as the settings they stand for."""
    words = [part for word in argv for part in (word.split("=", 1) if word.split("=")[0] in SHORT else [word])]
    for at, word in enumerate(words[:-1]):
        if word == "--env" and words[at + 1].startswith("envs/"):
            words[at + 1] = f"envs:{words[at + 1]}"
    expanded = [SHORT.get(word, word) for word in words]
    names_env = any(word.split("=")[0] == "--env.id" for word in expanded)
    if names_env and not any(word.startswith("--data.policy") for word in expanded):
        expanded += ["--data.policy", "auto"]
    return expanded


def main(argv: Sequence[str]) -> int:
    """Reads the command line and prepares the dataset."""
    config, _ = parse(expand(argv), COLLECT)
    from jepawm.runs.early import check_names

    check_names(config)
    from jepawm.console import Console
    from jepawm.runs.pipeline import collect_run

    collect_run(config, Console())
    return 0
