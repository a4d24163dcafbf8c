"""`python -m jepawm`: the `jepawm` command."""

import sys

from jepawm.cli import main

sys.exit(main())
