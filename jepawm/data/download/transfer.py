"""Downloads one file over HTTP, resumes it, and gives it its name once it is whole and its checksum is right.

Bytes go to `NAME.part`; `NAME.part.json` keeps what the server called this version of the file (its ETag or date). A
later attempt asks for the rest with `Range` and `If-Range`, so that a file that has changed meanwhile arrives anew
instead of being glued to the old half.

`requests` does the connections, redirects, proxies and certificates (it comes with Ray and MLflow). Pooch does not
resume; huggingface_hub resumes files of its own hub alone.

Reference: RFC 9110, sections 13.1.5 (If-Range), 14.2 (Range) and 10.2.3 (Retry-After).
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jepawm.errors import DataError, first_line

if TYPE_CHECKING:
    import requests

PART = ".part"
STAMP = ".part.json"
BLOCK_BYTES = 1 << 20
TIMEOUT_S = (30.0, 120.0)
ATTEMPTS = 6
LONGEST_WAIT_S = 300.0
# Answers after which the same request may succeed.
PASSING = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all where known)."""


@dataclass(frozen=True)
class Landed:
    """A file on disk.

    Attributes:
        bytes: Size.
        sha256: Checksum, 64 hexadecimal digits.
    """

    bytes: int
    sha256: str


class ChecksumError(DataError):
    """The downloaded bytes have another size or checksum than expected."""


class _Broken(Exception):
    """An attempt failed and the next one may succeed; `wait_s` is the pause that the server asked for."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def free_bytes(folder: Path) -> int:
    """Free space of the disk that a folder, or its nearest existing parent, lies on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def hash_file(path: Path, progress: Progress | None = None) -> Landed:
    """Size and SHA-256 of a file."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, size)
    return Landed(done, digest.hexdigest())


def judge(path: Path, landed: Landed, size: int | None, sha256: str | None) -> None:
    """Compares a file on disk with its expected size and checksum.

    Raises:
        ChecksumError: Another size or checksum; names the file and both.
    """
    if size is not None and landed.bytes != size:
        raise ChecksumError(f"{path}: {landed.bytes:,} bytes, expected {size:,}")
    if sha256 is not None and landed.sha256 != sha256:
        raise ChecksumError(f"{path}: sha256 {landed.sha256}, expected {sha256}")


def download(
    address: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Landed:
    """Downloads a file, or the rest of it.

    Args:
        address: `https://...`.
        path: Where it goes; its folder is made.
        size: Its size in bytes, None where not known.
        sha256: Its checksum, None where not known.
        token: Sent as a bearer token; never to another host that the address leads on to.
        progress: Told about the bytes.
        say: Told why it waits.
        sleep: Waits between attempts.

    Returns:
        Size and checksum of the file.

    Raises:
        ChecksumError: The whole file arrived and is another; it has been deleted.
        DataError: Refused or not found, no space, or `ATTEMPTS` attempts in a row brought nothing new; what has
            arrived is kept for the next call.
    """
    import requests

    part = path.with_name(path.name + PART)
    part.parent.mkdir(parents=True, exist_ok=True)
    furthest, failures = part.stat().st_size if part.exists() else 0, 0
    with requests.Session() as session:
        if token:
            session.headers["Authorization"] = f"Bearer {token}"
        while True:
            try:
                resumed = _attempt(session, address, part, size, sha256, progress)
            except (_Broken, requests.RequestException) as error:
                reached = part.stat().st_size if part.exists() else 0
                failures = 0 if reached > furthest else failures + 1
                furthest = max(furthest, reached)
                if failures >= ATTEMPTS:
                    raise DataError(
                        f"{address}: gave up after {ATTEMPTS} attempts that brought nothing new: {_short(error)}. "
                        f"{reached:,} bytes are kept; the same command goes on from there"
                    ) from error
                asked = error.wait_s if isinstance(error, _Broken) else None
                wait_s = min(2.0 ** max(failures - 1, 0) if asked is None else asked, LONGEST_WAIT_S)
                say(f"{path.name}: {_short(error)}; trying again in {wait_s:.0f} s")
                sleep(wait_s)
                continue
            except OSError as error:
                raise DataError(f"{part}: cannot be written: {_short(error)}") from error
            landed = hash_file(part)
            try:
                judge(path, landed, size, sha256)
            except ChecksumError as error:
                _drop(part)
                if resumed:
                    # The halves are of different versions, and the server names no version: start again.
                    say(f"{path.name}: does not fit together; downloading it anew")
                    furthest = 0
                    continue
                raise ChecksumError(
                    f"{error} ({address}). It was deleted: the file has changed since that was written down, or "
                    "something on the way replaced it"
                ) from None
            os.replace(part, path)
            part.with_name(path.name + STAMP).unlink(missing_ok=True)
            return landed


def _attempt(
    session: "requests.Session",
    address: str,
    part: Path,
    size: int | None,
    sha256: str | None,
    progress: Progress | None,
) -> bool:
    """One request; returns whether bytes were added to an earlier half."""
    stamp = part.with_name(part.name.removesuffix(PART) + STAMP)
    start, version = _resumable(part, stamp, address, sha256)
    # A compressed transfer would have another size, and other ranges, than the file.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version is not None:
            headers["If-Range"] = version
    with session.get(address, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        _refuse(answer, address)
        if answer.status_code == 416:
            whole = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
            if whole and int(whole[1]) == start:
                return True
            _drop(part)
            raise _Broken("the server's file is shorter than what was downloaded of it", 0.0)
        if answer.status_code == 206:
            range_sent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if range_sent is None or int(range_sent[1]) != start:
                _drop(part)
                raise _Broken(f"the server sent another part than bytes {start}- of the file", 0.0)
            if version is not None and _version(answer) not in (None, version):
                _drop(part)
                raise _Broken("the file has changed on the server; starting anew", 0.0)
            total = None if range_sent[3] == "*" else int(range_sent[3])
        else:
            # The server sends the whole file: at the first request, after a change, or because it knows no ranges.
            start, length = 0, answer.headers.get("Content-Length")
            if answer.headers.get("Content-Type", "").startswith("text/html") and ".htm" not in part.name:
                raise DataError(
                    f"{address}: leads to a web page instead of the file (a login, a proxy, a moved file): {answer.url}"
                )
            total = int(length) if length is not None and "Content-Encoding" not in answer.headers else None
            stamp.write_text(json.dumps({"address": address, "version": _version(answer)}), encoding="utf-8")
        if total is not None and size is not None and total != size:
            raise DataError(
                f"{address}: the server's file has {total:,} bytes, expected {size:,}; it has changed since that was "
                "written down"
            )
        total = size if total is None else total
        if total is not None and total - start > free_bytes(part.parent):
            raise DataError(
                f"{part.parent}: {total - start:,} bytes are needed for {part.name.removesuffix(PART)}, "
                f"{free_bytes(part.parent):,} are free; choose another place with --dest"
            )
        done = start
        with part.open("ab" if start else "wb") as file:
            for block in answer.iter_content(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                if total is not None and done > total:
                    _drop(part)
                    raise DataError(f"{address}: sends more than the {total:,} bytes it should have")
                if progress is not None:
                    progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done < total:
            raise _Broken(f"broke off after {done:,} of {total:,} bytes")
    return start > 0


def _resumable(part: Path, stamp: Path, address: str, sha256: str | None) -> tuple[int, str | None]:
    """`(bytes that can be kept, the server's name of this version)`."""
    if not part.exists() or not part.stat().st_size:
        return 0, None
    kept: dict[str, Any] = {}
    if stamp.exists():
        try:
            kept = json.loads(stamp.read_text(encoding="utf-8"))
        except ValueError:
            kept = {}
    if kept.get("address") == address and kept.get("version"):
        return part.stat().st_size, str(kept["version"])
    # The server names no version, so only a checksum can tell whether the halves fit.
    if sha256 is not None and kept.get("address") == address:
        return part.stat().st_size, None
    return 0, None


def _version(answer: "requests.Response") -> str | None:
    """Name of this version of the file: a strong ETag, else the date of its last change."""
    tag = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return str(tag)
    return answer.headers.get("Last-Modified")


def _refuse(answer: "requests.Response", address: str) -> None:
    """Raises unless the answer is the file."""
    code = answer.status_code
    if urlsplit(address).scheme == "https" and urlsplit(answer.url).scheme != "https":
        raise DataError(f"{address}: leads on to {urlsplit(answer.url).scheme}://, which is not protected; refused")
    if code in (200, 206, 416):
        return
    if code in PASSING:
        raise _Broken(f"the server answers {code} {answer.reason}", _retry_after(answer))
    what = {
        401: "needs a login: set HF_TOKEN for a gated repository of the hub, after you were given access",
        403: "is not open to you: ask for access at the homepage, and set HF_TOKEN for a gated repository of the hub",
        404: "is not there; look at the homepage for a new address, or put the file in place yourself",
        410: "is gone; look at the homepage for a new address, or put the file in place yourself",
    }.get(code, "is refused")
    raise DataError(f"{address}: {what} (HTTP {code} {answer.reason})")


def _retry_after(answer: "requests.Response") -> float | None:
    """Seconds that the server asks to wait, from either form of the header."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    header = answer.headers.get("Retry-After")
    if header is None:
        return None
    try:
        return float(Retry().parse_retry_after(header))
    except InvalidHeader:
        return None


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(part.name.removesuffix(PART) + STAMP).unlink(missing_ok=True)


def _short(error: BaseException) -> str:
    return first_line(error)[:300]
