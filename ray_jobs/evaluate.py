"""Evaluates a trained world model again: other episodes, protocols or planner settings, without training.

python ray_jobs/evaluate.py --model RUN/model --evaluation.num-episodes 200 --evaluation.seed 7
python ray_jobs/evaluate.py --model MODEL --action-score --data.path DATASET       by recorded actions (DROID)
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.checkpoints.model_folder import read_spec
from jepawm.cli.main import guarded
from jepawm.config.command_line import parse
from jepawm.errors import ConfigError


def main() -> int:
    """Reads `--model FOLDER`, starts from that model's own configuration, and plays the episodes."""
    argv = sys.argv[1:]
    if argv in (["-h"], ["--help"]):
        print(f"{__doc__}\nEvery flag of train.py is known; those under evaluation, planner and scaling matter here.")
        return 0
    if "--model" not in argv or argv.index("--model") + 1 == len(argv):
        raise ConfigError("pass --model FOLDER, the `model` folder of a run")
    at = argv.index("--model")
    model_dir = argv[at + 1]
    del argv[at : at + 2]
    read_spec(model_dir)
    scores_actions = "--action-score" in argv
    if scores_actions:
        argv.remove("--action-score")
        argv += ["--data.source", "dataset"]
    # Nothing is trained here, so however many workers the model was trained on, --local is possible.
    base = ["--recipe", os.path.join(model_dir, "config.yaml"), "--scaling.num-workers", "1"]
    config, _ = parse([*base, *argv], (__doc__ or "").split("\n")[0])
    from jepawm.console import Console
    from jepawm.runs.pipeline import evaluate_model, score_actions
    from jepawm.runs.runtime import make_runtime

    if scores_actions:
        score_actions(config, Console(), model_dir)
        return 0
    runtime = make_runtime(config)
    try:
        evaluate_model(config, runtime, Console(), model_dir)
    finally:
        runtime.close()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
