"""A signal at the driver reaches the training workers, on whichever node they are."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import ray.train
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jepawm.distributed.waiting import LOOK_EVERY_S
from jepawm.interrupts import StopRequest
from jepawm.training.stopping import StopAgreement

# Seconds between two looks of the driver at a signal and at the end of the training.
_LOOK_EVERY_S = 0.1
# Seconds between two looks for room for more workers: to go on with more of them costs a checkpoint and a start.
LOOK_FOR_ROOM_EVERY_S = 60.0

Result = TypeVar("Result")


class _StopSignal:
    """Answers all workers that wait as soon as the driver asks for the end; counts the workers that have begun."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._begun = 0

    async def ask(self) -> None:
        self._asked.set()

    async def begun(self) -> int:
        return self._begun

    async def wait(self) -> bool:
        self._begun += 1
        await self._asked.wait()
        return True


def start_stop_signal() -> Any:
    """An actor on the driver's node that passes a request to stop on; it takes no CPU."""
    return ray.remote(**on_this_node())(_StopSignal).remote()


def on_this_node() -> dict[str, Any]:
    """Options of an actor that takes no CPU, on the node of this process.

    Ray asks a random node to place an actor that claims nothing. Where an autoscaler stops just that node, the actor
    dies before it began; so Ray places it again, and repeats calls, for which its answers have to be the same.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}


def worker_agreement(stop_signal: Any) -> StopAgreement:
    """When a Ray Train worker ends early: the driver was asked to, or a node of the workers is about to be taken away.

    Args:
        stop_signal: The actor of `start_stop_signal`.
    """
    answer = stop_signal.wait.remote().future()

    def wanted() -> bool:
        # Where the actor died the driver is gone, and Ray ends this worker itself.
        return answer.done() and answer.exception() is None

    # The oldest Ray that this package accepts may not say that a node is about to be taken away.
    preemption = getattr(ray.train, "get_preemption_info", None)
    return StopAgreement(wanted, ask_together=None if preemption is None else lambda: preemption() is not None)


def run_and_pass_on(
    fit: Callable[[], Result],
    request: StopRequest,
    stop_signal: Any,
    *,
    has_more_room: Callable[[], bool] | None = None,
    waits: Callable[[int], None] | None = None,
    spent: Callable[[], bool] = lambda: False,
) -> Result:
    """Runs a training in a thread, so that the main thread hears signals, and passes the first one on.

    Args:
        fit: The training; its result or its error is this function's.
        request: Set by a signal.
        stop_signal: The actor of `start_stop_signal`.
        has_more_room: Whether the training had better end at a checkpoint and go on with more workers; asked now and
            then.
        waits: Told every few seconds how many workers have begun. What it raises is raised here; Ray takes the training
            down when the driver ends.
        spent: Whether the training has used what it may, and had better end at a checkpoint.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(fit())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the main thread
            errors.append(error)

    thread = threading.Thread(target=work, name="ray-train", daemon=True)
    thread.start()
    asked, looked_at, counted_at = False, time.monotonic(), time.monotonic()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
        wanted = bool(request) or spent()
        if waits is not None and time.monotonic() - counted_at >= LOOK_EVERY_S:
            counted_at = time.monotonic()
            waits(ray.get(stop_signal.begun.remote()))
        if not asked and has_more_room is not None and time.monotonic() - looked_at >= LOOK_FOR_ROOM_EVERY_S:
            looked_at = time.monotonic()
            wanted = wanted or has_more_room()
        if wanted and not asked:
            ray.get(stop_signal.ask.remote())
            asked = True
    if errors:
        raise errors[0]
    return results[0]
