"""Checkpoints that hold whole pickled modules, read as data.

The original DINO-WM saved `nn.Module` objects, not state dicts. Unpickling them would import and run whatever the file
names. Here the pickle is walked opcode by opcode and every object in it stays a record of its class name, arguments and
state: nothing is imported, nothing named by the file is called, no attribute is set.
"""

import os
import struct
import zipfile
from typing import Any

from torch import Tensor

from jepawm.checkpoints.pickled.archive import Archive
from jepawm.checkpoints.pickled.machine import Machine
from jepawm.checkpoints.pickled.parts import DEPTH, Damaged, Object, Refused, View, below, kind_of, shown
from jepawm.errors import CheckpointError, first_line

__all__ = ["read_modules"]

_LEFT_OUT = ("accelerate", "hydra", "omegaconf", "torch.amp", "torch.cuda.amp", "torch.optim")
_WRAPPERS = ("torch.nn.parallel.distributed.DistributedDataParallel", "torch.nn.parallel.data_parallel.DataParallel")
# Modules that are saved as a pattern alone, and have no tensors.
_PATTERNS = ("einops.layers.torch.Rearrange", "einops.layers.torch.Reduce")

# What zipfile, pickletools, struct and torch raise on bytes that are not what they claim to be.
_DAMAGE = (
    *(zipfile.BadZipFile, OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, OverflowError),
    *(MemoryError, struct.error),
)

_NAMES = 100_000
_NAME_LENGTH = 1000
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_modules(path: str) -> dict[str, dict[str, Tensor] | int | float | str | None]:
    """Reads a checkpoint of whole modules (`model_latest.pth` of the original DINO-WM) without executing anything.

    Args:
        path: Of a file `torch.save` wrote in its zip format (torch 1.6 and later).

    Returns:
        One entry per top-level key. A module becomes its state dict on the CPU: parameters and persistent buffers under
        the names `module.state_dict()` gives (extra state and state-dict hooks, which only the module's own code
        knows, are not part of it); tensors that share a storage in the file share memory here. A top-level
        `DistributedDataParallel` or `DataParallel` is taken off, so that no name begins with `module.`. Numbers,
        numpy scalars, strings and None stay as they are. Optimizers, schedulers, gradient scalers and configuration
        objects (classes of torch.optim, torch.amp, accelerate, hydra, omegaconf) are left out.

    Raises:
        CheckpointError: The file is missing, damaged, truncated or in torch's old format; it names a function or a
            class outside the packages such a checkpoint is made of; a tensor reaches outside its storage; or it holds
            something that is neither module, number nor text. Nothing in the file is executed in any case.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_LEGACY))
            if start == _LEGACY:
                raise Refused("is in the format of torch before 1.6: load it there and save it again as a zip file")
            if start[:4] != b"PK\x03\x04":
                raise Damaged("it is not a zip file, which torch.save writes")
            with zipfile.ZipFile(file) as records:
                archive = Archive(records, os.path.getsize(path))
                return _entries(Machine(archive).run(archive.pickle()), archive)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error
    except Refused as error:
        raise CheckpointError(f"{path} is not read: it {error}; nothing in it was executed") from error
    except (Damaged, *_DAMAGE) as error:
        raise CheckpointError(
            f"{path} is damaged or truncated: {first_line(error)}; nothing in it was executed"
        ) from error


def _entries(root: Any, archive: "Archive") -> dict[str, dict[str, Tensor] | int | float | str | None]:
    if not isinstance(root, dict):
        raise Refused(f"holds {kind_of(root)}, expected a mapping of modules by name")
    entries: dict[str, dict[str, Tensor] | int | float | str | None] = {}
    for key, value in root.items():
        if not isinstance(key, str):
            raise Refused(f"has {kind_of(key)} for a top-level key, expected text")
        if isinstance(value, Object) and value.kind in _WRAPPERS and _is_module(value):
            value = value.state["_modules"].get("module")
        if _is_module(value):
            found = _StateDict(key)
            found.collect(value)
            entries[key] = {name: archive.tensor(view) for name, view in found.views.items()}
        elif value is None or isinstance(value, (int, float, str)):
            entries[key] = value
        elif not (isinstance(value, Object) and below(value.kind, _LEFT_OUT)):
            raise Refused(
                f"holds {kind_of(value)} under {shown(key)}, expected a module, an optimizer, a number or text"
            )
    return entries


def _is_module(value: Any) -> bool:
    if not isinstance(value, Object) or not isinstance(value.state, dict):
        return False
    return all(isinstance(value.state.get(part), dict) for part in ("_parameters", "_buffers", "_modules"))


class _StateDict:
    """Collects a module's tensors by name, in the order of `nn.Module.state_dict`."""

    def __init__(self, entry: str) -> None:
        self._entry = entry
        self._visits = 0
        self.views: dict[str, View] = {}

    def collect(self, module: Object, prefix: str = "", above: tuple[Object, ...] = ()) -> None:
        """Adds parameters and persistent buffers, then the children's."""
        # Counted by visit: a few modules, each held twice by the one above, make endless paths without any tensor.
        self._visits += 1
        if module in above or len(above) >= DEPTH or self._visits > _NAMES:
            raise Refused(f"nests modules without end at {self._at(prefix)}")
        passing = module.state.get("_non_persistent_buffers_set", set())
        if not isinstance(passing, (set, frozenset)):
            raise Damaged(f"_non_persistent_buffers_set of {self._at(prefix)} is {kind_of(passing)}, expected a set")
        buffers = {name: value for name, value in module.state["_buffers"].items() if name not in passing}
        for name, value in [*module.state["_parameters"].items(), *buffers.items()]:
            full = self._name(prefix, name)
            if full in self.views or len(self.views) >= _NAMES:
                raise Refused(f"gives {self._at(full)} twice, or more than {_NAMES} tensors")
            if isinstance(value, View):
                self.views[full] = value
            elif value is not None:
                raise Damaged(f"{self._at(full)} is {kind_of(value)}, expected a tensor")
        for name, child in module.state["_modules"].items():
            full = self._name(prefix, name)
            if _is_module(child):
                self.collect(child, f"{full}.", (*above, module))
            elif child is not None and not (isinstance(child, Object) and child.kind in _PATTERNS):
                raise Damaged(f"{self._at(full)} is {kind_of(child)}, expected a module")

    def _name(self, prefix: str, name: Any) -> str:
        if not isinstance(name, str) or "." in name or len(prefix) + len(name) > _NAME_LENGTH:
            raise Damaged(f"below {self._at(prefix)}, {shown(name)} cannot name a tensor or a module")
        return prefix + name

    def _at(self, name: str) -> str:
        return shown(f"{self._entry}.{name}".rstrip("."))
