"""Trains a head on the frozen latents of a trained model: frames, states, temporal distance, inverse dynamics.

python ray_jobs/train_head.py --model RUN --head.name image
python ray_jobs/train_head.py --model RUN --head.name inverse_dynamics --data.path DATASET

The same function as `jepawm train-head`. It works in this one process; on a cluster, give the job a GPU:
ray job submit --entrypoint-num-gpus 1 -- python ray_jobs/train_head.py --model RUN --head.name image
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train-head", *sys.argv[1:]]))
