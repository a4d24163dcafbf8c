"""`jepawm improve`: a model collects episodes by planning, trains on them, and is judged, round after round.

jepawm improve --recipe demo --improve.num-rounds 3 --improve.episodes-per-round 100
"""

from collections.abc import Sequence

from jepawm.config.command_line import TRAIN, Command, parse, section_help, take_section
from jepawm.config.improve import ImproveConfig

IMPROVE = Command(
    prog="jepawm improve",
    about="Train a model as jepawm train does; then, in rounds, let it collect episodes by planning, go on training on "
    "all episodes, and judge it on the same starts and goals. Beside it a second model gets the same train steps on "
    "the first episodes alone. The same command goes on where it was stopped.\n\n"
    f"{section_help(ImproveConfig)}",
    common=TRAIN.common,
)


def main(argv: Sequence[str]) -> int:
    """Reads the command line and runs all rounds."""
    settings, words = take_section(list(argv), ImproveConfig)
    config, recipe = parse(words, IMPROVE)
    from jepawm.runs.early import check_names

    check_names(config)
    from jepawm.console import Console
    from jepawm.runs.improve import improve

    improve(config, settings, recipe, Console())
    return 0
