"""`jepawm data get | verify`: public sources on this disk, downloaded once, checked, unpacked, and checked again.

```
$JEPAWM_HOME/downloads/NAME/
  downloads.json      address, bytes and SHA-256 of each file, and the origin of its checksum
  FILE                as published
  FILE.part           what has arrived of it so far
  FOLDER/             what an archive was unpacked into
```

A checksum that the manifest or the hub gives is held to. Where nobody gives one, the first download's is written down
and held to from then on (trust on first use).
"""

import fnmatch
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jepawm.data.download.hub_files import fetch_file, list_folder
from jepawm.data.download.ledger import LEDGER, Entry, Ledger
from jepawm.data.download.public_sources import PublicSource, SourceFile, find, sources
from jepawm.data.download.transfer import PART, Progress, download, free_bytes, hash_file, judge
from jepawm.data.download.unpack import differences, unpack
from jepawm.errors import DataError, did_you_mean

LOCK = ".downloads.lock"
MANIFEST_SAYS, HUB_SAYS, FIRST_USE = "manifest", "hub", "first use"


@dataclass(frozen=True)
class Reporter:
    """Receives what a download reports.

    Attributes:
        say: Takes a line.
        progress: Takes a line about a task that begins; returns a callable that receives its bytes.
    """

    say: Callable[[str], None] = lambda text: None
    progress: Callable[[str], Progress | None] = lambda text: None


def offline() -> bool:
    """Whether `JEPAWM_OFFLINE` or `HF_HUB_OFFLINE` forbids the network."""
    return any(
        os.environ.get(key, "").upper() in {"1", "ON", "YES", "TRUE"} for key in ("JEPAWM_OFFLINE", "HF_HUB_OFFLINE")
    )


def get_source(
    source: PublicSource,
    folder: Path | None = None,
    *,
    only: Sequence[str] = (),
    keep_archives: bool = True,
    report: Reporter | None = None,
) -> Path:
    """Downloads the missing files of a source, and unpacks its archives.

    A second process that wants the same folder waits for the first and then uses its files.

    Args:
        source: What to download.
        folder: Where to; `$JEPAWM_HOME/downloads/NAME` by default.
        only: Patterns of paths (`*` also matches `/`); files that fit none are left out.
        keep_archives: Keep an archive after it was unpacked, so that `verify_folder` can judge it.
        report: Whom to tell.

    Returns:
        The folder.

    Raises:
        DataError: Nothing can be downloaded of this source (says what to do), no file fits `only`, a file cannot be
            had or is another than expected, an archive that is unsafe, no space, or a file that is missing while
            offline (says where it was expected).
    """
    report = report or Reporter()
    folder = folder or source.folder
    if source.how is not None:
        raise DataError(f"{source.name} cannot be downloaded by a program: {source.how} ({source.homepage})")
    _make(folder)
    with _locked(folder, report):
        ledger = Ledger(folder)
        files = _expand(source, ledger, report)
        chosen = [
            file for file in files if not only or any(fnmatch.fnmatchcase(file.path, pattern) for pattern in only)
        ]
        if not chosen:
            raise DataError(
                f"{source.name}: no file fits --only {' '.join(only)}; there are {len(files)}, e.g. {files[0].path}"
            )
        missing = [file for file in chosen if not ledger.is_here(file)]
        absent = [file for file in missing if not (folder / file.path).is_file()]
        if absent and offline():
            raise DataError(_when_offline(folder, absent))
        _check_room(folder, absent)
        try:
            for number, file in enumerate(missing, start=1):
                _have(file, ledger, f"{number}/{len(missing)} {file.path}", report)
        finally:
            ledger.write()
        for file in chosen:
            _have_unpacked(file, ledger, keep_archives, report)
    return folder


def verify_folder(folder: Path, source: PublicSource | None = None, report: Reporter | None = None) -> list[str]:
    """Judges what was downloaded into a folder by what the manifest and `downloads.json` say.

    Args:
        folder: A source's folder.
        source: The source; whatever the manifest knows of it is held against the files.
        report: Whom to tell.

    Returns:
        One line for each file that is missing or bad, and for each unpacked file of another size.

    Raises:
        DataError: Nothing was downloaded here.
    """
    report = report or Reporter()
    ledger = Ledger(folder)
    if not ledger.entries:
        raise DataError(f"{folder}: nothing was downloaded here (there is no {LEDGER})")
    manifest = {file.path: file for item in (source.files if source else ()) for file in item.each()}
    found: list[str] = []
    for path, entry in ledger.entries.items():
        found += _problems(folder, path, entry, manifest.get(path), report)
    found += [f"{part}: a download that has not finished" for part in sorted(folder.rglob(f"*{PART}"))]
    return found


def _problems(folder: Path, path: str, entry: Entry, expected: SourceFile | None, report: Reporter) -> list[str]:
    """Problems of one file and of the folder it was unpacked into, one line each."""
    target = folder / path
    if entry.kept:
        if not target.is_file():
            return [f"{target}: missing, {LEDGER} says it was downloaded"]
        landed = hash_file(target, report.progress(path))
        try:
            if expected is not None:
                judge(target, landed, expected.bytes, expected.sha256)
            judge(target, landed, entry.bytes, entry.sha256)
        except DataError as error:
            return [f"{error} (by {entry.vouched_by})"]
    if entry.unpacked is None:
        return []
    if not (folder / entry.unpacked).is_dir():
        return [f"{folder / entry.unpacked}: missing, {LEDGER} says {path} was unpacked into it"]
    return differences(target, folder / entry.unpacked) if entry.kept else []


def resolve(name_or_path: str) -> tuple[Path, PublicSource | None]:
    """A folder of downloads, by the name of its source or by its path.

    Raises:
        DataError: Neither a source's name nor a folder.
    """
    known = {source.name: source for source in sources()}
    if name_or_path in known:
        return known[name_or_path].folder, known[name_or_path]
    folder = Path(name_or_path)
    if not folder.is_dir():
        raise DataError(
            f"'{name_or_path}' is neither a folder nor a public source{did_you_mean(name_or_path, known)}; see: jepawm "
            "data list"
        )
    name = Ledger(folder).source
    return folder, find(name) if name in known else None


def state_of(source: PublicSource) -> str:
    """`here`, `part of it`, or an empty string, as `downloads.json` and sizes say; hashes nothing."""
    if not (source.folder / LEDGER).is_file():
        return "part of it" if any(source.folder.glob(f"**/*{PART}")) else ""
    ledger = Ledger(source.folder)
    files = [file for item in source.files for file in ledger.known(item)]
    here = sum(ledger.is_here(file) for file in files)
    return "here" if files and here == len(files) else "part of it" if here else ""


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error}; choose another place with --dest") from error


@contextmanager
def _locked(folder: Path, report: Reporter) -> Iterator[None]:
    """Lets one process at a time into a folder; the operating system frees the lock when the process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report.say(f"{folder}: another process is downloading here; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _expand(source: PublicSource, ledger: Ledger, report: Reporter) -> list[SourceFile]:
    """Every file of a source; the hub lists a folder once."""
    ledger.source = ledger.source or source.name
    if ledger.source != source.name:
        raise DataError(
            f"{ledger.folder}: holds downloads of '{ledger.source}', not of '{source.name}'; choose another"
        )
    for item in source.files:
        if item.is_folder and item.address not in ledger.listings:
            if offline():
                raise DataError(
                    f"{_why_offline()}, and what lies at {item.address} was never listed; it was expected below "
                    f"{ledger.folder / item.path}. What is there already can be converted as it is"
                )
            report.say(f"asking for the list of {item.address}")
            ledger.listings[item.address] = list_folder(item)
            ledger.write()
    return [file for item in source.files for file in ledger.known(item)]


def _have(file: SourceFile, ledger: Ledger, what: str, report: Reporter) -> None:
    """Downloads one file, or checks a file that is there already, and records it in `downloads.json`."""
    path, before = ledger.folder / file.path, ledger.entries.get(file.path)
    vouched_by = HUB_SAYS if file.address.startswith("hf://") else MANIFEST_SAYS
    if file.sha256 is None:
        vouched_by = FIRST_USE
        if before is not None and before.address == file.address:
            file = replace(file, bytes=before.bytes, sha256=before.sha256)
    if path.is_file():
        # A person put the file there, or a process was killed before it could record it.
        report.say(f"{path}: lies here already; checking it")
        landed = hash_file(path, report.progress(what))
        try:
            judge(path, landed, file.bytes, file.sha256)
        except DataError as error:
            raise DataError(f"{error} (by {vouched_by}); delete it to have it downloaded") from error
    else:
        try:
            if file.address.startswith("hf://"):
                landed = fetch_file(file, path, report.progress(what), report.say)
            else:
                landed = download(
                    file.address,
                    path,
                    size=file.bytes,
                    sha256=file.sha256,
                    progress=report.progress(what),
                    say=report.say,
                )
        except DataError as error:
            if vouched_by != FIRST_USE or file.sha256 is None:
                raise
            raise DataError(
                f"{error}. What is expected is what its first download was; if the publisher has changed the file and "
                f"you want the new one, delete {ledger.folder / LEDGER}"
            ) from error
    ledger.entries[file.path] = Entry(file.address, landed.bytes, landed.sha256, vouched_by)
    ledger.write(now=False)


def _have_unpacked(file: SourceFile, ledger: Ledger, keep_archives: bool, report: Reporter) -> None:
    """Unpacks an archive that has not been unpacked yet."""
    if file.unpack is None:
        return
    entry, folder, archive = ledger.entries[file.path], ledger.folder / file.unpack, ledger.folder / file.path
    if not folder.is_dir():
        if not archive.is_file():
            raise DataError(f"{folder}: missing, and {archive.name} was deleted after it was unpacked; run it again")
        report.say(f"unpacking {archive.name} into {folder}")
        members = unpack(archive, folder, report.progress(f"unpacking {file.path}"))
        report.say(f"{folder}: {len(members)} files")
        entry = replace(entry, unpacked=file.unpack)
    elif entry.unpacked is None:
        # A process was killed after unpacking and before recording it; the content of the folder decides.
        wrong = differences(archive, folder)
        if wrong:
            raise DataError(f"{folder}: is not what {archive.name} holds ({wrong[0]}); delete it to have it unpacked")
        entry = replace(entry, unpacked=file.unpack)
    if not keep_archives and entry.kept:
        archive.unlink()
        entry = replace(entry, kept=False)
    ledger.entries[file.path] = entry
    ledger.write()


def _check_room(folder: Path, missing: Sequence[SourceFile]) -> None:
    """Refuses files that do not fit on the disk, before the first byte; unpacked sizes are checked before unpacking."""
    needed = sum(file.bytes or 0 for file in missing)
    arrived = sum(part.stat().st_size for file in missing if (part := folder / (file.path + PART)).is_file())
    if needed - arrived > free_bytes(folder):
        raise DataError(
            f"{folder}: {needed - arrived:,} bytes are needed for {len(missing)} file(s), {free_bytes(folder):,} are "
            "free; choose another place with --dest, or fewer files with --only"
        )


def _why_offline() -> str:
    key = next(key for key in ("JEPAWM_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(key))
    return f"offline ({key} is set)"


def _when_offline(folder: Path, missing: Sequence[SourceFile]) -> str:
    lines = [f"{_why_offline()}, and {len(missing)} file(s) are not here:"]
    for file in missing[:10]:
        lines.append(f"  {folder / file.path}  from {file.address}")
    if len(missing) > 10:
        lines.append(f"  and {len(missing) - 10} more")
    lines.append("Download them elsewhere, put them there and run the same command again: it checks and unpacks them")
    return "\n".join(lines)
