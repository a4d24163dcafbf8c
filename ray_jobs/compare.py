"""Compares evaluations with the first one: rates with intervals, and a paired test on the same episodes.

python ray_jobs/compare.py RUN RUN_B --html comparison.html

The same function as `jepawm compare`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
