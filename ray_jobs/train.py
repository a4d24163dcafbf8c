"""The main job: collect or import episodes, train a world model, plan with it, leave a report.

python ray_jobs/train.py                          the demo (Wall)
python ray_jobs/train.py --recipe pusht_human     the same on human Push-T demonstrations
python ray_jobs/train.py --local                  in this one process, without Ray
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import guarded
from jepawm.config.command_line import parse


def main() -> int:
    """Reads the command line and runs all stages."""
    config, recipe = parse(description=(__doc__ or "").split("\n")[0])
    # Imported after the command line is known to be right: --help and a typo should not wait for torch.
    from jepawm.console import Console
    from jepawm.runs.pipeline import run
    from jepawm.runs.runtime import make_runtime

    console = Console()
    with console.stage("start", "local process" if config.local else "Ray"):
        runtime = make_runtime(config)
    try:
        run(config, recipe, runtime, console)
    finally:
        runtime.close()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
