"""`python -m jepawm`: the `jepawm` command."""

import sys

from jepawm.cli.main import main

sys.exit(main())
