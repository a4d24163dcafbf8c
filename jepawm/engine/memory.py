"""What an unroll needs of memory: measured on a few candidates, before all of them are asked for."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Shares of free memory that planning may take. On the host other processes (environments, other planners) live beside
# it; on a GPU the allocator cannot use every gap.
_SHARE = {"cpu": 0.5}
_SHARE_OF_GPU = 0.8
_MIB = 2**20


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one forward pass over candidates.

    Attributes:
        num_episodes: Episodes `B` that are planned together.
        num_candidates: Candidates `N` of each.
        fixed_bytes: Bytes whatever the number of candidates.
        bytes_per_candidate: Bytes for one more candidate of one episode.
        free_bytes: Bytes that are free on the device.
        device: `cpu`, `cuda:0`, ...
    """

    num_episodes: int
    num_candidates: int
    fixed_bytes: int
    bytes_per_candidate: int
    free_bytes: int
    device: str

    @property
    def candidates_that_fit(self) -> int:
        """Candidates of each episode that one forward pass may hold, 1 to `num_candidates`."""
        share = _SHARE.get(torch.device(self.device).type, _SHARE_OF_GPU)
        room = share * self.free_bytes - self.fixed_bytes
        fit = int(room // max(1, self.bytes_per_candidate * self.num_episodes))
        return max(1, min(self.num_candidates, fit))

    def bytes_of(self, candidates: int) -> int:
        """Bytes of a forward pass over so many candidates of each episode."""
        return self.fixed_bytes + candidates * self.num_episodes * self.bytes_per_candidate

    def describe(self, candidates: int) -> str:
        """One line for people, for so many candidates of each episode in a forward pass."""
        passes = -(-self.num_candidates // candidates)
        return (
            f"planning memory: about {self.bytes_of(candidates) / _MIB:,.0f} MiB of {self.free_bytes / _MIB:,.0f} MiB "
            f"free on {self.device}: {self.num_candidates} candidates of each of {self.num_episodes} episode(s) in "
            f"{passes} forward pass(es), {self.bytes_per_candidate / _MIB:.2f} MiB a candidate"
        )


def peak_bytes(work: Callable[[], Any]) -> int:
    """Most bytes that tensors made by some work held at the same time.

    Counted from the storages that torch's operators return, so it is the same on every device; what a kernel takes
    inside itself is not seen.

    Args:
        work: Runs eagerly, without compiled parts.
    """
    with _LiveBytes() as counted:
        work()
    return counted.peak


class _LiveBytes(TorchDispatchMode):
    """Follows the storages that operators make until nothing holds them any more."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A view or an in-place result has the storage of an argument, which is counted already or was there before.
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage(), given)
        return result

    def _follow(self, storage: Any, given: set[int]) -> None:
        address = storage._cdata
        if address in given or address in self._known:
            return
        size = storage.nbytes()
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, size).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size
