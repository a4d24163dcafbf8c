"""Evaluates a trained world model again: other episodes, protocols or planner settings, without training.

python ray_jobs/evaluate.py --model RUN --evaluation.num-episodes 200 --evaluation.seed 7

The same function as `jepawm evaluate`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
