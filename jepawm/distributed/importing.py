"""Ray Data: the episodes of a source, read, decoded and encoded again on every CPU of the cluster."""

import logging
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data

from jepawm.data.encoding import EncodedEpisode
from jepawm.data.importers.base import EpisodeSource, read_encoded
from jepawm.errors import JepawmError


def read_on_ray(source: EpisodeSource, codec: str, numbers: Sequence[int]) -> Iterator[EncodedEpisode]:
    """Episodes of a source in the order of their numbers, streamed: few are in memory at a time.

    Raises:
        JepawmError: What a worker found wrong with the source, as it found it.
    """
    if not len(numbers):
        return
    shared = ray.put(source)

    def read(batch: dict[str, Any]) -> dict[str, Any]:
        number = int(batch["number"][0])
        try:
            answer: Any = read_encoded(ray.get(shared), codec, number)
        except JepawmError as error:
            # Handed over as it is: Ray would wrap it in the story of its own tasks.
            answer = error
        return {"answer": np.array([pickle.dumps(answer)], dtype=object)}

    items = [{"number": int(number)} for number in numbers]
    episodes = ray.data.from_items(items, override_num_blocks=min(len(items), 1000)).map_batches(read, batch_size=1)
    episodes.context.execution_options.preserve_order = True
    # There is a progress bar of our own.
    episodes.context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    for row in episodes.iter_rows():
        answer = pickle.loads(row["answer"])
        if isinstance(answer, JepawmError):
            raise answer
        yield answer
