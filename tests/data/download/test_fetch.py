"""`jepawm data get | verify` against a server of this process."""

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from file_server import CONTENT, OFFLINE, OTHER, sha, source_of

from jepawm.cli import data as data_cli
from jepawm.data.download import fetch, public_sources
from jepawm.data.download.fetch import Reporter, get_source, state_of, verify_folder
from jepawm.data.download.ledger import LEDGER, Ledger
from jepawm.data.download.public_sources import PublicSource
from jepawm.errors import DataError


def zipped(files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


ARCHIVE = zipped({"data/a.bin": CONTENT, "data/b/c.txt": b"c"})


def test_files_are_downloaded_checked_written_down_and_unpacked(site, tmp_path):
    known, unknown = site.add("a.bin", CONTENT), site.add("b.bin", OTHER)
    packed = site.add("c.zip", ARCHIVE)
    source = source_of(
        {"address": f"{site.url}/a.bin", "path": "deep/a.bin", "bytes": len(CONTENT), "sha256": sha(CONTENT)},
        {"address": f"{site.url}/b.bin", "path": "b.bin"},
        {"address": f"{site.url}/c.zip", "path": "c.zip", "unpack": "data"},
    )
    assert state_of(source) == ""
    folder = get_source(source)
    assert folder == tmp_path / "home" / "downloads" / "toy"
    assert (folder / "deep" / "a.bin").read_bytes() == CONTENT
    assert (folder / "data" / "b" / "c.txt").read_bytes() == b"c"
    entries = Ledger(folder).entries
    assert {path: entry.vouched_by for path, entry in entries.items()} == {
        "deep/a.bin": "manifest",
        "b.bin": "first use",
        "c.zip": "first use",
    }
    assert entries["b.bin"].sha256 == sha(OTHER)
    assert entries["c.zip"].unpacked == "data"
    assert state_of(source) == "here"
    assert verify_folder(folder, source) == []
    # Nothing is asked for a second time.
    get_source(source)
    assert [len(file.asked) for file in (known, unknown, packed)] == [1, 1, 1]
    assert not list(folder.rglob("*.part*"))


def test_verify_names_each_bad_file(site, capsys):
    for name in "abcd":
        site.add(name, CONTENT)
    site.add("e.zip", ARCHIVE)
    files = [{"address": f"{site.url}/{name}", "path": name} for name in "abcd"]
    source = source_of(*files, {"address": f"{site.url}/e.zip", "path": "e.zip", "unpack": "data"})
    folder = get_source(source)
    (folder / "b").write_bytes(OTHER)
    (folder / "c").write_bytes(CONTENT[:-1])
    (folder / "d").unlink()
    (folder / "data" / "a.bin").write_bytes(b"")
    (folder / "f.part").write_bytes(b"")
    found = verify_folder(folder, source)
    assert found == [
        f"{folder / 'b'}: sha256 {sha(OTHER)}, expected {sha(CONTENT)} (by first use)",
        f"{folder / 'c'}: 299,999 bytes, expected 300,000 (by first use)",
        f"{folder / 'd'}: missing, downloads.json says it was downloaded",
        f"{folder / 'data' / 'a.bin'}: 0 bytes, in e.zip it has 300,000",
        f"{folder / 'f.part'}: a download that has not finished",
    ]
    assert data_cli.main(["verify", str(folder)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        *found,
        f"{folder}: 5 problem(s); delete what is bad and run: jepawm data get",
    ]
    # What is missing is had again, and judged by the first download; what is wrong is a person's to delete.
    with pytest.raises(DataError, match=r"c: 299,999 bytes, expected 300,000 \(by first use\); delete it to have it"):
        get_source(source)
    (folder / "c").unlink()
    site.files["/d"].content = OTHER
    with pytest.raises(
        DataError, match=rf"d: sha256 {sha(OTHER)}, expected {sha(CONTENT)}.*what its first download was"
    ):
        get_source(source)
    site.files["/d"].content = CONTENT
    get_source(source)
    assert (folder / "c").read_bytes() == (folder / "d").read_bytes() == CONTENT


def test_the_manifest_outweighs_what_was_written_down(site):
    """A file and its entry that were both replaced."""
    site.add("a", CONTENT)
    source = source_of({"address": f"{site.url}/a", "path": "a", "sha256": sha(CONTENT)})
    folder = get_source(source)
    (folder / "a").write_bytes(OTHER)
    (folder / LEDGER).write_text((folder / LEDGER).read_text().replace(sha(CONTENT), sha(OTHER)))
    assert verify_folder(folder) == []
    assert verify_folder(folder, source) == [
        f"{folder / 'a'}: sha256 {sha(OTHER)}, expected {sha(CONTENT)} (by manifest)"
    ]


def test_a_wrong_checksum_leaves_nothing(site):
    site.add("a", OTHER)
    source = source_of({"address": f"{site.url}/a", "path": "a", "sha256": sha(CONTENT)})
    with pytest.raises(
        DataError, match=rf"sha256 {sha(OTHER)}, expected {sha(CONTENT)} \({site.url}/a\). It was deleted"
    ):
        get_source(source)
    assert set(os.listdir(source.folder)) <= {LEDGER, fetch.LOCK}
    assert state_of(source) == ""


def test_what_lies_there_already_is_checked_and_used(site):
    file = site.add("a", CONTENT)
    source = source_of({"address": f"{site.url}/a", "path": "a", "sha256": sha(CONTENT)})
    source.folder.mkdir(parents=True)
    (source.folder / "a").write_bytes(CONTENT)
    said: list[str] = []
    get_source(source, report=Reporter(say=said.append))
    assert file.asked == []
    assert said == [f"{source.folder / 'a'}: lies here already; checking it"]
    (source.folder / LEDGER).unlink()
    (source.folder / "a").write_bytes(OTHER)
    with pytest.raises(DataError, match="sha256"):
        get_source(source)
    assert (source.folder / "a").read_bytes() == OTHER, "what a person put there is not deleted"


@pytest.mark.parametrize("key", OFFLINE)
def test_offline_never_asks_and_says_where_files_were_expected(site, monkeypatch, key):
    file = site.add("a.zip", ARCHIVE)
    source = source_of({"address": f"{site.url}/a.zip", "path": "a.zip", "unpack": "data"})
    monkeypatch.setenv(key, "1")
    with pytest.raises(
        DataError, match=rf"offline \({key} is set\), and 1 file\(s\) are not here:\n  {source.folder}/a.zip  from"
    ):
        get_source(source)
    (source.folder / "a.zip").write_bytes(ARCHIVE)
    get_source(source)
    assert (source.folder / "data" / "a.bin").read_bytes() == CONTENT
    assert file.asked == []
    hub = source_of({"address": "hf://datasets/o/r/data/", "path": "data/"}, name="hub")
    with pytest.raises(
        DataError, match=rf"offline \({key} is set\), and what lies at hf://datasets/o/r/data/ was never listed"
    ):
        get_source(hub)


def test_a_part_can_be_had(site):
    files = [site.add(f"x-{i:05d}-of-00012", bytes([i]) * 10) for i in range(12)]
    address = f"{site.url}/x-{{number:05d}}-of-00012"
    source = source_of({"address": address, "path": "d/x-{number:05d}-of-00012", "count": 12, "bytes": 10})
    assert source.size == (120, True)
    folder = get_source(source, only=["*-0000[0-2]-*"])
    assert [len(file.asked) for file in files] == [1, 1, 1] + [0] * 9
    assert state_of(source) == "part of it"
    assert (folder / "d" / "x-00002-of-00012").read_bytes() == bytes([2]) * 10
    with pytest.raises(DataError, match=r"no file fits --only \*.json; there are 12, e.g. d/x-00000-of-00012"):
        get_source(source, only=["*.json"])
    get_source(source)
    assert state_of(source) == "here"
    assert {len(file.asked) for file in files} == {1}


def test_archives_can_be_let_go(site):
    file = site.add("a.zip", ARCHIVE)
    source = source_of({"address": f"{site.url}/a.zip", "path": "a.zip", "unpack": "data"})
    folder = get_source(source, keep_archives=False)
    assert not (folder / "a.zip").exists()
    assert verify_folder(folder, source) == []
    assert state_of(source) == "here"
    get_source(source)
    assert len(file.asked) == 1
    (folder / "data" / "b" / "c.txt").unlink()
    os.rename(folder / "data", folder / "moved")
    assert verify_folder(folder, source) == [
        f"{folder / 'data'}: missing, downloads.json says a.zip was unpacked into it"
    ]
    get_source(source)
    assert len(file.asked) == 2
    assert (folder / "data" / "b" / "c.txt").exists()


def test_a_hostile_archive_is_refused_and_kept_for_inspection(site):
    site.add("a.zip", zipped({"data/../../../evil": b"x", "data/a": b"a"}))
    source = source_of({"address": f"{site.url}/a.zip", "path": "a.zip", "unpack": "data"})
    with pytest.raises(DataError, match=r"a.zip: member 'data/../../../evil' would be written outside"):
        get_source(source)
    assert not list(source.folder.parent.parent.rglob("evil"))
    assert not (source.folder / "data").exists()


def test_a_folder_that_is_not_the_archives_is_not_taken_for_it(site):
    site.add("a.zip", ARCHIVE)
    source = source_of({"address": f"{site.url}/a.zip", "path": "a.zip", "unpack": "data"})
    (source.folder / "data").mkdir(parents=True)
    with pytest.raises(DataError, match=r"data: is not what a.zip holds \(.*a.bin: missing"):
        get_source(source)


def test_space_is_looked_at_before_the_first_byte(site, monkeypatch):
    file = site.add("a", CONTENT)
    monkeypatch.setattr(fetch, "free_bytes", lambda folder: 500_000)
    files = [{"address": f"{site.url}/a", "path": name, "bytes": 300_000} for name in "ab"]
    with pytest.raises(DataError, match=r"600,000 bytes are needed for 2 file\(s\), 500,000 are free"):
        get_source(source_of(*files))
    assert file.asked == []


def test_two_that_want_the_same_download_it_once(site):
    file = site.add("a", CONTENT, gate=threading.Event())
    source = source_of({"address": f"{site.url}/a", "path": "a"})
    waited = threading.Event()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "another process" in text:
            waited.set()

    threads = [
        threading.Thread(target=get_source, args=(source,), kwargs={"report": Reporter(say=say)}) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert waited.wait(10)
    file.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(file.asked) == 1
    assert sum("another process is downloading here; waiting for it" in text for text in said) == 1
    assert state_of(source) == "here"


GET_IN_A_PROCESS = """
import sys
from pathlib import Path
from jepawm.data.download.fetch import get_source
from jepawm.data.download.public_sources import read_manifest
get_source(read_manifest(Path(sys.argv[1]).read_text(), "toy")[1][0])
"""


def test_a_killed_process_is_gone_on_from_and_its_lock_is_free(site, tmp_path):
    content, go_on = np.random.default_rng(2).bytes(6 * 2**20), threading.Event()
    file = site.add("a", content, faults=[("stall", 4 * 2**20, go_on)])
    source = source_of({"address": f"{site.url}/a", "path": "a"})
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(json.dumps({"hub": "https://example.org", "sources": [asdict(source)]}))
    part = source.folder / "a.part"
    process = subprocess.Popen([sys.executable, "-c", GET_IN_A_PROCESS, str(manifest)])
    try:
        wait_until(lambda: part.exists() and part.stat().st_size >= 3 * 2**20)
    finally:
        process.kill()
        process.wait()
        go_on.set()
    assert state_of(source) == "part of it"
    kept = part.stat().st_size
    get_source(source)
    assert (source.folder / "a").read_bytes() == content
    assert [asked.get("Range") for asked in file.asked] == [None, f"bytes={kept}-"]


def test_two_processes_download_once(site, tmp_path):
    go_on = threading.Event()
    file = site.add("a", CONTENT, gate=go_on)
    source = source_of({"address": f"{site.url}/a", "path": "a"})
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(json.dumps({"hub": "https://example.org", "sources": [asdict(source)]}))
    processes = [subprocess.Popen([sys.executable, "-c", GET_IN_A_PROCESS, str(manifest)]) for _ in range(2)]
    wait_until(lambda: bool(file.asked))
    go_on.set()
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(file.asked) == 1


def wait_until(happened: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_a_damaged_ledger_is_named(site):
    site.add("a", CONTENT)
    source = source_of({"address": f"{site.url}/a", "path": "a"})
    folder = get_source(source)
    for text in ("{", "[]", '{"source": "toy", "files": {"a": {}}, "listings": {}}'):
        (folder / LEDGER).write_text(text)
        with pytest.raises(
            DataError, match=r"downloads.json: cannot be read: .*Delete it to have the files here judged"
        ):
            get_source(source)
    (folder / LEDGER).unlink()
    get_source(source)
    assert verify_folder(folder, source) == []


def test_two_sources_do_not_share_a_folder(site, tmp_path):
    site.add("a", CONTENT)
    file = {"address": f"{site.url}/a", "path": "a"}
    get_source(source_of(file), tmp_path / "d")
    with pytest.raises(DataError, match="holds downloads of 'toy', not of 'other'"):
        get_source(source_of(file, name="other"), tmp_path / "d")


def test_what_a_person_has_to_do_is_said(site):
    with pytest.raises(
        DataError, match=r"toy cannot be downloaded by a program: register first \(https://example.org\)"
    ):
        get_source(source_of(files=[], how="register first"))


@pytest.fixture
def manifest(site, monkeypatch) -> PublicSource:
    """The command line's only source."""
    site.add("a.zip", ARCHIVE)
    licence = {"name": "CC-BY-NC-4.0", "commercial_use": False, "seen_in": "the card"}
    file = {"address": f"{site.url}/a.zip", "path": "a.zip", "unpack": "data", "bytes": len(ARCHIVE)}
    source = source_of(file, licence=licence, format="rlds", opens="data/b", note="n/a")
    monkeypatch.setattr(public_sources, "_manifest", lambda: ("https://example.org", (source,)))
    return source


def test_command_line(manifest, tmp_path, capsys):
    assert data_cli.main(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("toy"))
    assert re.split(r"\s{2,}", line.strip())[:3] == ["toy", "300.2 kB", "CC-BY-NC-4.0 (nc)"]
    assert data_cli.main(["get", "toy"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    folder = manifest.folder
    assert lines[0].split(None, 1) == ["toy", "a toy (none)"]
    assert [line.split(None, 1)[0] for line in lines[1:5]] == ["size", "licence", "cite", "homepage"]
    assert lines[5].startswith("NON-COMMERCIAL USE ONLY")
    assert lines[6:] == [
        f"{folder}: done",
        f"next: jepawm data convert {folder}/data/b DESTINATION --from rlds",
        "note: n/a",
    ]
    assert "1/1 a.zip" in told.err
    assert data_cli.main(["list", "--json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)
    assert (item["name"], item["state"], item["files"][0]["bytes"]) == ("toy", "here", len(ARCHIVE))
    assert data_cli.main(["verify", "toy"]) == 0
    told_ok = f"{folder}: ok, 1 file(s), 1 by the checksum of the first download alone"
    assert capsys.readouterr().out.strip() == told_ok
    assert data_cli.main(["get", "toy", "--dest", str(tmp_path / "there"), "--no-keep-archives"]) == 0
    assert sorted(os.listdir(tmp_path / "there" / "data")) == ["a.bin", "b"]
    capsys.readouterr()
    assert data_cli.main(["verify", str(tmp_path / "there")]) == 0
    assert "1 archive(s) deleted after unpacking" in capsys.readouterr().out


def test_command_line_errors(manifest, tmp_path, capsys):
    assert data_cli.main(["get", "toi"]) == 1
    assert "unknown public source 'toi' (did you mean 'toy'?)" in capsys.readouterr().err
    assert data_cli.main(["verify", "toy"]) == 1
    assert "nothing was downloaded here" in capsys.readouterr().err
    assert data_cli.main(["verify", "toyy"]) == 1
    assert "neither a folder nor a public source (did you mean 'toy'?)" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert data_cli.main(["get", "toy", "--dest", str(tmp_path / "file" / "below")]) == 1
    assert "cannot be made" in capsys.readouterr().err
