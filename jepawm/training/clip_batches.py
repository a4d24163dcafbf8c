"""Batches of clips for one worker: drawn, read and augmented by threads of this process, ahead of the training."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from jepawm.config.clips import ClipsConfig
from jepawm.data.clips.mixture import ClipMixture
from jepawm.data.clips.sampler import ClipDraws, ClipRequest, GroupShare, check_split
from jepawm.data.clips.sources import ClipSource
from jepawm.errors import ConfigError
from jepawm.training.augment import augment, draw_augmentation
from jepawm.types import ClipBatch, ClipGroup

__all__ = ["ClipBatches", "ClipRequest", "read_clip"]

# Batches that are read before the training needs them.
_AHEAD = 2


def read_clip(mixture: ClipMixture, draws: ClipDraws, slot: int) -> np.ndarray:
    """Reads a drawn clip and augments it.

    Args:
        mixture: The sources.
        draws: A batch.
        slot: Place of the clip in it.

    Returns:
        `[T,side,side,C]` uint8, as `ClipRequest` and the source ask for.

    Raises:
        DataError: The clip cannot be decoded; names the file.
    """
    frames_TCYX = torch.from_numpy(mixture.read(draws, slot))
    request = mixture.request
    height, width = frames_TCYX.shape[-2:]
    chosen = draw_augmentation(
        mixture.config.augment,
        height=height,
        width=width,
        seed=request.seed,
        train_step=draws.train_step,
        slot=slot,
    )
    return augment(frames_TCYX, chosen, request.image_size).permute(0, 2, 3, 1).numpy()


@dataclass
class _GroupInWork:
    """A group of a batch whose clips threads are reading into `pixels`, `[B,T,Y,X,C]`."""

    share: GroupShare
    pixels: np.ndarray
    parts: list[Future[None]]

    def finished(self) -> ClipGroup:
        """The group, when all its clips are read; raises what a thread met."""
        for part in self.parts:
            part.result()
        share = self.share
        return ClipGroup(
            share.index, len(share.slots), share.rows, np.moveaxis(self.pixels, -1, 2), share.slots[share.rows]
        )


class ClipBatches:
    """The clips of one worker. Those of train step `k` depend on (seed, k) alone, so a resumed run goes on exactly.

    Args:
        config: The sources and how clips are cut from them.
        request: What the stage asks for.
        rank: This worker, in `[0, world_size)`.
        world_size: Workers; together their shares are the batch of one worker.
        sources: The opened sources of the stage before, so that nothing is opened twice; None: opens them.

    Attributes:
        mixture: The sources; `mixture.sampler.group_frames` has the frame count of each group.

    Raises:
        ConfigError: No sources, or a batch that cannot be split.
        DataError: A source that cannot be opened.
    """

    def __init__(
        self,
        config: ClipsConfig,
        request: ClipRequest,
        *,
        rank: int = 0,
        world_size: int = 1,
        sources: tuple[ClipSource, ...] | None = None,
    ) -> None:
        if config.loader == "stream":
            raise ConfigError("clips.loader 'stream' reads clips with Ray Data, which needs Ray; choose 'auto' here")
        check_split(request.batch_size, rank=rank, world_size=world_size)
        self.mixture = ClipMixture(config, request, sources=sources)
        self._rank, self._world_size = rank, world_size
        self._num_threads = config.num_threads or torch.get_num_threads()

    def batches(self, train_step: int) -> Generator[ClipBatch, None, None]:
        """Batches from a train step to the end of the stage. Closing the iterator ends the threads that read.

        Args:
            train_step: The first one, from `request.first_train_step` on.

        Raises:
            DataError: A clip that cannot be decoded; names the file.
        """
        return self._batches(train_step)

    def _batches(self, train_step: int) -> Generator[ClipBatch, None, None]:
        request = self.mixture.request
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="clips")
        in_work: deque[tuple[int, list[_GroupInWork]]] = deque()
        try:
            for step in range(train_step, request.last_train_step):
                in_work.append((step, self._begin(pool, step)))
                if len(in_work) > _AHEAD:
                    yield _batch(*in_work.popleft())
            while in_work:
                yield _batch(*in_work.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, train_step: int) -> list[_GroupInWork]:
        mixture, size = self.mixture, self.mixture.request.image_size
        draws = mixture.sampler.draws(train_step)
        groups = []
        for share in mixture.sampler.shares(draws, rank=self._rank, world_size=self._world_size):
            slots = share.slots[share.rows].tolist()
            pixels = np.empty((len(slots), mixture.sampler.group_frames[share.index], size, size, 3), dtype=np.uint8)
            parts = [pool.submit(_read_into, pixels[row], mixture, draws, slot) for row, slot in enumerate(slots)]
            groups.append(_GroupInWork(share, pixels, parts))
        return groups


def _batch(train_step: int, groups: list[_GroupInWork]) -> ClipBatch:
    return ClipBatch(train_step, tuple(group.finished() for group in groups))


def _read_into(out: np.ndarray, mixture: ClipMixture, draws: ClipDraws, slot: int) -> None:
    out[...] = read_clip(mixture, draws, slot)
