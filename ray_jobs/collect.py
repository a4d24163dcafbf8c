"""Collects (or converts) the episodes of a recipe, and nothing more: the first stage of `train.py` by itself.

python ray_jobs/collect.py --env envs/PointMaze-v1 --episodes 2000 --env-steps 100 --output DATASET
python ray_jobs/collect.py --env envs/PointMaze-v1 --episodes 3000 --env-steps 100 --output DATASET   adds 1000 more

Every flag of train.py is known besides; `--policy` left out takes the environment's usual one.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import guarded
from jepawm.config.command_line import parse

SHORT = {
    "--env": "--env.id",
    "--policy": "--data.policy",
    "--episodes": "--data.num-episodes",
    "--env-steps": "--data.env-steps-per-episode",
    "--output": "--data.path",
    "--actors": "--scaling.num-env-actors",
}


def expand(argv: list[str]) -> list[str]:
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


def main() -> int:
    """Reads the command line and prepares the dataset."""
    config, _ = parse(expand(sys.argv[1:]), (__doc__ or "").strip())
    from jepawm.console import Console
    from jepawm.runs.pipeline import prepare_dataset
    from jepawm.runs.runtime import make_runtime

    runtime = make_runtime(config)
    try:
        prepare_dataset(config, runtime, Console())
    finally:
        runtime.close()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
