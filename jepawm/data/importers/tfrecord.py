"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A record is: length (u64), masked CRC-32C of these 8 bytes (u32), the data, masked CRC-32C of the data (u32), all
little-endian. An Example is a protocol-buffer map from names to lists of bytes, floats or integers. Files are mapped
into memory and a message is walked from field to field, so that what is not asked for (images, while the actions of a
dataset are looked over) is not read from disk.

Reference: TensorFlow, "TFRecord and tf.train.Example" (tutorial); Protocol Buffers, "Encoding" (documentation).
"""

import mmap
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.errors import DataError, require

HEADER, FOOTER = 12, 4
_MASK_DELTA = 0xA282EAD8
# Wire types of protocol buffers.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# The three kinds of lists in a Feature, by field number.
_KINDS = {1: "bytes", 2: "floats", 3: "integers"}
Value = list[memoryview] | np.ndarray
"""One feature: `bytes` as a list, `floats` as `[n]` float32, `integers` as `[n]` int64."""


class _Malformed(ValueError):
    """Bytes that are no protocol buffer."""


class TFRecordFile:
    """One shard: its records by number.

    Args:
        path: The file.

    Attributes:
        fault: Where and how the file is damaged, or an empty text. The records before that place can be read.

    Raises:
        DataError: No such file.
        MissingDependencyError: The package `google-crc32c` is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._crc = require("google_crc32c", "rlds").value
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        size = path.stat().st_size
        with open(path, "rb") as file:
            self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
        self._starts: list[int] = []
        self._lengths: list[int] = []
        self.fault = self._walk(size)

    def _walk(self, size: int) -> str:
        """Finds the records; returns what ends the walk before the end of the file."""
        at = 0
        while at < size:
            where = f"{self.path}: record {len(self._starts)} at byte {at}"
            if at + HEADER > size:
                return f"{where}: the file is cut short; copy it again"
            (length,) = struct.unpack_from("<Q", self._data, at)
            if not self._matches(at, 8):
                return f"{where}: the checksum of its length does not match; copy the file again"
            if at + HEADER + length + FOOTER > size:
                left = size - at - HEADER
                return f"{where}: needs {length} bytes, the file ends after {left}: it is cut short; copy it again"
            self._starts.append(at + HEADER)
            self._lengths.append(length)
            at += HEADER + length + FOOTER
        return ""

    def __len__(self) -> int:
        return len(self._starts)

    def record(self, number: int, *, check: bool = True) -> memoryview:
        """The bytes of a record.

        Args:
            number: 0 to `len(self) - 1`.
            check: Also compare its checksum, which reads all of it.

        Raises:
            DataError: The checksum does not match.
        """
        start, length = self._starts[number], self._lengths[number]
        if check and not self._matches(start, length):
            raise DataError(f"{self.path}: record {number}: its checksum does not match; copy the file again")
        return self._data[start : start + length]

    def example(self, number: int, names: Collection[str] | None = None, *, check: bool = True) -> dict[str, Value]:
        """The features of a record, or those of some names.

        Raises:
            DataError: The checksum does not match, or the record is no `tf.train.Example`.
        """
        try:
            return parse_example(self.record(number, check=check), names)
        except ValueError as error:
            raise DataError(f"{self.path}: record {number} is no tf.train.Example: {error}") from error

    def _matches(self, start: int, length: int) -> bool:
        crc = self._crc(bytes(self._data[start : start + length]))
        (stored,) = struct.unpack_from("<I", self._data, start + length)
        # Rotated by 15 bits and moved, so that a checksum of data that holds checksums stays a good one.
        return bool(stored == (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def parse_example(message: memoryview, names: Collection[str] | None = None) -> dict[str, Value]:
    """The features of an Example, or those of some names; a feature without values is left out.

    Raises:
        ValueError: Not an Example.
    """
    found: dict[str, Value] = {}
    for features in _messages(message, 1):
        for entry in _messages(features, 1):
            name, feature = "", memoryview(b"")
            for number, wire, value in _fields(entry):
                if number in (1, 2) and wire != _BYTES:
                    raise _Malformed(f"field {number} of an entry has wire type {wire}")
                if number == 1:
                    name = bytes(value).decode("utf-8")
                elif number == 2:
                    feature = value
            if names is None or name in names:
                values = _feature(feature)
                if values is not None:
                    found[name] = values
    return found


def _feature(message: memoryview) -> Value | None:
    for number, wire, value in _fields(message):
        if number not in _KINDS or wire != _BYTES:
            raise _Malformed(f"field {number} of a feature")
        if _KINDS[number] == "bytes":
            return list(_messages(value, 1))
        if _KINDS[number] == "floats":
            # One packed field, or a field a number: both are bytes of float32.
            parts = [_floats(part, kind) for _, kind, part in _fields(value)]
            return np.concatenate(parts) if parts else np.empty(0, np.float32)
        numbers = [_integers(part, kind) for _, kind, part in _fields(value)]
        return np.concatenate(numbers) if numbers else np.empty(0, np.int64)
    return None


def _messages(message: memoryview, wanted: int) -> list[memoryview]:
    found = []
    for number, wire, value in _fields(message):
        if number == wanted:
            if wire != _BYTES:
                raise _Malformed(f"field {number} has wire type {wire}")
            found.append(value)
    return found


def _fields(message: memoryview) -> list[tuple[int, int, Any]]:
    """`(field number, wire type, value)` of each field; the value is an int for a varint, else a view of the bytes."""
    found: list[tuple[int, int, Any]] = []
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            number_value, at = _varint(message, at)
            found.append((number, wire, number_value))
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {wire}")
        if at + length > end:
            raise _Malformed(f"a field of {length} bytes, {end - at} are left")
        found.append((number, wire, message[at : at + length]))
        at += length
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise _Malformed("an integer that does not end")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _floats(part: Any, wire: int) -> np.ndarray:
    if wire not in (_BYTES, _FIXED32):
        raise _Malformed(f"a float of wire type {wire}")
    return np.frombuffer(part, "<f4")


def _integers(part: Any, wire: int) -> np.ndarray:
    """Packed integers, `[n]` int64, all at once (pixels may be stored like this); or a single one."""
    if wire == _VARINT:
        return np.array([part & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64).view(np.int64)
    if wire != _BYTES:
        raise _Malformed(f"an integer of wire type {wire}")
    data = np.frombuffer(part, np.uint8)
    if not len(data):
        return np.empty(0, np.int64)
    last = data < 0x80
    if not last[-1]:
        raise _Malformed("an integer that does not end")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 9:
        raise _Malformed("an integer of more than 64 bits")
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    parts = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.asarray(np.bitwise_or.reduceat(parts, starts).view(np.int64))
