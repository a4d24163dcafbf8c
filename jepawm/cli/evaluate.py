"""`jepawm evaluate`: a trained world model judged again, without training.

jepawm evaluate --model RUN --evaluation.num-episodes 200 --evaluation.seed 7
jepawm evaluate --model RUN --published dino_wm_wall                   as a paper evaluates
jepawm evaluate --model MODEL --action-score --data.path DATASET       by recorded actions (DROID)
"""

import os
from collections.abc import Sequence
from typing import Any

from jepawm.config.command_line import Command, Layers, parse, take_switch, take_value
from jepawm.config.published import PUBLISHED_EVALUATIONS, published_layer
from jepawm.config.yaml_io import read_yaml
from jepawm.errors import CheckpointError
from jepawm.storage.reading import fetched_model

EVALUATE = Command(
    prog="jepawm evaluate",
    about="Judge a trained model on other episodes, protocols or planner settings; every setting is the model's own "
    "unless a flag says otherwise.\n\n--model RUN or MODEL (needed): a run, a model folder such as RUN/model, or a "
    "registered model (models:/NAME/1). "
    "--published NAME: settings of a published evaluation, which flags override "
    f"({', '.join(PUBLISHED_EVALUATIONS)}). "
    "--action-score: compare its plans with the recorded actions of --data.path instead (DROID).",
    common=(
        *("device", "local", "run_dir"),
        *("env.vary", "env.options", "data.path"),
        *("planner.name", "planner.horizon", "planner.num_samples", "planner.num_iterations", "planner.precision"),
        "objective",
        *("evaluation.seed", "evaluation.num_episodes", "evaluation.protocols", "evaluation.num_animations"),
        *("evaluation.goal_source", "evaluation.goal_offset", "evaluation.episodes"),
        "evaluation.goal_images",
        *("evaluation.goal_offsets_env_steps", "evaluation.num_diagnosed_failures"),
        *("scaling.num_env_actors", "scaling.num_planner_hosts", "tracking.mlflow"),
    ),
    takes_recipe=False,
)


def main(argv: Sequence[str]) -> int:
    """Reads `--model`, starts from that model's own configuration, and plays the episodes."""
    model, words = take_value(list(argv), "--model", "a run or a model folder")
    scores_actions, words = take_switch(words, "--action-score")
    published, words = take_value(words, "--published", f"one of {', '.join(PUBLISHED_EVALUATIONS)}")
    if model is None:
        if {"-h", "--help", "--help-all"} & set(words):
            parse(words, EVALUATE, base=[])
        raise CheckpointError("pass --model RUN, a run or the `model` folder of one")
    model_dir = model_of(model)
    layers = model_layers(model_dir, scores_actions=scores_actions)
    config, _ = parse(words, EVALUATE, base=layers if published is None else [*layers, published_layer(published)])
    from jepawm.console import Console
    from jepawm.runs.pipeline import evaluate_run, score_actions

    if scores_actions:
        score_actions(config, Console(), model_dir)
    else:
        evaluate_run(config, Console(), model_dir)
    return 0


def model_of(path: str) -> str:
    """The model folder of a run, or the folder itself; one at a URI or in a registry (`models:/NAME/1`) is fetched."""
    from jepawm.tracking.registry import local_model

    place = fetched_model(local_model(path))
    inside = os.path.join(place, "model")
    return inside if os.path.isdir(inside) else place


def model_layers(model_dir: str, *, scores_actions: bool = False) -> Layers:
    """The configuration that a model was trained with, for commands that begin with it.

    Raises:
        CheckpointError: The folder holds no model.
    """
    path = os.path.join(model_dir, "config.yaml")
    if not os.path.isfile(path):
        raise CheckpointError(f"{model_dir} is no model folder: it has no config.yaml; pass --model RUN or RUN/model")
    # Nothing is trained, so --local is possible however many workers the model was trained on.
    here: dict[str, Any] = {"scaling": {"num_workers": 1}}
    if scores_actions:
        here["data"] = {"source": "dataset"}
    return [(path, read_yaml(path)), ("jepawm evaluate", here)]
