"""Ray Data: a pool of actors encodes the shards of a dataset, each on a GPU where the cluster has some."""

import logging
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from jepawm.device import device_of_claim, pick_device
from jepawm.distributed.stored_home import check_one_machine
from jepawm.distributed.waiting import Say, Waiting, watched
from jepawm.errors import JepawmError
from jepawm.runs.placement.demand import Demand
from jepawm.runs.usage import Share, UsageMeter
from jepawm.training.features import EncodeJob, encode_shards

# An actor that dies begins the shard that it was at again; a shard that kills its actor each time ends the job.
MAX_RETRIES = 3


class ShardEncoder:
    """An actor of the pool: the encoder, opened once, and the store that it fills.

    Args:
        job: What is encoded.
        device: Where it computes.
        num_threads: Threads that it computes with on a CPU.
    """

    def __init__(self, job: EncodeJob, device: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._store, self._encoder = job.open()
        self._device = pick_device(device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encodes a batch of one shard number; the features go to the store, their count back."""
        (number,) = batch["number"]
        try:
            answer: int | Exception
            (answer,) = encode_shards(self._store, self._encoder, [int(number)], self._device)
        except (JepawmError, OSError) as error:
            # The error travels as a value, because Ray would wrap a raised error in a long message of its own.
            answer = error
        return {"answer": np.array([pickle.dumps(answer)], dtype=object)}


def encode_on_ray(
    job: EncodeJob, demand: Demand, say: Say | None = None, *, usage: UsageMeter | None = None
) -> Iterator[int]:
    """Fills the shards of a feature store that are missing, on the cluster.

    Args:
        job: What is encoded; all nodes read the dataset, and write beside it.
        demand: What an actor claims, and how many there are.
        say: Told where actors wait for room; None: printed.
        usage: Counts what the actors hold; None: nothing is counted.

    Yields:
        Frames of each shard that was kept.

    Raises:
        ConfigError: A dataset at a URI, and several machines.
        JepawmError: An actor found something wrong with the episodes or the encoder.
        OSError: An actor died at each attempt at the same shard.
        PlacementError: No actor found room for `scaling.placement_timeout_s`.
    """
    check_one_machine(job.dataset_path, "encoding the frames")
    store, _ = job.open()
    missing = store.missing_shards
    claim, actors, scaling = demand.worker(), demand.num_encode_actors(len(missing)), demand.scaling
    device = device_of_claim(demand.device, claim.gpus)
    cpus = max((int(kind.cpus) for kind in demand.cluster.running if claim.suits(kind)), default=1)
    num_threads = scaling.cpus_per_worker or max(1, cpus // actors)
    waiting = Waiting("encode actor", claim, scaling.placement_timeout_s, say)
    blocks = ray.data.from_items([{"number": number} for number in missing], override_num_blocks=len(missing))
    encoded = blocks.map_batches(
        ShardEncoder,
        fn_constructor_args=(job, device, num_threads),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        **claim.options(),
        ray_remote_args_fn=lambda: {"max_restarts": MAX_RETRIES, "max_task_retries": MAX_RETRIES},
    )
    # The caller shows progress itself.
    encoded.context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    rows = watched(encoded.iter_rows(), lambda has_begun: waiting.look(0 if has_begun else actors, actors))
    with (usage or UsageMeter()).holding(Share("encode actors", actors, claim.cpus, claim.gpus)):
        yield from _answers(rows)


def _answers(rows: Iterator[dict[str, Any]]) -> Iterator[int]:
    """Frames of each shard that was kept; raises what an actor found wrong."""
    while True:
        try:
            row = next(rows, None)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            raise ConnectionError(
                f"an encoding actor died {MAX_RETRIES + 1} times over one shard ({type(error).__name__}): too little "
                "memory, or a file that crashes its decoder; shards that are encoded stay, and the same command goes "
                "on with the others"
            ) from error
        if row is None:
            return
        answer = pickle.loads(row["answer"])
        if isinstance(answer, Exception):
            raise answer
        yield answer
