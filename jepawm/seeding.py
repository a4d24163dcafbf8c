"""Everything random comes from named streams: (run seed, purpose, episode id or train step).

A stream never depends on a worker's rank, on a batch or on the number of workers, so that outcomes are the same however
the work is spread.
"""

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed of one stream.

    Args:
        seed: Of the run or the evaluation.
        purpose: What is drawn, e.g. `dropout`; streams of different purposes are independent.
        *numbers: What tells draws of one purpose apart, e.g. the train step or the episode id.
    """
    return _word([seed, zlib.crc32(purpose.encode()), *numbers])


def stream_generator(seed: int, purpose: str, *numbers: int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A torch generator at the beginning of one stream; see `stream_seed`."""
    import torch

    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, *numbers))


def plan_generator(seed: int, *numbers: int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """The generator of one plan's noise.

    Args:
        seed: Of the evaluation.
        *numbers: Episode id and number of the plan.
        device: Where the noise is drawn.
    """
    import torch

    return torch.Generator(device).manual_seed(_word([seed, *numbers]))


def _word(entropy: list[int]) -> int:
    word = np.random.SeedSequence(entropy).generate_state(1, dtype=np.uint64)[0]
    return int(word >> np.uint64(1))
