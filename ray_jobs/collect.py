"""Collects (or converts) the episodes of a recipe, and nothing more: the first stage of `train.py` by itself.

python ray_jobs/collect.py --env envs/PointMaze-v1 --episodes 2000 --env-steps 100 --output DATASET

The same function as `jepawm collect`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["collect", *sys.argv[1:]]))
