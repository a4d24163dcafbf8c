"""`jepawm data get` from the hub: folders, repositories and files, with its client and without."""

from typing import Any

import pytest
from file_server import CONTENT, OTHER, Served, Site, sha, source_of

from jepawm.data.download import fetch, hub_files
from jepawm.data.download.fetch import Reporter, get_source, state_of, verify_folder
from jepawm.data.download.ledger import Ledger
from jepawm.errors import DataError


def hub_of(site: Site, files: dict[str, bytes], lfs: bool = True) -> dict[str, Served]:
    """Serves the dataset repository `o/r` as the hub does; its tree comes in pages of two."""
    api = "/api/datasets/o/r"
    site.files[f"{api}/revision/main"] = site.files[f"{api}/revision/v1"] = {"sha": "c0ffee", "id": "o/r"}
    for below in ("", "/data"):
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "data", "oid": "0", "size": 0}]
        for path, content in files.items():
            if f"/{path}".startswith(below):
                item = {"type": "file", "path": path, "oid": "0", "size": len(content)}
                if lfs:
                    item["lfs"] = {"oid": sha(content), "size": len(content), "pointerSize": 130}
                entries.append(item)
        tree = f"{api}/tree/c0ffee{below}?recursive=true"
        pages = [entries[i : i + 2] for i in range(0, len(entries), 2)]
        for number, page in enumerate(pages):
            address = tree if number == 0 else f"{tree}&cursor={number}"
            more = {"Link": f'<{site.url}{tree}&cursor={number + 1}>; rel="next"'} if number + 1 < len(pages) else {}
            # The client names one parameter more.
            for spelled in (address, address.replace("?recursive=true", "?recursive=true&expand=false")):
                site.files[spelled] = (page, more)
    return {
        path: site.add(f"datasets/o/r/resolve/c0ffee/{path}", content, etag=f'"{sha(content)}"')
        for path, content in files.items()
    }


REPOSITORY = {".gitattributes": b"x", "README.md": b"card", "data/a.bin": CONTENT, "data/deep/b.bin": OTHER}


@pytest.fixture(params=["client", "plain"])
def with_or_without_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "client":
        pytest.importorskip("huggingface_hub")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    else:
        monkeypatch.setattr(hub_files, "has_client", lambda: False)
    return request.param


@pytest.mark.usefixtures("with_or_without_client")
def test_a_folder_of_the_hub(site, monkeypatch):
    served = hub_of(site, REPOSITORY)
    source = source_of({"address": "hf://datasets/o/r/data/@v1", "path": "inner/data/"})
    told: dict[str, list[tuple[int, int | None]]] = {}
    report = Reporter(progress=lambda what: lambda done, total: told.setdefault(what, []).append((done, total)))
    folder = get_source(source, report=report)
    assert told["1/2 inner/data/a.bin"][-1] == (300_000, 300_000)
    assert (folder / "inner" / "data" / "a.bin").read_bytes() == CONTENT
    assert (folder / "inner" / "data" / "deep" / "b.bin").read_bytes() == OTHER
    assert not served["README.md"].asked
    entry = Ledger(folder).entries["inner/data/a.bin"]
    assert (entry.vouched_by, entry.sha256) == ("hub", sha(CONTENT))
    assert entry.address == "hf://datasets/o/r/data/a.bin@c0ffee", "the commit is pinned"
    assert verify_folder(folder, source) == []
    assert not [path for path in folder.rglob(".*") if path.name != fetch.LOCK]
    # What was listed once is known offline.
    monkeypatch.setenv("JEPAWM_OFFLINE", "1")
    get_source(source)
    assert state_of(source) == "here"


@pytest.mark.usefixtures("with_or_without_client")
def test_a_whole_repository_and_one_file_of_it(site):
    hub_of(site, REPOSITORY)
    folder = get_source(source_of({"address": "hf://datasets/o/r/", "path": "./"}))
    assert sorted(Ledger(folder).entries) == ["README.md", "data/a.bin", "data/deep/b.bin"]
    one = source_of(
        {"address": "hf://datasets/o/r/data/a.bin@c0ffee", "path": "a.bin", "bytes": 300_000, "sha256": sha(CONTENT)},
        name="one",
    )
    assert (get_source(one) / "a.bin").read_bytes() == CONTENT


@pytest.mark.usefixtures("with_or_without_client")
def test_what_the_hub_sends_is_held_against_what_it_lists(site):
    hub_of(site, REPOSITORY)["data/a.bin"].content = OTHER
    source = source_of({"address": "hf://datasets/o/r/data/", "path": "data/"})
    with pytest.raises(DataError, match=rf"a.bin: sha256 {sha(OTHER)}, expected {sha(CONTENT)}"):
        get_source(source)
    assert not list(source.folder.rglob("a.bin*"))


@pytest.mark.usefixtures("with_or_without_client")
def test_a_repository_that_is_not_there_is_named(site):
    with pytest.raises(DataError, match=r"hf://datasets/o/gone/.*HF_TOKEN"):
        get_source(source_of({"address": "hf://datasets/o/gone/", "path": "./"}))


def test_names_that_the_hub_lists_stay_in_the_folder(site, monkeypatch):
    monkeypatch.setattr(hub_files, "has_client", lambda: False)
    hub_of(site, {"data/../../evil": b"x"})
    with pytest.raises(DataError, match=r"the hub lists 'data/../../evil', which does not lie there; refused"):
        get_source(source_of({"address": "hf://datasets/o/r/data/", "path": "data/"}))
