"""Archives, honest and hostile."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepawm.data.download import unpack as module
from jepawm.data.download.unpack import differences, unpack
from jepawm.errors import DataError

FILES = {"top/a.bin": b"a" * 1000, "top/deep/b.txt": b"b", "top/empty": b""}


def make_zip(path: Path, files: dict[str, bytes], extra: Callable[[zipfile.ZipFile], Any] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if extra is not None:
            extra(archive)
    return path


def make_tar(path: Path, files: dict[str, bytes], extra: Callable[[tarfile.TarFile], Any] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if extra is not None:
            extra(archive)
    return path


MAKERS = {"x.zip": make_zip, "x.tar": make_tar, "x.tar.gz": make_tar, "x.tgz": make_tar}


@pytest.mark.parametrize("name", MAKERS)
def test_unpacks_and_drops_the_folder_around_everything(name, tmp_path):
    litter = {"__MACOSX/top/._a.bin": b"x", "top/.DS_Store": b"x"}
    archive, seen = MAKERS[name](tmp_path / name, FILES | litter), []
    members = unpack(archive, tmp_path / "out", lambda done, total: seen.append((done, total)))
    found = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == {name.removeprefix("top/"): content for name, content in FILES.items()}
    assert sorted(member.name for member in members) == sorted(found)
    assert seen[-1] == (1001, 1001)
    assert sorted(os.listdir(tmp_path)) == sorted(["out", name])
    assert differences(archive, tmp_path / "out") == []
    (tmp_path / "out" / "a.bin").write_bytes(b"a" * 999)
    (tmp_path / "out" / "empty").unlink()
    assert differences(archive, tmp_path / "out") == [
        f"{tmp_path / 'out' / 'a.bin'}: 999 bytes, in {name} it has 1,000",
        f"{tmp_path / 'out' / 'empty'}: missing, {name} holds it",
    ]
    with pytest.raises(DataError, match="out: already exists; delete it"):
        unpack(archive, tmp_path / "out")


def test_several_folders_at_the_top_stay(tmp_path):
    unpack(make_zip(tmp_path / "x.zip", {"train/a": b"1", "val/a": b"2"}), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["train", "val"]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarFile], Any]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)

    return add


def test_links_inside_a_tar_become_copies(tmp_path):
    def both(archive: tarfile.TarFile) -> None:
        link("top/deep/c", "../a.bin")(archive)
        link("top/d", "top/a.bin", tarfile.LNKTYPE)(archive)

    unpack(make_tar(tmp_path / "x.tar", FILES, both), tmp_path / "out")
    for name in ("deep/c", "d"):
        assert (tmp_path / "out" / name).read_bytes() == FILES["top/a.bin"]
        assert not (tmp_path / "out" / name).is_symlink()


def odd_zip(mode: int, content: bytes = b"/etc/passwd", name: str = "top/odd") -> Callable[[zipfile.ZipFile], Any]:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, (mode | 0o644) << 16
        archive.writestr(info, content)

    return add


HOSTILE: dict[str, tuple[str, dict[str, bytes], Any, str]] = {
    "zip ..": ("x.zip", {"top/../../evil": b"x"}, None, "member 'top/../../evil' would be written outside"),
    "zip absolute": ("x.zip", {"/evil": b"x"}, None, "member '/evil' would be written outside"),
    "zip backslash": ("x.zip", {"top\\..\\..\\evil": b"x"}, None, "would be written outside"),
    "zip drive": ("x.zip", {"C:/evil": b"x"}, None, "member 'C:/evil' would be written outside"),
    "zip link": ("x.zip", {}, odd_zip(stat.S_IFLNK), "member 'top/odd' links to '/etc/passwd'"),
    "zip device": ("x.zip", {}, odd_zip(stat.S_IFCHR), "member 'top/odd' is a device"),
    "zip below a file": ("x.zip", {"top/a.bin/evil": b"x"}, None, "lies below another member"),
    "tar ..": ("x.tar", {"../evil": b"x"}, None, r"member '\.\./evil' would be written outside"),
    "tar absolute": ("x.tar", {"/tmp/evil": b"x"}, None, "member '/tmp/evil' would be written outside"),
    "tar link out": ("x.tar", {}, link("top/l", "../../etc/passwd"), "member 'top/l' links to .*etc/passwd', outside"),
    "tar link absolute": ("x.tar.gz", {}, link("top/l", "/etc/passwd"), "links to '/etc/passwd', outside"),
    "tar hard link": ("x.tar", {}, link("top/l", "../secret", tarfile.LNKTYPE), r"links to '\.\./secret', outside"),
    "tar link to nothing": ("x.tar", {}, link("top/l", "nowhere"), "links to 'nowhere', which is no file of it"),
    "tar device": ("x.tar", {}, link("top/null", "", tarfile.CHRTYPE), "member 'top/null' is a device"),
    "tar pipe": ("x.tar", {}, link("top/pipe", "", tarfile.FIFOTYPE), "member 'top/pipe' is a device or pipe"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members_are_refused_by_name_before_anything_is_written(case, tmp_path):
    name, files, extra, message = HOSTILE[case]
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    archive = MAKERS[name](inside / name, FILES | files, extra)
    with pytest.raises(DataError, match=message):
        unpack(archive, inside / "out")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [f"a/b/{name}"]


def test_a_name_with_a_zero_byte_is_refused(tmp_path):
    """Python's reader would cut it there."""
    archive = make_zip(tmp_path / "x.zip", {"top/aXevil": b"x"} | FILES)
    archive.write_bytes(archive.read_bytes().replace(b"top/aXevil", b"top/a\0evil"))
    with pytest.raises(DataError, match=r"would be written outside of its folder; refused"):
        unpack(archive, tmp_path / "out")


def test_a_link_to_a_folder_outside_cannot_be_written_through(tmp_path):
    """First a link, then a file below it: the classic way out."""

    def both(archive: tarfile.TarFile) -> None:
        link("top/way", "/tmp")(archive)
        info = tarfile.TarInfo("top/way/evil")
        archive.addfile(info, io.BytesIO(b""))

    with pytest.raises(DataError, match="links to '/tmp', outside"):
        unpack(make_tar(tmp_path / "x.tar", FILES, both), tmp_path / "out")


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = make_zip(tmp_path / "x.zip", FILES, lambda opened: opened.writestr("top/a.bin", b"other"))
    with pytest.raises(DataError, match=r"holds 'a\.bin' twice"):
        unpack(archive, tmp_path / "out")


def test_a_bomb_is_refused_by_its_size(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "x.zip", {"top/zeros": bytes(50 * 2**20)})
    assert archive.stat().st_size < 100_000
    monkeypatch.setattr(module, "free_bytes", lambda folder: 40 * 2**20)
    with pytest.raises(DataError, match=r"its first 1 files need 52,428,800 bytes, 41,943,040 are free"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["x.zip"]


def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"top/zeros": bytes(3 * 2**20), "top/a": b"1"})
    # The central directory claims ten bytes.
    data, size = bytearray(archive.read_bytes()), (3 * 2**20).to_bytes(4, "little")
    at = data.rindex(size)
    data[at : at + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"member 'zeros' is damaged: Bad CRC-32"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_damaged_archives_leave_nothing_behind(name, tmp_path):
    archive = MAKERS[name](tmp_path / name, {"top/a.bin": np.random.default_rng(0).bytes(300_000), "top/b": b"b"})
    data = archive.read_bytes()
    for damaged in (data[:1000], b"not an archive", data[:1000] + bytes(2000) + data[3000:]):
        archive.write_bytes(damaged)
        if name == "x.tar" and len(damaged) == len(data):
            continue  # A tar keeps no checksum of its members' content.
        with pytest.raises(DataError, match=r"x\.(zip|tar)(\.gz)?: "):
            unpack(archive, tmp_path / "out")
        assert os.listdir(tmp_path) == [name]


def test_what_is_no_archive_or_empty_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no files"):
        unpack(make_zip(tmp_path / "x.zip", {}), tmp_path / "out")
    (tmp_path / "x.rar").write_bytes(b"")
    with pytest.raises(DataError, match=r"x.rar: is none of .zip"):
        unpack(tmp_path / "x.rar", tmp_path / "out")
