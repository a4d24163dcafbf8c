"""Unpacks downloaded archives: never outside the target folder, and never more than fits on the disk.

Nothing is written before the whole list of members has been judged. Members go to a folder beside the destination,
which takes its name once everything is there.
"""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from jepawm.data.download.public_sources import ARCHIVES, is_below
from jepawm.data.download.transfer import Progress, free_bytes
from jepawm.errors import DataError

BLOCK_BYTES = 1 << 20
MAX_PADDING_BYTES = 64 << 20
# Files that macOS adds to archives.
_LITTER = ("__MACOSX", ".DS_Store")
# Errors of Python's readers for archives that are damaged, encrypted or of an unknown compression.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Member:
    """A file of an archive.

    Attributes:
        name: Its path, below the folder that the archive becomes.
        bytes: Its size, as the archive says.
        key: What the archive calls it.
    """

    name: str
    bytes: int
    key: str | tarfile.TarInfo


def unpack(archive: Path, folder: Path, progress: Progress | None = None) -> list[Member]:
    """Unpacks `.zip`, `.tar`, `.tar.gz` or `.tgz` into a new folder; a single folder around everything is dropped.

    Args:
        archive: The file.
        folder: What its content becomes.
        progress: Told about the bytes written.

    Returns:
        The files that were written.

    Raises:
        DataError: The folder exists, the archive is damaged, a member would be written elsewhere (`..`, an absolute
            path, a link that points outside), is a device, would be written twice, or there is no room for all of
            them. Nothing is left behind.
    """
    if folder.exists():
        raise DataError(f"{folder}: already exists; delete it to have {archive.name} unpacked again")
    partial = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _opened(archive) as opened:
            members = _judged(archive, opened, folder.parent)
            total, done = sum(member.bytes for member in members), 0
            for member in members:
                target = partial / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                done = _write(archive, opened, member, target, done, total, progress)
        partial.mkdir(exist_ok=True)
        os.replace(partial, folder)
    except _DAMAGE as error:
        raise DataError(f"{archive}: cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return members


def differences(archive: Path, folder: Path) -> list[str]:
    """Differences between a folder and an archive, by names and sizes; one line each.

    Raises:
        DataError: The archive is damaged.
    """
    try:
        with _opened(archive) as opened:
            members = _judged(archive, opened, None)
    except _DAMAGE as error:
        raise DataError(f"{archive}: cannot be read: {error}") from error
    found = []
    for member in members:
        path = folder / member.name
        if not path.is_file():
            found.append(f"{path}: missing, {archive.name} holds it")
        elif path.stat().st_size != member.bytes:
            found.append(f"{path}: {path.stat().st_size:,} bytes, in {archive.name} it has {member.bytes:,}")
    return found


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield opened
    elif archive.name.endswith(ARCHIVES):
        with tarfile.open(archive) as tar:
            yield tar
    else:
        raise DataError(f"{archive}: is none of {', '.join(ARCHIVES)}")


def _judged(archive: Path, opened: zipfile.ZipFile | tarfile.TarFile, room: Path | None) -> list[Member]:
    """The files of an archive, after a check of every member; `room` is the folder on whose disk they must fit.

    Own code although tarfile has a filter: that judges a member when its turn has come, and zipfile silently renames.
    """
    listed = _zip_members(archive, opened) if isinstance(opened, zipfile.ZipFile) else _tar_members(archive, opened)
    members: list[Member] = []
    total, room_bytes = 0, None if room is None else free_bytes(room)
    for member in listed:
        if not set(_LITTER) & set(PurePosixPath(member.name).parts):
            members.append(member)
            total += member.bytes
        # Checked while listing, since listing a compressed tar decompresses it.
        if room_bytes is not None and total > room_bytes:
            raise DataError(
                f"{archive}: its first {len(members)} files need {total:,} bytes, {room_bytes:,} are free on the disk "
                f"of {room}; choose another place with --dest"
            )
    if not members:
        raise DataError(f"{archive}: holds no files")
    tops = {PurePosixPath(member.name).parts[0] for member in members}
    if len(tops) == 1 and all(len(PurePosixPath(member.name).parts) > 1 for member in members):
        members = [
            Member(str(PurePosixPath(*PurePosixPath(member.name).parts[1:])), member.bytes, member.key)
            for member in members
        ]
    names: set[str] = set()
    for member in members:
        if member.name in names:
            raise DataError(f"{archive}: holds '{member.name}' twice; refused")
        names.add(member.name)
    for member in members:
        if names & {str(parent) for parent in PurePosixPath(member.name).parents}:
            raise DataError(f"{archive}: '{member.name}' lies below another member that is a file; refused")
    return members


def _path(archive: Path, name: str) -> str:
    if not is_below(name) or (len(name) > 1 and name[1] == ":"):
        raise DataError(f"{archive}: member '{name}' would be written outside of its folder; refused")
    return str(PurePosixPath(name))


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        # The name as the archive spells it: zipfile changes some separators and cuts names at a zero byte.
        _path(archive, info.orig_filename)
        name, kind = _path(archive, info.filename), stat.S_IFMT(info.external_attr >> 16)
        if kind == stat.S_IFLNK:
            with opened.open(info) as content:
                target = content.read(300).decode("utf-8", "replace")
            raise DataError(f"{archive}: member '{name}' links to '{target}'; links in zip files are refused")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{archive}: member '{name}' is a device or pipe; refused")
        if not info.is_dir():
            yield Member(name, info.file_size, info.filename)


def _tar_members(archive: Path, opened: tarfile.TarFile) -> Iterator[Member]:
    files: dict[str, tarfile.TarInfo] = {}
    links: list[tuple[str, tarfile.TarInfo]] = []
    for info in opened:
        name = _path(archive, info.name)
        if info.isdir():
            continue
        if info.issym() or info.islnk():
            links.append((name, info))
        elif info.isreg():
            files[name] = info
            yield Member(name, info.size, info)
        else:
            raise DataError(f"{archive}: member '{name}' is a device or pipe; refused")
    _read_to_the_end(archive, opened)
    for name, info in links:
        # A symbolic link is relative to its own folder, a hard link to the archive.
        start = str(PurePosixPath(name).parent) if info.issym() else "."
        target = os.path.normpath(os.path.join(start, info.linkname))
        if os.path.isabs(info.linkname) or target.split(os.sep)[0] == "..":
            raise DataError(f"{archive}: member '{name}' links to '{info.linkname}', outside of its folder; refused")
        if target not in files:
            raise DataError(f"{archive}: member '{name}' links to '{info.linkname}', which is no file of it; refused")
        # Written as a copy of the file, so that no unpacked file is a link.
        yield Member(name, files[target].size, files[target])


def _read_to_the_end(archive: Path, opened: tarfile.TarFile) -> None:
    """Reads to the end of the archive, where a compressed file keeps its checksum."""
    left = MAX_PADDING_BYTES
    while opened.fileobj is not None and (block := opened.fileobj.read(BLOCK_BYTES)):
        left -= len(block)
        if left < 0:
            raise DataError(f"{archive}: more than {MAX_PADDING_BYTES:,} bytes follow its last member; refused")


def _write(
    archive: Path,
    opened: zipfile.ZipFile | tarfile.TarFile,
    member: Member,
    target: Path,
    done: int,
    total: int,
    progress: Progress | None,
) -> int:
    """Writes one member, at most as many bytes as the archive's list says; returns the bytes written so far."""
    source: IO[bytes] | None
    if isinstance(opened, zipfile.ZipFile):
        assert isinstance(member.key, str)
        source = opened.open(member.key)
    else:
        source = opened.extractfile(member.key)
    assert source is not None
    left = member.bytes
    with source, target.open("xb") as file:
        try:
            while block := source.read(BLOCK_BYTES):
                left -= len(block)
                if left < 0:
                    raise DataError(f"{archive}: member '{member.name}' is larger than the archive says; refused")
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
        except (zlib.error, zipfile.BadZipFile, EOFError, tarfile.TarError) as error:
            raise DataError(f"{archive}: member '{member.name}' is damaged: {error}") from error
    if left:
        raise DataError(f"{archive}: member '{member.name}' ends {left:,} bytes early; the archive is damaged")
    return done
