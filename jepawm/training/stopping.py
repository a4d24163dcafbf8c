"""When training ends early: all workers must end at the same boundary between two train steps."""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

# Several workers compare their answers once in so many train steps: each comparison waits for all of them.
COMPARE_EVERY = 5
# Seconds between two questions that all workers have to ask together.
ASK_EVERY_S = 5.0

_GO_ON, _ASK_TOGETHER, _STOP = range(3)


class StopAgreement:
    """Whether training ends after a train step; the answer is the same on every worker.

    Args:
        wanted: Whether this worker was asked to end. It is called often and has to be cheap.
        ask_together: A question that every worker must ask at the same time, such as whether a node is about to be
            taken away; None: there is none.
    """

    def __init__(self, wanted: Callable[[], bool], *, ask_together: Callable[[], bool] | None = None) -> None:
        self.wanted = wanted
        self.ask_together = ask_together
        self._asked_at = time.monotonic()

    def __call__(self, train_step: int) -> bool:
        """Answers after a train step; every worker has to call this after each of its steps.

        Args:
            train_step: Updates made.
        """
        workers = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if workers > 1 and train_step % COMPARE_EVERY:
            return False
        vote = _largest_vote(self._vote(), workers)
        if vote == _ASK_TOGETHER and self.ask_together is not None:
            self._asked_at = time.monotonic()
            return self.ask_together()
        return vote == _STOP

    def _vote(self) -> int:
        if self.wanted():
            return _STOP
        due = self.ask_together is not None and time.monotonic() - self._asked_at >= ASK_EVERY_S
        return _ASK_TOGETHER if due else _GO_ON


def _largest_vote(vote: int, workers: int) -> int:
    if workers == 1:
        return vote
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    largest = torch.tensor(vote, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)
