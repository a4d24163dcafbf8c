"""A model that improves itself: it collects episodes by planning, trains on them, and is judged, round after round.

python ray_jobs/improve.py --recipe demo --improve.num-rounds 3 --improve.episodes-per-round 100

The same function as `jepawm improve`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from jepawm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["improve", *sys.argv[1:]]))
