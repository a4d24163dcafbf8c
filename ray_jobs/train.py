"""The main job: collect or read episodes, train a world model, plan with it, leave a report.

python ray_jobs/train.py                          the demo (Wall)
python ray_jobs/train.py --recipe pusht_human     human Push-T demonstrations
python ray_jobs/train.py --local                  in this one process, without Ray

The same function as `jepawm train`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
