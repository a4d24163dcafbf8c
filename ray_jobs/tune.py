"""A sweep over the settings of a run, or over the planner of a trained model; trials run side by side on Ray.

python ray_jobs/tune.py --recipe demo --space optimizer --tune.scheduler.name asha --tune.num-trials 16
python ray_jobs/tune.py --model RUN --space planner,objective --tune.search.name optuna

The same function as `jepawm tune`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
