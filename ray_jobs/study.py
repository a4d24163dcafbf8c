"""A study of encoders; its trials run side by side on Ray.

python ray_jobs/study.py encoders --study docs/studies/encoders.yaml

The same function as `jepawm study`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))
