"""`jepawm train`: the main job, from episodes to a report."""

from collections.abc import Sequence

from jepawm.config.command_line import parse


def main(argv: Sequence[str]) -> int:
    """Reads the command line and runs all stages."""
    config, recipe = parse(list(argv))
    # Imported after the command line is known to be right: neither --help nor a typing error should wait for torch.
    from jepawm.runs.early import check_names

    check_names(config)
    from jepawm.console import Console
    from jepawm.runs.pipeline import train_run

    train_run(config, recipe, Console())
    return 0
