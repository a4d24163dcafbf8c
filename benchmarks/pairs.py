"""Two ways of doing the same work, timed in turn: on a noisy machine only ratios within a pair count."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def paired_ratio(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, name: str = "dense"
) -> dict[str, Any]:
    """Both take turns; which one goes first changes from round to round.

    Args:
        ours: One piece of work; it waits for the device itself.
        theirs: The same work, done otherwise.
        rounds: Pairs, at least 2.
        name: Of the other side.

    Returns:
        Medians in milliseconds, and the median ratio (above 1: ours is faster) with its quartiles; `cpu_ratio` is the
        same of the processor time of all threads, which other programs on the machine disturb less.
    """
    times: dict[str, list[tuple[float, float]]] = {"ours": [], name: []}
    for turn in range(rounds):
        order = [("ours", ours), (name, theirs)]
        for side, run in order if turn % 2 else reversed(order):
            began = time.perf_counter(), time.process_time()
            run()
            times[side].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    pairs = list(zip(times["ours"], times[name], strict=True))
    wall, cpu = ([other[clock] / own[clock] for own, other in pairs] for clock in (0, 1))
    low, middle, high = statistics.quantiles(wall, n=4, method="inclusive")
    medians = {f"{side}_ms": 1e3 * statistics.median(value[0] for value in values) for side, values in times.items()}
    return {
        **medians,
        f"{name}_over_ours": middle,
        "quartiles": [low, high],
        "cpu_ratio": statistics.median(cpu),
        "rounds": rounds,
    }


def synchronised(work: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The work, and then a wait until the device has done it."""

    def run() -> Any:
        found = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return found

    return run
