"""`jepawm episodes`: files of starts and goals, which evaluations play and people share.

jepawm episodes make FILE --env.id envs:envs/Wall-v1 --evaluation.num-episodes 200
jepawm episodes show FILE
jepawm evaluate --model RUN --evaluation.episodes FILE
"""

import sys
from collections.abc import Sequence

from jepawm.config.command_line import Command, parse
from jepawm.config.run import RunConfig
from jepawm.errors import ConfigError

MAKE = Command(
    prog="jepawm episodes make FILE",
    about="Draw the episodes of an evaluation and write them to FILE, for jepawm evaluate --evaluation.episodes FILE. "
    "No model is needed; goals from recordings need the recipe's dataset.",
    common=(
        *("local", "seed"),
        *("env.id", "env.vary", "env.options", "data.source", "data.path", "data.frameskip"),
        *("evaluation.seed", "evaluation.num_episodes", "evaluation.goal_source", "evaluation.goal_offset"),
        *("evaluation.goal_policy", "evaluation.solved_at_start", "scaling.num_env_actors"),
    ),
)

_USAGE = """usage: jepawm episodes make FILE [--recipe NAME] [--evaluation.num-episodes N] ...
       jepawm episodes show FILE

Files of starts and goals: an evaluation plays one with --evaluation.episodes FILE.
"""


def main(argv: Sequence[str]) -> int:
    """Makes or shows an episode set."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command not in ("make", "show"):
        print(f"error: jepawm episodes has no command '{command}'; it has make and show", file=sys.stderr)
        return 2
    path = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if command == "make":
        config, _ = parse(rest, MAKE)
        return _make(config, _needed(path, command))
    return _show(_needed(path, command))


def _needed(path: str | None, command: str) -> str:
    if path is None:
        raise ConfigError(f"pass a file: jepawm episodes {command} FILE")
    return path


def _make(config: RunConfig, path: str) -> int:
    from jepawm.console import Console
    from jepawm.runs.episode_sets import make_episodes

    made = make_episodes(config, path, Console())
    print(f"written      {path}: {len(made.tasks)} episodes of {made.env_id}, sha256 {made.sha256[:16]}")
    return 0


def _show(path: str) -> int:
    from jepawm.evaluation.episodes import read_episodes

    found = read_episodes(path)
    offset = "" if found.goal_offset_env_steps is None else f", {found.goal_offset_env_steps} env_steps to the goal"
    known = sum(task.actions is not None for task in found.tasks)
    print(f"episodes     {len(found.tasks)}, {known} with the actions that lead to the goal")
    print(f"environment  {found.env_id} {' '.join(found.env_options)}".rstrip())
    print(f"goals        {found.goal_source}{offset}, seed {found.seed}")
    print(f"solved       {found.solved_at_start} at the start")
    print(f"recordings   {found.dataset_fingerprint or 'none'}")
    print(f"sha256       {found.sha256}")
    return 0
