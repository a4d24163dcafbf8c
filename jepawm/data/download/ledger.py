"""`downloads.json`: the files in a folder of downloads, their origin, and the checksum that vouches for each."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepawm.data.download.public_sources import SourceFile
from jepawm.errors import DataError
from jepawm.files import atomic_file

LEDGER = "downloads.json"
WRITE_EVERY_S = 5.0


@dataclass(frozen=True)
class Entry:
    """What `downloads.json` says about one file.

    Attributes:
        address: Where it came from.
        bytes: Its size.
        sha256: Its checksum.
        vouched_by: Origin of the checksum: `manifest`, `hub`, or `first use` (the first download).
        unpacked: Folder that it was unpacked into, None where it was not.
        kept: False where the archive was deleted after it was unpacked.
    """

    address: str
    bytes: int
    sha256: str
    vouched_by: str
    unpacked: str | None = None
    kept: bool = True


class Ledger:
    """`downloads.json` of a folder.

    Args:
        folder: The folder; the ledger may not exist yet.

    Raises:
        DataError: The file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = ""
        self.entries: dict[str, Entry] = {}
        self.listings: dict[str, list[SourceFile]] = {}
        self._written_at = 0.0
        path = folder / LEDGER
        if not path.exists():
            return
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            self.source = data["source"]
            self.entries = {name: Entry(**item) for name, item in data["files"].items()}
            self.listings = {key: [SourceFile(**file) for file in files] for key, files in data["listings"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: cannot be read: {error}. Delete it to have the files here judged and written down again"
            ) from error

    def write(self, *, now: bool = True) -> None:
        """Writes the file atomically; without `now`, only if the last write is a few seconds ago."""
        # With many thousand files the ledger is long: writing it after each file would take longer than the downloads.
        if not now and time.monotonic() - self._written_at < WRITE_EVERY_S:
            return
        self._written_at = time.monotonic()
        data: dict[str, Any] = {
            "source": self.source,
            "files": {name: asdict(entry) for name, entry in sorted(self.entries.items())},
            "listings": {key: [asdict(file) for file in files] for key, files in self.listings.items()},
        }
        with atomic_file(self.folder / LEDGER) as temporary:
            temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")

    def known(self, item: SourceFile) -> list[SourceFile]:
        """The files that an item of the manifest stands for; a folder that was never listed stays one."""
        if item.is_folder:
            return self.listings.get(item.address, [item])
        return list(item.each())

    def is_here(self, file: SourceFile) -> bool:
        """Whether a file was downloaded and still lies there, or was unpacked and deleted; hashes nothing."""
        entry = self.entries.get(file.path)
        if entry is None or entry.address != file.address:
            return False
        if not entry.kept:
            return entry.unpacked is not None and (self.folder / entry.unpacked).is_dir()
        path = self.folder / file.path
        return path.is_file() and path.stat().st_size == entry.bytes
