"""Collects (or imports) the episodes of a recipe, and nothing more: the first stage of `train.py` by itself."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli import guarded
from jepawm.config_io import parse


def main() -> int:
    """Reads the command line and prepares the dataset."""
    config, _ = parse(description=(__doc__ or "").split("\n")[0])
    from jepawm.console import Console
    from jepawm.pipeline import prepare_dataset
    from jepawm.runtime import make_runtime

    runtime = make_runtime(config)
    try:
        prepare_dataset(config, runtime, Console())
    finally:
        runtime.close()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
