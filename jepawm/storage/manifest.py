"""Manifests: which objects are the files of a stored folder. Each state of a folder is one manifest, and never half.

```
URI/
  .jepawm/manifests/00000012.json   the last one counts; a few older ones stay for readers that have begun
  .jepawm/leases/00000003.json      who may write, see `lease`
  files/PATH/HASH-RANDOM/NAME       one version of the file PATH/NAME; no key is ever written twice
```
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from jepawm.errors import StorageError

FORMAT_VERSION = 1
FILES = "files"


@dataclass(frozen=True)
class StoredFile:
    """One file of a folder.

    Attributes:
        key: Of the object that holds it.
        size: Bytes.
        sha256: Of its bytes.
        modified_s: When it was last changed by the process that made it, seconds since 1970.
    """

    key: str
    size: int
    sha256: str
    modified_s: float


@dataclass(frozen=True)
class Manifest:
    """One state of a stored folder.

    Attributes:
        number: Of the manifest; 0: nothing was stored yet.
        token: Number of the lease that it was written under.
        files: Path in the folder, with `/` between its parts -> file.
    """

    number: int = 0
    token: int = 0
    files: Mapping[str, StoredFile] = field(default_factory=dict)

    def changed(self, changes: Mapping[str, StoredFile | None], token: int) -> "Manifest":
        """The next manifest.

        Args:
            changes: Path -> its new file, or None where it was removed.
            token: Number of the writer's lease.
        """
        files = {path: file for path, file in {**self.files, **changes}.items() if file is not None}
        return Manifest(self.number + 1, token, dict(sorted(files.items())))

    def to_bytes(self) -> bytes:
        """As the object holds it."""
        files = {path: asdict(file) for path, file in self.files.items()}
        return json.dumps({"format_version": FORMAT_VERSION, "token": self.token, "files": files}).encode()

    @classmethod
    def from_bytes(cls, data: bytes, number: int, where: str) -> "Manifest":
        """Inverse of `to_bytes`.

        Raises:
            StorageError: The object is no manifest, or one of a newer jepawm, or names a path outside of the folder.
        """
        try:
            told: dict[str, Any] = json.loads(data)
            version = int(told["format_version"])
            if version > FORMAT_VERSION:
                raise StorageError(
                    f"{where}: format_version {version} is newer than this jepawm reads ({FORMAT_VERSION}); upgrade "
                    "jepawm"
                )
            files = {path: StoredFile(**file) for path, file in told["files"].items()}
            manifest = cls(number, int(told["token"]), files)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(f"{where} is no manifest ({type(error).__name__}: {error})") from error
        for path in files:
            parts = PurePosixPath(path).parts
            if not parts or ".." in parts or path.startswith("/") or "\\" in path:
                raise StorageError(f"{where} names the path {path!r}, which leaves the folder; do not use this folder")
        return manifest


def new_key(path: str, sha256: str) -> str:
    """A key for a new version of a file, which no other version ever had. The file keeps its name and ending in it."""
    place, _, name = path.rpartition("/")
    return "/".join(part for part in (FILES, place, f"{sha256[:12]}-{uuid.uuid4().hex[:8]}", name) if part)
