"""Reads what others saved with `torch.save` or `pickle`, without torch and without running anything from the file.

A pickle is a program. The reader here knows a short list of names (a tensor, a storage of numbers, a numpy array, an
ordered dict) and refuses a file that asks for any other, before anything is called. Numbers of a tensor stay on disk:
they are mapped into memory, so that one episode of a large tensor costs the reading of one episode.
"""

import codecs
import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.errors import DataError

# The first bytes of what torch before 1.6 wrote: a pickle of its magic number.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
# Homes of the functions that numpy's pickles name, in numpy 1 and 2.
_NUMPY_CORES = ("numpy.core", "numpy._core")


@dataclass(frozen=True)
class _Storage:
    """A storage's numbers, `[n]`; also stands for its class (`numbers` None) while a pickle is read."""

    dtype: np.dtype[Any]
    numbers: np.ndarray | None = None


def load_saved(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` (torch 1.6 or newer) or `pickle.dump` wrote, with numpy arrays for tensors.

    Args:
        path: The file.

    Returns:
        Arrays (read-only, mapped into memory where a tensor was saved), numbers, strings, and lists, tuples and
        dicts of them.

    Raises:
        DataError: No such file, truncated, of the format of an older torch, or a pickle that asks for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(len(_LEGACY_START))
    if start == _LEGACY_START:
        raise DataError(
            f"{path}: saved in the format of torch before 1.6; load it with torch.load and save it again with "
            "torch.save"
        )
    try:
        if start[:2] == b"PK":
            return _TorchArchive(path).load()
        with open(path, "rb") as file:
            return _plain(_Unpickler(file, path).load())
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: a truncated or damaged archive: {error}; copy it again") from error
    except DataError:
        raise
    except _NotNumbersError as error:
        raise DataError(f"{path}: {error}; expected numbers") from error
    # What a truncated or hand-made pickle can raise is anything its opcodes stumble over.
    except Exception as error:
        raise DataError(
            f"{path}: a truncated or damaged pickle: {type(error).__name__}: {error}; copy it again"
        ) from error


def load_array(path: str | os.PathLike[str]) -> np.ndarray:
    """A saved tensor or array, or a list of numbers as one.

    Args:
        path: The file.

    Raises:
        DataError: As `load_saved`, or it holds something else.
    """
    found = load_saved(path)
    if isinstance(found, (list, tuple)):
        try:
            found = np.asarray([np.asarray(value).item() for value in found])
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: a list of other things than numbers") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        what = f"an array of {found.dtype}" if isinstance(found, np.ndarray) else type(found).__name__
        raise DataError(f"{path}: expected a tensor or array of numbers, found {what}")
    return found


class _Unpickler(pickle.Unpickler):
    """Knows the names that tensors and arrays are made of, and no other."""

    def __init__(self, file: Any, path: Path, storage: Callable[[str, np.dtype[Any], int], _Storage] | None = None):
        super().__init__(file)
        self._path = path
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._rebuild_tensor,
            ("torch", "Size"): tuple,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            # How pickle protocol 2 writes bytes.
            ("_codecs", "encode"): _encode,
        }
        for core in _NUMPY_CORES:
            known[f"{core}.multiarray", "_reconstruct"] = _reconstruct
            known[f"{core}.multiarray", "scalar"] = _scalar
            known[f"{core}.numeric", "_frombuffer"] = _from_buffer
        if module == "torch" and name in _STORAGES:
            return _Storage(np.dtype(_STORAGES[name]))
        if (module, name) not in known:
            raise DataError(
                f"{self._path}: its pickle asks for '{module}.{name}', which no tensor, array or list of numbers "
                "needs; refusing to load it"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise DataError(f"{self._path}: a pickle that refers to data outside of it: {pid!r}")
        _, kind, key, _, count = pid
        if not isinstance(kind, _Storage) or not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise DataError(f"{self._path}: a damaged reference to a storage: {pid!r}")
        return self._storage(key, kind.dtype, count)

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
        """A view of a storage; sizes and strides that leave it are refused."""
        if not isinstance(storage, _Storage) or storage.numbers is None:
            raise DataError(f"{self._path}: a tensor without a storage")
        numbers, size, stride = storage.numbers, tuple(size), tuple(stride)
        whole = [offset, *size, *stride]
        if len(size) != len(stride) or any(type(value) is not int or value < 0 for value in whole):
            raise DataError(f"{self._path}: a tensor of size {size} and stride {stride} at {offset}")
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= len(numbers):
            raise DataError(f"{self._path}: a tensor of size {size} reaches out of its {len(numbers)} numbers")
        strides = tuple(step * numbers.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(numbers[offset:], size, strides, writeable=False)


class _TorchArchive:
    """The zip that `torch.save` writes: `NAME/data.pkl`, and each storage as an uncompressed `NAME/data/KEY`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.entries = {info.filename: info for info in archive.infolist()}
            roots = [name.removesuffix("data.pkl") for name in self.entries if name.endswith("/data.pkl")]
            if len(roots) != 1 or roots[0].count("/") != 1:
                raise DataError(f"{path}: a zip, but not one that torch.save wrote: expected one NAME/data.pkl")
            self.root = roots[0]
            self.program = archive.read(f"{self.root}data.pkl")
            if f"{self.root}byteorder" in self.entries:
                order = archive.read(f"{self.root}byteorder").decode(errors="replace")
                if order != "little":
                    raise DataError(f"{path}: saved with byte order '{order}'; save it again on today's machines")

    def load(self) -> Any:
        return _plain(_Unpickler(io.BytesIO(self.program), self.path, self.storage).load())

    def storage(self, key: str, dtype: np.dtype[Any], count: int) -> _Storage:
        name = f"{self.root}data/{key}"
        entry = self.entries.get(name)
        if entry is None:
            raise DataError(f"{self.path}: the storage '{name}' is missing from the archive")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise DataError(f"{self.path}: the storage '{name}' is compressed; torch.save never does that")
        if entry.file_size != count * dtype.itemsize:
            raise DataError(
                f"{self.path}: the storage '{name}' has {entry.file_size} bytes, expected {count} numbers of "
                f"{dtype.itemsize} bytes; copy the file again"
            )
        with open(self.path, "rb") as file:
            # The local header repeats the name, and has padding of its own.
            file.seek(entry.header_offset)
            header = file.read(30)
            if len(header) != 30 or header[:4] != b"PK\x03\x04":
                raise DataError(f"{self.path}: the storage '{name}' has no header; copy the file again")
            name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = entry.header_offset + 30 + name_length + extra_length
        if start + entry.file_size > os.path.getsize(self.path):
            raise DataError(f"{self.path}: the storage '{name}' ends after the file; copy it again")
        if not count:
            return _Storage(dtype, np.zeros(0, dtype))
        return _Storage(dtype, np.memmap(self.path, dtype, mode="r", offset=start, shape=(count,)))


class _NotNumbersError(Exception):
    """An array of something else."""


class _Dtype:
    """Stands for `numpy.dtype` while a pickle is read: numpy's own would believe whatever state it is given."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.dtype = np.dtype(name if isinstance(name, str) and len(name) < 4 else "O")
        if self.dtype.kind not in "biuf":
            raise _NotNumbersError("an array of Python objects" if self.dtype.hasobject else f"an array of {name!r}")

    def __setstate__(self, state: Any) -> None:
        _, order, subdtype, names, fields, *_ = state
        if (subdtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            raise _NotNumbersError("an array of records")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for `numpy.ndarray` while a pickle is read."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _from_buffer(data, dtype, shape, "F" if is_fortran else "C")


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    if encoding not in ("latin1", "utf-8"):
        raise ValueError(f"encoding {encoding}")
    return codecs.encode(text, encoding)


def _reconstruct(subtype: Any, *_: Any) -> _Array:
    if subtype is not _Array:
        raise ValueError("an array of another class than numpy.ndarray")
    # As numpy does it: empty, until the pickle sets its state.
    return _Array()


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.dtype, count=1)[0]


def _plain(found: Any) -> Any:
    """The same with numpy arrays for what stands for them."""
    if isinstance(found, _Array):
        if found.values is None:
            raise ValueError("an array without content")
        return found.values
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        values = [_plain(value) for value in found]
        return values if isinstance(found, list) else tuple(values)
    return found
