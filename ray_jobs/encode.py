"""Encodes the frames of a dataset once with a frozen encoder, for training on stored features.

python ray_jobs/encode.py --model RUN                                  the encoder of a trained model, its own episodes
python ray_jobs/encode.py --model.encoder.name dinov2 --model.encoder.no-trainable --model.encoder.weights timm \\
    --data.source dataset --data.path DATASET                          a pretrained one, episodes that are there

The same function as `jepawm encode`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))
