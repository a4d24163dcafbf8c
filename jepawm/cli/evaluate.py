"""`jepawm evaluate`: a trained world model judged again, without training.

jepawm evaluate --model RUN --evaluation.num-episodes 200 --evaluation.seed 7
jepawm evaluate --model RUN --published dino_wm_wall                   as a paper evaluates
jepawm evaluate --model MODEL --action-score --data.path DATASET       by recorded actions (DROID)
jepawm evaluate --model RUN RUN_B --grid planner.num_samples=100,300   several, compared on the same episodes
"""

import os
from collections.abc import Sequence
from typing import Any

from jepawm.config.command_line import Command, Layers, parse, take_section, take_switch, take_value, take_values
from jepawm.config.published import PUBLISHED_EVALUATIONS, published_layer
from jepawm.config.run import RunConfig
from jepawm.config.tune import TuneConfig
from jepawm.config.yaml_io import read_yaml
from jepawm.errors import CheckpointError, ConfigError
from jepawm.storage.reading import fetched_model

EVALUATE = Command(
    prog="jepawm evaluate",
    about="Judge a trained model on other episodes, protocols or planner settings; every setting is the model's own "
    "unless a flag says otherwise.\n\n--model RUN or MODEL (needed): a run, a model folder such as RUN/model, or a "
    "registered model (models:/NAME/1); several are compared on the same episodes. "
    "--grid KEY=VALUE,VALUE ...: planner, objective or subgoals settings; each combination is evaluated and compared "
    "(--tune.max-concurrent, --tune.cpus-per-trial, --tune.gpus-per-trial and --tune.max-deaths say where). "
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
    models, words = take_values(list(argv), "--model", "a run or a model folder")
    grid, words = take_values(words, "--grid", "settings and values, for example planner.num_samples=100,300")
    scores_actions, words = take_switch(words, "--action-score")
    published, words = take_value(words, "--published", f"one of {', '.join(PUBLISHED_EVALUATIONS)}")
    if not models:
        if {"-h", "--help", "--help-all"} & set(words):
            parse(words, EVALUATE, base=[])
        raise CheckpointError("pass --model RUN, a run or the `model` folder of one")
    if len(models) > 1 or grid:
        if scores_actions:
            raise ConfigError("--action-score takes one --model and no --grid")
        return _evaluate_grid(models, grid, words, published)
    model_dir = model_of(models[0])
    config = _evaluation_of(model_dir, words, published, scores_actions=scores_actions)
    from jepawm.console import Console
    from jepawm.runs.pipeline import evaluate_run, score_actions

    if scores_actions:
        score_actions(config, Console(), model_dir)
    else:
        evaluate_run(config, Console(), model_dir)
    return 0


def _evaluate_grid(models: Sequence[str], grid: Sequence[str], words: list[str], published: str | None) -> int:
    """Evaluates several models, or one with several settings, and compares them."""
    settings, words = take_section(words, TuneConfig)
    folders = [os.path.abspath(model_of(model)) for model in models]
    for at, folder in enumerate(folders):
        if folder in folders[:at]:
            raise ConfigError(f"--model {models[at]} is given twice: {folder}")
    configs = {folder: _evaluation_of(folder, words, published) for folder in folders}
    from jepawm.console import Console
    from jepawm.runs.evaluation_grid import GridRequest, evaluate_grid
    from jepawm.tuning.points import grid_choices

    evaluate_grid(GridRequest(configs, grid_choices(grid), settings), Console())
    return 0


def _evaluation_of(
    model_dir: str, words: list[str], published: str | None, *, scores_actions: bool = False
) -> RunConfig:
    """A model's own configuration, a published evaluation over it, and the flags over both."""
    layers = model_layers(model_dir, scores_actions=scores_actions)
    config, _ = parse(words, EVALUATE, base=layers if published is None else [*layers, published_layer(published)])
    return config


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
