"""The manifest of public sources: the one that ships, and manifests with faults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepawm.data.download.public_sources import UNVERIFIED, find, hub_address, read_manifest, sources
from jepawm.data.importers import FORMATS
from jepawm.errors import ConfigError, DataError

SHA = "0" * 64


def toy() -> dict[str, Any]:
    return {
        "name": "toy",
        "about": "a toy",
        "environment": "none",
        "format": None,
        "opens": None,
        "licence": {"name": "MIT", "commercial_use": True, "seen_in": "here"},
        "citation": {"authors": "A. B", "title": "T", "arxiv": "1234.56789"},
        "homepage": "https://example.org",
        "files": [{"address": "https://example.org/a.zip", "path": "a.zip", "bytes": 3, "sha256": SHA, "unpack": "a"}],
    }


def read(*items: dict[str, Any], **top: Any) -> Any:
    return read_manifest(json.dumps({"hub": "https://example.org", "sources": list(items), **top}), "m.yaml")


# ---- the manifest that ships


def test_the_manifest_is_read_and_covers_what_the_published_systems_train_on():
    names = [source.name for source in sources()]
    assert len(names) == len(set(names)) >= 20
    assert {"pusht-human", "dino-wm-pusht", "dino-wm-pointmaze", "dino-wm-wall", "dino-wm-deformable"} <= set(names)
    assert {"jepa-wms-metaworld", "jepa-wms-robocasa", "jepa-wms-franka", "bridge-v2", "droid-100"} <= set(names)
    assert {"droid-raw", "lerobot-pusht", "kinetics-400", "something-something-v2", "howto100m"} <= set(names)


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_every_source_says_enough(source):
    assert source.about
    assert source.citation.title
    assert source.homepage.startswith("https://")
    assert source.format is None or source.format in FORMATS
    assert (source.licence.commercial_use is None) == (source.licence.name == UNVERIFIED)
    for file in source.files:
        assert not file.address.startswith("http://")
        # What is known of a file is known exactly: a checksum without a size, or a size of 0, was not looked up.
        assert file.sha256 is None or file.bytes is not None
    if source.files and source.format is not None:
        # What is converted is there after the download.
        first = Path(source.opens or "").parts[:1]
        tops = {Path(path).parts[:1] for file in source.files for path in (file.unpack or file.path,)}
        assert first in tops or first == ()


def test_the_known_figures_of_the_published_archives():
    pusht = find("jepa-wms-pusht").files[0]
    assert pusht.bytes == 2_785_304_515
    assert find("dino-wm-pusht").files[0].sha256 == pusht.sha256
    for name in ("pusht", "pointmaze", "wall"):
        ours, theirs = find(f"jepa-wms-{name}").files[0], find(f"dino-wm-{name}").files[0]
        assert (ours.bytes, ours.sha256, ours.unpack) == (theirs.bytes, theirs.sha256, theirs.unpack)
    for source in sources():
        if source.name.startswith("jepa-wms-"):
            assert (source.licence.name, source.licence.commercial_use) == ("CC-BY-NC-4.0", False)
            assert all("@" in file.address for file in source.files), "the commit is pinned"
    assert sum(file.count or 1 for file in find("bridge-v2").files) == 1154
    files = [file for item in find("droid-100").files for file in item.each()]
    assert len(files) == 33
    assert files[-1].address.endswith("/droid_100/1.0.0/r2d2_faceblur-train.tfrecord-00030-of-00031")


def test_names_are_answered():
    with pytest.raises(DataError, match=r"unknown public source 'dino-wm-pusth' \(did you mean 'dino-wm-pusht'\?\)"):
        find("dino-wm-pusth")


def test_the_hub_may_be_another(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub_address() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")
    assert hub_address() == "https://mirror.example.org"


# ---- manifests with faults


def test_a_source_is_read_whole():
    hub, (source,) = read(toy())
    assert hub == "https://example.org"
    assert source.size == (3, True)
    assert str(source.citation) == 'A. B, "T", arXiv 1234.56789'
    assert source.files[0].unpack == "a"
    assert read({**toy(), "files": [{**toy()["files"][0], "bytes": None}], "approximate_bytes": 7})[1][0].size == (
        7,
        False,
    )


def edit(**changes: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {**toy(), **changes}


def edit_file(**changes: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {**toy(), "files": [{**toy()["files"][0], **changes}]}


def without(key: str) -> Callable[[], dict[str, Any]]:
    return lambda: {name: value for name, value in toy().items() if name != key}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (edit(licnce=1), r"m.yaml: source toy: unknown key 'licnce' \(did you mean 'licence'\?\)"),
        (without("homepage"), r"source toy: key 'homepage' is missing \(null where it is not known\)"),
        (edit(about=3), r"source toy: about is 3, expected str"),
        (edit(approximate_bytes=True), r"approximate_bytes is True, expected int or null"),
        (edit(name="Toy Set"), r"a name is lower-case letters, digits and dashes"),
        (edit(licence={"name": "MIT"}), r"source toy: licence: key 'commercial_use' is missing"),
        (edit(licence={"name": "MIT", "commercial_use": "y", "seen_in": "x"}), r"commercial_use is 'y', expected bool"),
        (edit(licence="MIT"), r"source toy: licence: expected a mapping, found 'MIT'"),
        (edit(files=[]), r"needs either files or how"),
        (edit(how="ask"), r"needs either files or how"),
        (edit(files={}), r"source toy: files is dict, expected a list"),
        (edit(files=toy()["files"] * 2), r"two files would be written to 'a'"),
        (edit_file(sha256="abc"), r"source toy: files\[0\]: file 'a.zip': sha256 'abc', expected 64 hex"),
        (edit_file(bytes=0), r"bytes must be 1 or more, found 0"),
        (edit_file(md5="x"), r"files\[0\]: unknown key 'md5'"),
        (edit_file(path="../a.zip"), r"path '../a.zip' must lie below the source's folder"),
        (edit_file(unpack="/a"), r"unpack '/a' must lie below the source's folder"),
        (edit_file(path="a.rar", unpack="a"), r"can be unpacked are .zip"),
        (edit_file(address="ftp://example.org/a.zip"), r"address 'ftp://example.org/a.zip', expected https://"),
        (edit_file(address="hf://datasets/o/r/d/"), r"address and path must both end in / \(a folder\), or neither"),
        (edit_file(address="hf://datasets/o/r/d/", path="d/", unpack=None), r"a folder has no bytes, sha256"),
        (edit_file(count=3), r"a count needs {number} in address and path"),
        (edit_file(address="https://e.org/{number}", path="{number}.zip", count=3), r"numbered files share no sha256"),
    ],
)  # fmt: skip
def test_faults_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        read(make())


def test_faults_of_the_whole_are_named():
    with pytest.raises(ConfigError, match=r"m.yaml: source toy: this name is there twice"):
        read(toy(), toy())
    with pytest.raises(ConfigError, match=r"m.yaml: hub is 'nowhere', expected an address"):
        read(toy(), hub="nowhere")
    with pytest.raises(ConfigError, match=r"m.yaml: unknown key 'surces' \(did you mean 'sources'\?\)"):
        read(toy(), surces=[])
    with pytest.raises(ConfigError, match=r"m.yaml is not valid YAML"):
        read_manifest("[", "m.yaml")
    with pytest.raises(ConfigError, match=r"m.yaml: expected a mapping, found None"):
        read_manifest("", "m.yaml")
    with pytest.raises(ConfigError, match=r"m.yaml: sources is str, expected a list"):
        read_manifest("hub: https://e.org\nsources: x", "m.yaml")
    with pytest.raises(ConfigError, match=r"m.yaml: source 0: expected a mapping, found 3"):
        read_manifest("hub: https://e.org\nsources: [3]", "m.yaml")
