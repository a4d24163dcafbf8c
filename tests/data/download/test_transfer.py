"""One file over HTTP, from servers that behave well and badly."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import Site, serving

from jepawm.data.download import transfer
from jepawm.data.download.transfer import ChecksumError, Landed, download
from jepawm.errors import DataError

CONTENT = np.random.default_rng(0).bytes(5 * 2**20 + 7)
OTHER = np.random.default_rng(1).bytes(5 * 2**20 + 7)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def get(site: Site, tmp_path: Path, waits: list[float]) -> Any:
    def run(name: str = "a.bin", **options: Any) -> Landed:
        return download(f"{site.url}/{name}", tmp_path / "to" / name, sleep=waits.append, **options)

    return run


def left(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "to")) if (tmp_path / "to").exists() else []


def ranges(file: Any) -> list[str | None]:
    return [asked.get("Range") for asked in file.asked]


def test_a_file_lands_under_its_name_when_it_is_whole(site, get, tmp_path):
    site.add("a.bin", CONTENT)
    seen: list[tuple[int, int | None]] = []
    landed = get(size=len(CONTENT), sha256=sha(CONTENT), progress=lambda done, total: seen.append((done, total)))
    assert landed == Landed(len(CONTENT), sha(CONTENT))
    assert (tmp_path / "to" / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert site.files["/a.bin"].asked[0]["Accept-Encoding"] == "identity"


def test_dropped_connections_are_resumed_where_they_broke(site, get, tmp_path, waits):
    file = site.add("a.bin", CONTENT, faults=[("drop", 2**20), ("drop", 2**20), ("drop", 0)])
    assert get().sha256 == sha(CONTENT)
    assert ranges(file) == [None, f"bytes={2**20}-", f"bytes={2 * 2**20}-", f"bytes={2 * 2**20}-"]
    assert {asked.get("If-Range") for asked in file.asked[1:]} == {'"one"'}
    assert waits == [1.0, 1.0, 1.0]
    assert left(tmp_path) == ["a.bin"]


def test_a_kill_is_resumed_by_the_next_call(site, get, tmp_path):
    file = site.add("a.bin", CONTENT, faults=[("drop", 3 * 2**20)])

    class Killed(BaseException):
        pass

    def kill(done: int, total: int | None) -> None:
        if done >= 2 * 2**20:
            raise Killed

    with pytest.raises(Killed):
        get(progress=kill)
    assert left(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    kept = (tmp_path / "to" / "a.bin.part").stat().st_size
    assert kept >= 2 * 2**20
    assert get().sha256 == sha(CONTENT)
    assert ranges(file) == [None, f"bytes={kept}-"]


def test_a_whole_part_needs_no_byte_more(site, get, tmp_path):
    """Killed between the last byte and the rename."""
    file = site.add("a.bin", CONTENT, faults=[("drop", 0)])
    with pytest.raises(DataError, match="gave up"):
        download(f"{site.url}/a.bin", tmp_path / "to" / "a.bin", sleep=_stop_after(file, [("drop", 0)] * 9))
    (tmp_path / "to" / "a.bin.part").write_bytes(CONTENT)
    file.faults.clear()
    assert get().sha256 == sha(CONTENT)
    assert ranges(file)[-1] == f"bytes={len(CONTENT)}-"


def _stop_after(file: Any, faults: list[tuple[Any, ...]]) -> Any:
    file.faults += faults
    return lambda wait_s: None


def test_a_server_that_knows_no_ranges_starts_anew(site, get, tmp_path):
    file = site.add("a.bin", CONTENT, ranges=False, faults=[("drop", 2**20), ("drop", 3 * 2**20)])
    assert get(sha256=sha(CONTENT)).bytes == len(CONTENT)
    assert (tmp_path / "to" / "a.bin").read_bytes() == CONTENT
    assert len(file.asked) == 3


def test_a_file_that_changes_meanwhile_is_not_glued_together(site, get, tmp_path):
    file = site.add("a.bin", CONTENT, faults=[("drop", 2 * 2**20), ("swap", OTHER, '"two"')])
    assert get().sha256 == sha(OTHER)
    assert ranges(file) == [None, f"bytes={2 * 2**20}-"]
    assert (tmp_path / "to" / "a.bin").read_bytes() == OTHER


def test_nor_where_the_server_does_not_heed_if_range(site, get, tmp_path):
    site.add("a.bin", CONTENT, checks_if_range=False, faults=[("drop", 2 * 2**20), ("swap", OTHER, '"two"')])
    assert get().sha256 == sha(OTHER)


def test_without_a_version_halves_are_only_joined_under_a_checksum(site, get, tmp_path):
    file = site.add("a.bin", CONTENT, etag=None, faults=[("drop", 2**20)])
    assert get().sha256 == sha(CONTENT)
    assert ranges(file) == [None, None]
    file = site.add("b.bin", CONTENT, etag=None, faults=[("drop", 2**20)])
    assert get("b.bin", sha256=sha(CONTENT)).bytes == len(CONTENT)
    assert ranges(file) == [None, f"bytes={2**20}-"]
    # The halves do not fit: once more, from the start.
    file = site.add("c.bin", OTHER, etag=None, faults=[("drop", 2**20), ("swap", CONTENT, None)])
    assert get("c.bin", sha256=sha(CONTENT)).bytes == len(CONTENT)
    assert ranges(file) == [None, f"bytes={2**20}-", None]


def test_a_weak_etag_is_no_version(site, get):
    file = site.add("a.bin", CONTENT, etag='W/"one"', faults=[("drop", 2**20)])
    get()
    assert ranges(file) == [None, None]


def test_a_part_of_another_address_is_not_used(site, get, tmp_path):
    site.add("a.bin", CONTENT, faults=[("drop", 2**20)])
    file = site.add("b.bin", OTHER)
    with pytest.raises(DataError):
        download(f"{site.url}/a.bin", tmp_path / "to" / "x", sleep=_stop_after(site.files["/a.bin"], [("drop", 0)] * 9))
    assert download(f"{site.url}/b.bin", tmp_path / "to" / "x").sha256 == sha(OTHER)
    assert ranges(file) == [None]


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (429, {"Retry-After": "17"}, 17.0),
        (503, {}, 1.0),
        (500, {"Retry-After": "x"}, 1.0),
        (429, {"Retry-After": "9999"}, 300.0),
    ],
)
def test_a_busy_server_is_waited_for(site, get, waits, status, headers, wait_s):
    said: list[str] = []
    site.add("a.bin", CONTENT, faults=[("status", status, headers)])
    assert get(say=said.append).bytes == len(CONTENT)
    assert waits == [wait_s]
    assert said == [
        f"a.bin: the server answers {status} {said[0].split(str(status))[1].split(';')[0].strip()}; "
        f"trying again in {wait_s:.0f} s"
    ]


def test_retry_after_may_be_a_date(site, get, waits):
    from email.utils import formatdate
    from time import time

    site.add("a.bin", CONTENT, faults=[("status", 503, {"Retry-After": formatdate(time() + 40, usegmt=True)})])
    get()
    assert 30 < waits[0] <= 40


def test_attempts_end_when_nothing_new_arrives(site, get, tmp_path, waits):
    file = site.add("a.bin", CONTENT, faults=[("drop", 2**20)] + [("status", 503, {})] * 20)
    with pytest.raises(
        DataError, match=r"gave up after 6 attempts that brought nothing new: .* 503 .* 1,048,576 bytes are kept"
    ):
        get()
    assert waits == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    file.faults.clear()
    assert get().sha256 == sha(CONTENT)


def test_a_server_that_cannot_be_reached_is_named(tmp_path):
    with pytest.raises(DataError, match="gave up after 6 attempts"):
        download("http://127.0.0.1:9/a", tmp_path / "a", sleep=lambda wait_s: None)


def test_the_wrong_bytes_are_refused_and_deleted(site, get, tmp_path):
    site.add("a.bin", OTHER)
    with pytest.raises(ChecksumError, match=rf"a.bin: sha256 {sha(OTHER)}, expected {sha(CONTENT)} .*It was deleted"):
        get(size=len(CONTENT), sha256=sha(CONTENT))
    assert left(tmp_path) == []


def test_the_wrong_size_is_refused_before_it_is_downloaded(site, get, tmp_path):
    file = site.add("a.bin", CONTENT)
    with pytest.raises(DataError, match="the server's file has 5,242,887 bytes, expected 5,242,888"):
        get(size=len(CONTENT) + 1)
    assert len(file.asked) == 1
    site.add("b.bin", CONTENT, length=False)
    with pytest.raises(DataError, match=r"sends more than the 10 bytes"):
        get("b.bin", size=10)
    assert "b.bin.part" not in left(tmp_path)


def test_without_a_length_the_known_size_tells_that_it_broke_off(site, get):
    file = site.add("a.bin", CONTENT, length=False, faults=[("drop", 2**20)])
    assert get(size=len(CONTENT)).sha256 == sha(CONTENT)
    assert ranges(file) == [None, f"bytes={2**20}-"]


def test_without_a_length_the_checksum_judges(site, get):
    site.add("a.bin", CONTENT, length=False)
    assert get(sha256=sha(CONTENT)).bytes == len(CONTENT)


@pytest.mark.parametrize(
    ("status", "text"), [(404, "is not there"), (403, "HF_TOKEN"), (401, "HF_TOKEN"), (410, "is gone")]
)
def test_refusals_say_what_to_do(site, get, waits, status, text):
    site.add("a.bin", CONTENT, faults=[("status", status, {})])
    with pytest.raises(DataError, match=rf"a.bin: .*{text}.*HTTP {status}"):
        get()
    assert waits == []


def test_a_web_page_is_not_a_file(site, get, tmp_path):
    site.add("a.bin", b"<html>log in</html>", kind="text/html; charset=utf-8")
    with pytest.raises(DataError, match="leads to a web page instead of the file"):
        get()
    assert "a.bin" not in left(tmp_path)


def test_space_is_looked_at_first(site, get, tmp_path, monkeypatch):
    site.add("a.bin", CONTENT)
    monkeypatch.setattr(transfer, "free_bytes", lambda folder: 1000)
    with pytest.raises(DataError, match=r"5,242,887 bytes are needed for a.bin, 1,000 are free; .*--dest"):
        get()
    assert "a.bin" not in left(tmp_path)


def test_a_token_is_sent(site, get):
    file = site.add("a.bin", CONTENT)
    get(token="t0ken")
    assert file.asked[0]["Authorization"] == "Bearer t0ken"


def test_an_unwritable_place_is_named(site, tmp_path):
    site.add("a.bin", CONTENT)
    (tmp_path / "a.bin.part").mkdir()
    with pytest.raises(DataError, match=r"a.bin.part: cannot be written"):
        download(f"{site.url}/a.bin", tmp_path / "a.bin", sleep=lambda wait_s: None)
