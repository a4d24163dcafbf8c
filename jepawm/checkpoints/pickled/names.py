"""The names a pickle may mention, and those it may call: each by code of this file that builds plain data."""

import math
import struct
from collections.abc import Callable
from typing import Any, Protocol

import torch

from jepawm.checkpoints.pickled.parts import (
    Damaged,
    Global,
    Object,
    Refused,
    Storage,
    View,
    below,
    counted,
    hashable,
    kind_of,
    shown,
)

# Classes below these packages are kept as records; any other name must stand in MAKERS or _NAMED, or is refused.
_RECORDED = (
    *("accelerate", "einops", "hydra", "models", "omegaconf"),
    *("torch.amp", "torch.cuda.amp", "torch.distributed", "torch.nn", "torch.optim"),
)

DTYPES = {
    "torch.storage.UntypedStorage": torch.uint8,
    **{
        f"torch.{kind}Storage": getattr(torch, kind.lower()) for kind in ("Double", "Float", "Half", "BFloat16", "Bool")
    },
    **{f"torch.{kind}Storage": getattr(torch, kind.lower()) for kind in ("Long", "Int", "Short")},
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
# Names that may be mentioned (a layer's dtype, the type of a config node) and are never called.
_NAMED = {
    *DTYPES,
    *(str(dtype) for dtype in DTYPES.values()),
    *(f"builtins.{name}" for name in ("bool", "float", "int", "object", "str")),
    "numpy.dtype",
    "torch.device",
    "typing.Any",
}
_NUMPY_FORMATS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_NUMPY_FORMATS |= {"f2": "e", "f4": "f", "f8": "d"}

_DIMENSIONS = 64
_ELEMENTS = 1 << 40


class Counter(Protocol):
    """The reader that walks the pickle and counts the work."""

    def spend(self, amount: int) -> None:
        """Counts opcodes and copied elements."""
        ...


def _tensor(machine: Counter, args: tuple[Any, ...]) -> View:
    """What `torch._utils._rebuild_tensor_v2` is asked to build."""
    if len(args) not in (6, 7) or not isinstance(args[0], Storage):
        raise Damaged("a tensor is described by other than a storage, an offset, sizes and strides")
    storage, size, stride = args[0], args[2], args[3]
    if len(args) == 7 and args[6]:
        raise Refused("has a tensor with metadata (a conjugate or negative view), which is not supported")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= _DIMENSIONS:
        raise Damaged(f"a tensor of storage {storage.key} has sizes and strides that do not belong together")
    what = f"a size, stride or offset of a tensor of storage {storage.key}"
    offset = counted(args[1], what)
    size, stride = tuple(counted(n, what) for n in size), tuple(counted(n, what) for n in stride)
    numel = math.prod(size)
    if numel > _ELEMENTS:
        raise Refused(f"has a tensor of {numel} elements, more than {_ELEMENTS}")
    end = offset + (sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if numel else 0)
    if end > storage.numel:
        raise Damaged(f"a tensor reaches to element {end} of storage {storage.key}, which has {storage.numel}")
    return View(storage, offset, size, stride)


def _parameter(machine: Counter, args: tuple[Any, ...]) -> View:
    if len(args) != 3 or not isinstance(args[0], View):
        raise Damaged("a parameter is described by other than a tensor, a flag and hooks")
    return args[0]


def _items(machine: Counter, args: tuple[Any, ...]) -> list[Any]:
    """The elements of the list, tuple or set that is the only argument, if there is one."""
    if not args:
        return []
    if len(args) != 1 or not isinstance(args[0], (list, tuple, set, frozenset)):
        raise Refused("builds a container from other than one list, tuple or set")
    machine.spend(len(args[0]))
    return list(args[0])


def _mapping(machine: Counter, args: tuple[Any, ...]) -> dict[Any, Any]:
    if len(args) == 1 and isinstance(args[0], dict):
        machine.spend(len(args[0]))
        return dict(args[0])
    pairs = _items(machine, args)
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise Damaged("a dict is built from other than pairs")
    return {hashable(key): value for key, value in pairs}


def _bytes(machine: Counter, args: tuple[Any, ...]) -> bytes:
    """Bytes, which older pickles write as latin-1 text."""
    if not args:
        return b""
    if len(args) == 1 and isinstance(args[0], bytes):
        machine.spend(len(args[0]))
        return args[0]
    if len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", "latin-1"):
        machine.spend(len(args[0]))
        return args[0].encode("latin-1")
    raise Refused("builds bytes from other than bytes or latin-1 text")


def _numpy_scalar(machine: Counter, args: tuple[Any, ...]) -> bool | int | float:
    """A numpy number as a number of Python's."""
    dtype, content = args
    if not isinstance(dtype, Object) or dtype.kind != "numpy.dtype" or not isinstance(content, bytes):
        raise Damaged("a numpy scalar is described by other than a dtype and bytes")
    code, order = dtype.args[0], dtype.state[1]
    if not isinstance(code, str) or code not in _NUMPY_FORMATS or order not in ("<", ">", "|"):
        raise Refused(f"has a numpy scalar of type {shown(code)}, expected a number of at most 64 bits")
    return struct.unpack(("<" if order == "|" else order) + _NUMPY_FORMATS[code], content)[0]


def _complex(machine: Counter, args: tuple[Any, ...]) -> complex:
    real, imaginary = args
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise Damaged("a complex number is described by other than two floats")
    return complex(real, imaginary)


# What the pickle may call, each by code of this file that builds plain data.
MAKERS: dict[str, Callable[[Counter, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda machine, args: tuple(_items(machine, args)),
    "collections.OrderedDict": _mapping,
    # The factory, and with it any default, is left out: records are not looked up by missing keys.
    "collections.defaultdict": lambda machine, args: _mapping(machine, args[1:]),
    "builtins.dict": _mapping,
    "builtins.list": _items,
    "builtins.tuple": lambda machine, args: tuple(_items(machine, args)),
    "builtins.set": lambda machine, args: {hashable(item) for item in _items(machine, args)},
    "builtins.frozenset": lambda machine, args: frozenset(hashable(item) for item in _items(machine, args)),
    "builtins.slice": lambda machine, args: slice(*args),
    "builtins.complex": _complex,
    "builtins.bytes": _bytes,
    "builtins.bytearray": lambda machine, args: bytearray(_bytes(machine, args)),
    "_codecs.encode": _bytes,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}


def named(module: Any, attribute: Any) -> Global:
    """A name, once it is known to be harmless to mention."""
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise Damaged(f"its pickle names a global by {kind_of(module)} and {kind_of(attribute)}, expected text")
    # Python 2's name, which pickle protocol 2 still writes.
    name = f"{'builtins' if module == '__builtin__' else module}.{attribute}"
    if name in MAKERS or name in _NAMED:
        return Global(name)
    plain = attribute.isidentifier() and not (attribute.startswith("__") and attribute.endswith("__"))
    if plain and all(part.isidentifier() for part in module.split(".")) and below(name, _RECORDED):
        return Global(name)
    raise Refused(f"names {shown(name)}, which a checkpoint of modules has no use for")


def recorded(cls: Any, args: Any, *kwargs: Any) -> Object:
    """A record of an instance, from the name of its class and what it would be built with."""
    if not isinstance(cls, Global) or cls.name in MAKERS:
        raise Refused(f"makes an instance of {kind_of(cls)}, which is no class such a checkpoint needs")
    if not isinstance(args, tuple):
        raise Damaged(f"{shown(cls.name)} is given {kind_of(args)}, expected a tuple of arguments")
    return Object(cls.name, (args, *kwargs) if kwargs else args)
