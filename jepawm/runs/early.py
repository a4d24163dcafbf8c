"""The first look at a run, before torch is imported: do the things that it names exist?

`jepawm.runs.preflight` checks the rest. A typing error is then answered in a second or two.
"""

import os

from jepawm.config import RunConfig
from jepawm.data import EpisodeDataset
from jepawm.errors import DataError
from jepawm.rollout.make import find_env
from jepawm.storage.reading import fetched


def check_names(config: RunConfig) -> None:
    """Refuses an environment, a dataset or a source that is not there.

    Raises:
        EnvironmentFault: No such module, id or class.
        DataError: No dataset, or nothing to convert, at `data.path`.
    """
    # An environment with an interpreter of its own need not be importable here.
    if config.env.id != "none" and config.env.python is None:
        find_env(config.env.id)
    path = str(config.data.path)
    if config.data.source == "dataset":
        EpisodeDataset(fetched(path))
    elif config.data.source == "convert" and not os.path.exists(path):
        raise DataError(f"there is nothing to convert at {os.path.abspath(path)}; pass --data.path PATH")
