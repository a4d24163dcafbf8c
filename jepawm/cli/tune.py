"""`jepawm tune`: trials with other settings, compared, stopped early where they are worse, and the best one repeated.

jepawm tune --recipe demo --space optimizer --tune.scheduler.name asha --tune.num-trials 16
jepawm tune --model RUN --space planner,objective --tune.search.name optuna --tune.second-metric decision_ms
jepawm tune --recipe demo --space my_spaces:space --local
"""

from collections.abc import Sequence
from dataclasses import replace

from jepawm.cli.evaluate import EVALUATE, model_layers, model_of
from jepawm.config.command_line import TRAIN, Command, parse, section_help, take_section, take_value
from jepawm.config.tune import TuneConfig
from jepawm.errors import ConfigError

SPACES = "encoder, predictor, objective, planner, optimizer, several with commas between them, or module:function"
TUNE = Command(
    prog="jepawm tune",
    about="Run trials with other settings, each a run of its own, and compare them. Flags of jepawm train say what all "
    "trials have in common; with --model RUN those of jepawm evaluate, and no trial trains. The same command goes on "
    f"where it was stopped.\n\n--space (needed): {SPACES}.\n\n{section_help(TuneConfig)}",
    common=TRAIN.common,
)


def main(argv: Sequence[str]) -> int:
    """Reads the command line and runs the sweep."""
    settings, words = take_section(list(argv), TuneConfig)
    words_of_space, words = take_value(words, "--space", SPACES)
    model, words = take_value(words, "--model", "a run or a model folder")
    model_dir = None if model is None else model_of(model)
    if model_dir is None:
        config, recipe = parse(words, TUNE)
        _, own = take_value(words, "--recipe", "a name")
    else:
        config, _ = parse(words, replace(EVALUATE, prog=TUNE.prog, about=TUNE.about), base=model_layers(model_dir))
        recipe, own = f"evaluation of {model_dir}", words
    if words_of_space is None:
        raise ConfigError(f"pass --space, what is tried: {SPACES}")
    from jepawm.runs.points import settings_of
    from jepawm.tuning.points import find_space

    space = find_space(words_of_space).within(settings_of(config))
    from jepawm.runs.early import check_names

    check_names(config)
    from jepawm.console import Console
    from jepawm.runs.tune import SweepRequest, tune

    tune(SweepRequest(config, recipe, settings, space, model_dir=model_dir, words=tuple(own)), Console())
    return 0
