"""Weight files: where they are looked for, how they are read, and what fits into a module."""

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jepawm.errors import CheckpointError, ConfigError
from jepawm.nn import weights
from jepawm.nn.weights import MoreThanTensorsError, load_strict, locate, only_tensors, read_tensors


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, the network allowed, and no proxy in front of 127.0.0.1."""
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache" / "weights"


def tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).view(2, 3), "b.c": torch.ones(4, dtype=torch.int64)}


# -- where -----------------------------------------------------------------------------------------------------------


def test_a_path_is_itself_and_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file.pt").write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(str(tmp_path / "file.pt")) == locate("~/file.pt") == str(tmp_path / "file.pt")


def test_a_path_that_is_missing_ends_with_the_hint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^weight file not found: .*none\.pt; get it from X$"):
        locate(str(tmp_path / "none.pt"), hint="get it from X")
    with pytest.raises(CheckpointError, match=r"none\.pt$"):
        locate(str(tmp_path / "none.pt"))
    with pytest.raises(CheckpointError, match="not found"):
        locate(str(tmp_path))


@pytest.mark.parametrize("source", ["s3://bucket/file.pt", "ftp://host/file.pt", "file:///tmp/file.pt"])
def test_other_schemes_are_refused(source: str) -> None:
    with pytest.raises(ConfigError, match=rf"weights '{source}': expected a path, https://\.\.\. or hf://OWNER/REPO"):
        locate(source)


@pytest.mark.parametrize("value", ["1", "on", "Yes", "TRUE"])
def test_offline_is_what_the_variable_says(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not weights.offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert weights.offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not weights.offline()


# -- the hub ---------------------------------------------------------------------------------------------------------

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def hub_calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Arguments of every download from a hub that holds any file."""
    hub = pytest.importorskip("huggingface_hub")
    calls: Calls = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *args, **keys: calls.append((args, keys)) or "/cache/file")
    return calls


@pytest.mark.parametrize(
    ("source", "repo", "file", "revision"),
    [
        ("hf://owner/repo/model.pt", "owner/repo", "model.pt", None),
        ("hf://owner/repo/a/b/model.pt@v1", "owner/repo", "a/b/model.pt", "v1"),
        ("hf://owner/repo/model.pt@refs/pr/1", "owner/repo", "model.pt", "refs/pr/1"),
    ],
)
@pytest.mark.parametrize("offline", [False, True])
def test_the_hub_is_asked_for_repo_file_and_revision(
    source: str, repo: str, file: str, revision: str | None, offline: bool, hub_calls: Calls, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")
    assert locate(source) == "/cache/file"
    assert hub_calls == [((repo, file), {"revision": revision, "local_files_only": offline})]


@pytest.mark.parametrize("source", ["hf://", "hf://owner", "hf://owner/repo", "hf://owner/repo@v1", "hf://owner/repo/"])
def test_hub_sources_without_a_file_are_refused(source: str, hub_calls: Calls) -> None:
    with pytest.raises(ConfigError, match=rf"weights '{source}': expected hf://OWNER/REPO/FILE\[@REVISION\]"):
        locate(source)
    assert not hub_calls


def test_a_hub_that_has_no_such_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise hub.errors.LocalEntryNotFoundError("no such entry\nand a long story")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(
        CheckpointError,
        match=r"^hf://o/r/f\.pt cannot be fetched: no such entry; ask Y; ",
    ):
        locate("hf://o/r/f.pt", hint="ask Y")


def test_the_hubs_own_offline_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real client, in an empty cache of its own."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"is not in the local cache and HF_HUB_OFFLINE is set: .*; ask Y; "):
        locate("hf://nobody-has/this-repo/file.pt", hint="ask Y")


# -- addresses -------------------------------------------------------------------------------------------------------

BODY = bytes(range(256)) * 20


class Site(http.server.BaseHTTPRequestHandler):
    """`/whole/...` sends the body, `/broken/...` stops half way, `/chunks/...` too and tells no length before."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        kind = self.path.split("/")[1]
        content = {"whole": BODY, "broken": BODY[:2560], "chunks": b"100\r\n" + BODY[:100]}.get(kind)
        self.send_response(404 if content is None else 200)
        if kind == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(BODY) if content else 0))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[tuple[str, list[str]]]:
    """Address of a server on this machine, and the paths it was asked for."""
    handler = type("Handler", (Site,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()
        thread.join()


def test_an_address_is_fetched_once(site: tuple[str, list[str]], own_cache: Path, monkeypatch: Any) -> None:
    url, asked = site
    path = locate(f"{url}/whole/latest.pt")
    assert Path(path).read_bytes() == BODY
    assert Path(path).parent == own_cache
    assert path.endswith("latest.pt")
    assert locate(f"{url}/whole/latest.pt") == path
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate(f"{url}/whole/latest.pt") == path
    assert asked == ["/whole/latest.pt"]
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert locate(f"{url}/whole/other/latest.pt") != path


def test_a_query_is_no_part_of_a_files_name(site: tuple[str, list[str]], own_cache: Path) -> None:
    url, asked = site
    paths = [locate(f"{url}/whole/latest.pt?key={key * 600}") for key in "ab"]
    assert len(set(paths)) == len(asked) == 2
    assert all(path.endswith("-latest.pt") for path in paths)


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/f.pt", "http://127.0.0.1:1/a b.pt", "http:///f.pt"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be fetched: "):
        locate(url)


def test_a_download_that_breaks_off_leaves_nothing(site: tuple[str, list[str]], own_cache: Path) -> None:
    url, asked = site
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"broken/f\.pt broke off: 2560 of 5120 bytes; run it again"):
            locate(f"{url}/broken/f.pt")
        assert list(own_cache.iterdir()) == []
    assert asked == ["/broken/f.pt"] * 2


def test_a_download_without_a_length_that_breaks_off_is_named(site: tuple[str, list[str]], own_cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"chunks/f\.pt"):
        locate(f"{site[0]}/chunks/f.pt")


def test_a_page_that_is_not_there_is_named(site: tuple[str, list[str]], own_cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none/f\.pt cannot be fetched: HTTP Error 404: Not Found; ask Z$"):
        locate(f"{site[0]}/none/f.pt", hint="ask Z")
    assert list(own_cache.iterdir()) == []


def test_a_server_that_is_not_there_is_named(site: tuple[str, list[str]]) -> None:
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1:1/f\.pt cannot be fetched: .*refused"):
        locate("http://127.0.0.1:1/f.pt")


def test_nothing_is_fetched_offline(site: tuple[str, list[str]], own_cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        CheckpointError, match=r"is not in the local cache \(.*f\.pt\) and HF_HUB_OFFLINE is set; ask Z$"
    ):
        locate(f"{site[0]}/whole/f.pt", hint="ask Z")
    assert site[1] == []


# -- reading ---------------------------------------------------------------------------------------------------------

Save = Callable[[dict[str, Any], Path], None]
FORMATS: dict[str, Save] = {
    "safetensors": lambda found, path: save_file(found, path),
    "pt": lambda found, path: torch.save(found, path),
    "old": lambda found, path: torch.save(found, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_and_plain_containers_are_read_back(form: str, tmp_path: Path) -> None:
    plain = {} if form == "safetensors" else {"epoch": 3, "names": ["x"], "rate": 0.5, "nothing": None}
    FORMATS[form](tensors() | plain, tmp_path / f"file.{form}")
    found = read_tensors(str(tmp_path / f"file.{form}"))
    torch.testing.assert_close({key: found.pop(key) for key in tensors()}, tensors(), rtol=0, atol=0)
    assert found == plain


@pytest.mark.parametrize(
    ("form", "lengths"),
    [
        ("safetensors", [0, 1, 7, 8, 50, 100, -100, -1]),
        ("pt", [0, 1, 2, 3, 4, 30, 100, 500, -500, -100, -1]),
        ("old", [0, 1, 18, 28, 155, -40, -1]),
    ],
)
def test_a_truncated_file_is_named(form: str, lengths: list[int], tmp_path: Path) -> None:
    path = tmp_path / f"file.{form}"
    FORMATS[form](tensors(), path)
    content = path.read_bytes()
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=rf"file\.{form} is damaged or truncated: ") as caught:
            read_tensors(str(path))
        assert "\n" not in str(caught.value)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("form", ["pt", "old"])
def test_nothing_in_a_file_is_executed(form: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "executed", tmp_path / "hostile.pt"
    FORMATS[form](tensors() | {"z": Hostile(canary)}, path)
    with pytest.raises(
        MoreThanTensorsError,
        match=r"hostile\.pt holds more than tensors \((posix|nt)\.system\) and is not read; nothing in it was executed",
    ):
        read_tensors(str(path))
    assert not canary.exists()
    # The file does what it says where it is trusted.
    torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_whole_module_holds_more_than_tensors(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "module.pt")
    with pytest.raises(MoreThanTensorsError, match="holds more than tensors"):
        read_tensors(str(tmp_path / "module.pt"))


@pytest.mark.parametrize(("found", "kind"), [([torch.ones(2)], "list"), (torch.ones(2), "Tensor"), (3, "int")])
def test_what_is_no_mapping_is_no_checkpoint(found: Any, kind: str, tmp_path: Path) -> None:
    torch.save(found, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=rf"file\.pt is not a checkpoint: .* found {kind}$"):
        read_tensors(str(tmp_path / "file.pt"))


def test_only_tensors_by_name_pass() -> None:
    assert only_tensors(tensors(), "f").keys() == tensors().keys()
    for wrong, kind in (({"a": torch.ones(1), "n": 3}, "int under 'n'"), ({1: torch.ones(1)}, "Tensor under 1")):
        with pytest.raises(CheckpointError, match=rf"^f: expected tensors by name, found {kind}$"):
            only_tensors(wrong, "f")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"^f: expected tensors by name, found list$"):
        only_tensors([torch.ones(1)], "f")  # type: ignore[arg-type]


# -- loading ---------------------------------------------------------------------------------------------------------


def module(seed: int = 0) -> nn.BatchNorm1d:
    """Five tensors, one of them a count."""
    norm = nn.BatchNorm1d(3)
    torch.manual_seed(seed)
    nn.init.normal_(norm.weight)
    return norm


def refused(found: dict[str, Tensor], match: str, **keys: Any) -> str:
    """The message; and no tensor of the module changed."""
    target = module()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=match) as caught:
        load_strict(target, found, "file.pt", **keys)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    return str(caught.value)


def test_tensors_that_fit_are_loaded() -> None:
    source, target = module(1), module(2)
    load_strict(target, source.state_dict(), "file.pt")
    assert torch.equal(target.weight, source.weight)
    renamed = {f"net.{key}": value for key, value in module(3).state_dict().items()}
    load_strict(target, renamed, "file.pt", rename=lambda key: key.removeprefix("net."))
    assert torch.equal(target.weight, module(3).weight)
    load_strict(target, source.half().state_dict() | {"extra": torch.ones(1)}, "file.pt", ignored=["extra"])
    assert target.weight.dtype == torch.float32
    torch.testing.assert_close(target.weight, source.weight.float())


def test_tensors_that_do_not_fit_are_listed_and_none_is_loaded() -> None:
    good = module(1).state_dict()
    refused({key: good[key] for key in good if key != "bias"}, r"^file\.pt does not fit the model: missing bias$")
    refused(good | {"other": torch.ones(1)}, "unexpected other$")
    refused(good | {"weight": torch.ones(4)}, r"weight has shape \[4\], expected \[3\]$")
    refused(good | {"weight": torch.ones(3, dtype=torch.int64)}, r"weight holds torch\.int64, expected torch\.float32$")
    refused(good | {"num_batches_tracked": torch.tensor(1.5)}, r"tracked holds torch\.float32, expected torch\.int64$")
    twice = {"net.bias": torch.ones(3)}
    refused(good | twice, r"net\.bias and another .* stand for bias$", rename=lambda key: key.removeprefix("net."))
    refused(good | {"extra": torch.ones(1)}, "unexpected extra", ignored=["extras"])
    refused({key: good[key] for key in good if key != "bias"}, "missing bias", ignored=["bias"])
    both = refused({"weight": torch.ones(4), "other": torch.ones(1)}, "missing bias")
    assert both.endswith("unexpected other; weight has shape [4], expected [3]")


def test_more_than_ten_problems_are_counted() -> None:
    good, extra = module(1).state_dict(), [f"x{number}" for number in range(13)]
    eleven = refused(good | {key: torch.ones(1) for key in extra}, "; unexpected x9 and 3 more$")
    assert eleven.count("unexpected") == 10
    refused(good | {key: torch.ones(1) for key in extra[:10]}, "; unexpected x9$")


def test_the_cause_is_said_and_asked_for_only_when_needed() -> None:
    asked = []

    def find_out() -> str:
        asked.append(1)
        return "another size"

    load_strict(module(), module(1).state_dict(), "file.pt", cause=find_out)
    assert not asked
    refused({}, r"^file\.pt does not fit the model \(another size\): missing", cause=find_out)
    assert asked == [1]
    refused({}, r"^file\.pt does not fit the model \(wrong part\): missing", cause="wrong part")
