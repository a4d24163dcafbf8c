"""The zip file that `torch.save` writes."""

import sys
import zipfile

import torch
from torch import Tensor

from jepawm.checkpoints.pickled.parts import Damaged, Refused, View, shown

_PICKLE_BYTES = 16 << 20


class Archive:
    """The zip file around the pickle; its records are found by name and never unpacked to disk."""

    def __init__(self, file: zipfile.ZipFile, file_bytes: int) -> None:
        self._zip = file
        self._records = _records(file, file_bytes)
        pickles = [name for name in self._records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Damaged(f"expected one record FOLDER/data.pkl, found {len(pickles)}")
        self._folder = pickles[0].removesuffix("data.pkl")
        strange = [name for name in self._records if not name.startswith(self._folder)]
        if strange:
            raise Refused(f"has a record {shown(strange[0])} outside its folder {shown(self._folder)}")
        self._order = self._byteorder()
        self._storages: dict[str, torch.UntypedStorage] = {}

    def _byteorder(self) -> str:
        # Files from before torch 2.1 have no such record and were written on little-endian machines.
        name = f"{self._folder}byteorder"
        order = self._zip.read(name).decode("ascii", "replace") if name in self._records else "little"
        if order not in ("little", "big"):
            raise Damaged(f"record {shown(name)} is {shown(order)}, expected little or big")
        return order

    def pickle(self) -> bytes:
        """The pickle itself."""
        name = f"{self._folder}data.pkl"
        if self._records[name].file_size > _PICKLE_BYTES:
            raise Refused(f"describes its objects in {self._records[name].file_size} bytes, more than {_PICKLE_BYTES}")
        return self._zip.read(name)

    def storage_bytes(self, key: str) -> int:
        """Size of a storage's record."""
        record = self._records.get(f"{self._folder}data/{key}")
        if record is None:
            raise Damaged(f"storage {shown(key)} is not in the file")
        return record.file_size

    def tensor(self, view: View) -> Tensor:
        """The tensor; views of one storage share it."""
        key, dtype = view.storage.key, view.storage.dtype
        if key not in self._storages:
            content = bytearray(self._zip.read(f"{self._folder}data/{key}"))
            del content[view.storage.numel * dtype.itemsize :]
            # torch.frombuffer wants at least one byte.
            empty = torch.empty(0, dtype=torch.uint8)
            storage = (torch.frombuffer(content, dtype=torch.uint8) if content else empty).untyped_storage()
            if self._order != sys.byteorder:
                storage.byteswap(dtype)
            self._storages[key] = storage
        return torch.empty(0, dtype=dtype).set_(self._storages[key], view.offset, view.size, view.stride)


def _records(archive: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Records by name, once names and sizes are known to be sound."""
    records: dict[str, zipfile.ZipInfo] = {}
    for record in archive.infolist():
        name = record.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or name in records:
            raise Refused(f"has a record with the path {shown(name)}, absolute, climbing or given twice")
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise Refused(f"has a compressed or encrypted record {shown(name)}, which torch.save does not write")
        if record.file_size != record.compress_size:
            raise Damaged(f"record {shown(name)} claims two sizes, {record.file_size} and {record.compress_size}")
        records[name] = record
    total = sum(record.file_size for record in records.values())
    if total > file_bytes:
        raise Damaged(f"its records claim {total} bytes, the file has {file_bytes}")
    return records
