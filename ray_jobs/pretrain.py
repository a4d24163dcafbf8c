"""Pretrains a video encoder on clips of datasets or video files, by predicting the latents of what it does not see.

python ray_jobs/pretrain.py --clips.paths DATASET                                       tiny, in minutes
python ray_jobs/pretrain.py --recipe pretrain/vjepa2_large --clips.paths VIDEOS --scaling.num-workers 16

The same function as `jepawm pretrain`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
