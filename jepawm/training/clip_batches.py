"""Batches of clips for one worker: drawn, read and augmented by threads of this process, ahead of the training."""

from collections.abc import Iterator
from dataclasses import dataclass

from jepawm.config.clips import ClipsConfig
from jepawm.types import ClipBatch


@dataclass(frozen=True)
class ClipRequest:
    """What a stage of a pretraining asks of its clips.

    Attributes:
        num_frames: Frames of a clip, where the source does not name a number of its own.
        image_size: Side of the square frames, px.
        batch_size: Clips per train step over ALL workers.
        seed: Of the run.
        first_train_step: The stage's first train step; an unweighted source begins an epoch there.
        last_train_step: One past the stage's last train step.
    """

    num_frames: int
    image_size: int
    batch_size: int
    seed: int
    first_train_step: int
    last_train_step: int


class ClipBatches:
    """The clips of one worker. Those of train step `k` depend on (seed, k) alone, so a resumed run goes on exactly.

    Args:
        config: The sources and how clips are cut from them.
        request: What the stage asks for.
        rank: This worker, in `[0, world_size)`.
        world_size: Workers; together their shares are the batch of one worker.
    """

    def __init__(self, config: ClipsConfig, request: ClipRequest, *, rank: int = 0, world_size: int = 1) -> None:
        raise NotImplementedError

    def batches(self, train_step: int) -> Iterator[ClipBatch]:
        """Batches from a train step to the end of the stage.

        Args:
            train_step: The first one, from `request.first_train_step` on.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends the threads that read."""
        raise NotImplementedError
