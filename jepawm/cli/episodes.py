"""`jepawm episodes`: files of starts and goals, which evaluations play and people share.

jepawm episodes make FILE --env.id envs:envs/Wall-v1 --evaluation.num-episodes 200
jepawm episodes show FILE
jepawm evaluate --model RUN --evaluation.episodes FILE
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from tyro.conf import Positional

from jepawm.config.command_line import Command, parse
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


@dataclass(frozen=True)
class ShowEpisodes:
    """Show what an episode set holds."""

    file: Positional[str]
    """The episode set."""

    def run(self) -> int:
        """Prints it."""
        from jepawm.evaluation.episodes import read_episodes

        found = read_episodes(self.file)
        offset = "" if found.goal_offset_env_steps is None else f", {found.goal_offset_env_steps} env_steps to the goal"
        known = sum(task.actions is not None for task in found.tasks)
        print(f"episodes     {len(found.tasks)}, {known} with the actions that lead to the goal")
        print(f"environment  {found.env_id} {' '.join(found.env_options)}".rstrip())
        print(f"goals        {found.goal_source}{offset}, seed {found.seed}")
        print(f"solved       {found.solved_at_start} at the start")
        print(f"recordings   {found.dataset_fingerprint or 'none'}")
        print(f"sha256       {found.sha256}")
        return 0


def main(argv: Sequence[str]) -> int:
    """Makes or shows an episode set."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command == "make":
        return _make(rest)
    if command == "show":
        return tyro.cli(ShowEpisodes, args=rest, prog="jepawm episodes show").run()
    print(f"error: jepawm episodes has no command '{command}'; it has make and show", file=sys.stderr)
    return 2


def _make(words: list[str]) -> int:
    # A file comes before the flags, which are those of a run.
    path = words.pop(0) if words and not words[0].startswith("-") else None
    config, _ = parse(words, MAKE)
    if path is None:
        raise ConfigError("pass a file: jepawm episodes make FILE")
    from jepawm.console import Console
    from jepawm.runs.episode_sets import make_episodes

    made = make_episodes(config, path, Console())
    print(f"written      {path}: {len(made.tasks)} episodes of {made.env_id}, sha256 {made.sha256[:16]}")
    return 0
