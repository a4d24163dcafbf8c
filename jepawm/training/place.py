"""What the process that trains is given by whoever started it, on a laptop and on a cluster alike."""

from collections.abc import Callable
from dataclasses import dataclass

from jepawm.training.checkpoint_writer import Writable
from jepawm.training.loop import Metrics


@dataclass(frozen=True)
class TrainingPlace:
    """What a training goes on from, and where its metrics and checkpoints go.

    Attributes:
        restore_from: Folder of the checkpoint to continue; None: from the start.
        save: Gets what makes a copy of the state, and the metrics of its train step; called on every worker, and the
            first one writes.
        on_metrics: Gets each record; None on all workers but the first.
        after_step: Called after every update; raises what a checkpoint's writing met meanwhile.
        stop: Asked after every update whether training ends after a checkpoint; answers alike on all workers.
        rank: Of this worker.
        world_size: Workers in all; the process group, if any, is set up already.
    """

    restore_from: str | None
    save: Callable[[Callable[[], Writable], Metrics], object]
    on_metrics: Callable[[Metrics], None] | None = None
    after_step: Callable[[], None] | None = None
    stop: Callable[[int], bool] | None = None
    rank: int = 0
    world_size: int = 1
