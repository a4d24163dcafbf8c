"""`jepawm demo`: `jepawm train` with the recipe `demo`."""

from collections.abc import Sequence

from jepawm.cli.train import main as train


def main(argv: Sequence[str]) -> int:
    """Runs the demo; every flag of `jepawm train` is known besides."""
    return train(["--recipe", "demo", *argv])
