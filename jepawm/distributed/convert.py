"""Ray Data: reads, decodes and encodes the episodes of a source on every CPU of the cluster."""

import functools
import logging
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data

from jepawm.config import ScalingConfig
from jepawm.data.encoding import EncodedEpisode
from jepawm.data.importers.base import EpisodeSource
from jepawm.data.importers.conversion import BadEpisode, read_encoded
from jepawm.distributed.waiting import Say, Waiting, watched
from jepawm.errors import JepawmError
from jepawm.runs.placement.demand import Claim

# Without a limit Ray Data would retry a file that crashes its decoder forever.
MAX_RETRIES = 3


@functools.lru_cache(maxsize=1)
def _source_in(shared: ray.ObjectRef) -> EpisodeSource:
    """The source, unpickled once in each worker, so that its files stay open from one episode to the next."""
    source: EpisodeSource = ray.get(shared)
    return source


def _read(shared: ray.ObjectRef, codec: str, number: int) -> EncodedEpisode | BadEpisode:
    return read_encoded(_source_in(shared), codec, number)


def read_on_ray(
    source: EpisodeSource,
    codec: str,
    numbers: Sequence[int],
    *,
    timeout_s: float = ScalingConfig.placement_timeout_s,
    say: Say | None = None,
) -> Iterator[EncodedEpisode | BadEpisode]:
    """Reads episodes of a source on the cluster; few are in memory at a time.

    Args:
        source: Where the episodes come from; all nodes see its files.
        codec: How frames are stored, one of `jepawm.data.codecs.CODECS`.
        numbers: Positions of the episodes in the source.
        timeout_s: See `scaling.placement_timeout_s`.
        say: Told where the reading waits for room; None: printed.

    Yields:
        Episodes, or what is wrong with them, in the order of `numbers`.

    Raises:
        JepawmError: A Ray task found something wrong with the source.
        OSError: A Ray task could not read the source, or died at each attempt at the same episode.
        PlacementError: No task found room for `timeout_s`.
    """
    if not len(numbers):
        return
    shared = ray.put(source)

    def read(batch: dict[str, Any]) -> dict[str, Any]:
        number = int(batch["number"][0])
        try:
            answer: Any = _read(shared, codec, number)
        except (JepawmError, OSError) as error:
            # The error travels as a value, because Ray would wrap a raised error in a long message of its own.
            answer = error
        return {"answer": np.array([pickle.dumps(answer)], dtype=object)}

    items = [{"number": int(number)} for number in numbers]
    blocks = ray.data.from_items(items, override_num_blocks=min(len(items), 1000))
    episodes = blocks.map_batches(read, batch_size=1, ray_remote_args_fn=lambda: {"max_retries": MAX_RETRIES})
    episodes.context.execution_options.preserve_order = True
    # The caller shows progress itself.
    episodes.context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    waiting = Waiting("reading task", Claim(1.0), timeout_s, say)
    rows = watched(episodes.iter_rows(), lambda has_begun: waiting.look(0 if has_begun else 1, None))
    while True:
        try:
            row = next(rows, None)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            raise ConnectionError(
                f"a Ray worker died {MAX_RETRIES + 1} times over one episode ({type(error).__name__}): a file that "
                "crashes its decoder, or too little memory; without --ray the count of episodes shows which episode"
            ) from error
        if row is None:
            return
        answer = pickle.loads(row["answer"])
        if isinstance(answer, Exception):
            raise answer
        yield answer
