"""Datasets on the hub: `hf://datasets/OWNER/REPO/PATH[@REVISION]`, as files with sizes and checksums.

With huggingface_hub installed its client fetches (logins, mirrors, its fast transfer); without it the same files come
over plain HTTPS. Either way they are judged by the checksums that the hub itself lists.
"""

import inspect
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jepawm.data.download.public_sources import SourceFile, hub_address, is_below
from jepawm.data.download.transfer import Landed, Progress, download, free_bytes, hash_file, judge
from jepawm.errors import ConfigError, DataError

_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)/([^@]*)(?:@([^@]+))?")


@dataclass(frozen=True)
class HubPath:
    """Address of a file or folder on the hub.

    Attributes:
        repository: `OWNER/REPO` of a dataset.
        path: File or folder in it; a folder ends in `/`, the whole repository is empty.
        revision: Branch, tag or commit.
    """

    repository: str
    path: str
    revision: str = "main"

    @classmethod
    def of(cls, address: str) -> "HubPath":
        """Reads `hf://datasets/OWNER/REPO/PATH[@REVISION]`.

        Raises:
            ConfigError: Anything else.
        """
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise ConfigError(f"'{address}': expected hf://datasets/OWNER/REPO/PATH[@REVISION]")
        return cls(found[1], found[2], found[3] or "main")

    @property
    def address(self) -> str:
        """The `hf://` form."""
        return f"hf://datasets/{self.repository}/{self.path}@{self.revision}"

    @property
    def url(self) -> str:
        """Where the file is served."""
        return f"{hub_address()}/datasets/{self.repository}/resolve/{quote(self.revision, '')}/{quote(self.path)}"


def token() -> str | None:
    """A token for gated repositories: `$HF_TOKEN`."""
    return os.environ.get("HF_TOKEN") or None


def has_client() -> bool:
    """Whether huggingface_hub is installed."""
    return find_spec("huggingface_hub") is not None


def list_folder(file: SourceFile) -> list[SourceFile]:
    """The files below a folder of the hub, with sizes and, where the hub keeps them so, SHA-256.

    Their addresses name the commit, so that they stay what was listed when the repository moves on.

    Raises:
        DataError: No such folder, no access, an unreadable answer, or names that would be written elsewhere.
    """
    where = HubPath.of(file.address)
    commit, entries = _list_with_client(where) if has_client() else _list_plainly(where)
    found = []
    for path, size, sha256 in sorted(entries):
        below = path.removeprefix(where.path)
        target = file.path.removeprefix("./") + below
        if not path.startswith(where.path) or not is_below(target):
            raise DataError(f"{file.address}: the hub lists '{path}', which does not lie there; refused")
        # Empty files and git's own are left out.
        if size and below.split("/")[-1] != ".gitattributes":
            found.append(SourceFile(HubPath(where.repository, path, commit).address, target, size, sha256))
    if not found:
        raise DataError(f"{file.address}: there are no files on {hub_address()}")
    return found


Listing = list[tuple[str, int, str | None]]
"""`(path, bytes, SHA-256)` of each file."""


def _list_with_client(where: HubPath) -> tuple[str, Listing]:
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=hub_address(), token=token())
    with _one_line_errors(where.address):
        commit = api.dataset_info(where.repository, revision=where.revision).sha
        if commit is None:
            raise DataError(f"{where.address}: the hub names no commit")
        folder = where.path.rstrip("/") or None
        tree = api.list_repo_tree(where.repository, folder, recursive=True, revision=commit, repo_type="dataset")
        found: Listing = []
        for item in tree:
            if isinstance(item, huggingface_hub.RepoFile):
                found.append((item.path, item.size, item.lfs.sha256 if item.lfs else None))
        return commit, found


def _list_plainly(where: HubPath) -> tuple[str, Listing]:
    import requests

    root = f"{hub_address()}/api/datasets/{where.repository}"
    headers = {"Authorization": f"Bearer {token()}"} if token() else {}

    def ask(url: str) -> requests.Response:
        answer = requests.get(url, headers=headers, timeout=60)
        if answer.status_code != 200:
            raise DataError(
                f"{where.address}: cannot be listed (HTTP {answer.status_code} {answer.reason}); a gated repository "
                "needs HF_TOKEN"
            )
        return answer

    found: Listing = []
    try:
        commit = str(ask(f"{root}/revision/{quote(where.revision, '')}").json()["sha"])
        below = f"/{quote(where.path.rstrip('/'))}" if where.path else ""
        url: str | None = f"{root}/tree/{commit}{below}?recursive=true"
        while url is not None:
            answer = ask(url)
            for item in answer.json():
                if item["type"] == "file":
                    found.append((str(item["path"]), int(item["size"]), (item.get("lfs") or {}).get("oid")))
            url = answer.links.get("next", {}).get("url")
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where.address}: cannot be listed: {error}") from error
    return commit, found


def fetch_file(
    file: SourceFile,
    path: Path,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Landed:
    """Downloads one file of the hub to a path.

    Raises:
        DataError: Not there, no access, no space, or another file than is listed.
    """
    where = HubPath.of(file.address)
    if not has_client():
        return download(where.url, path, size=file.bytes, sha256=file.sha256, token=token(), progress=progress, say=say)
    import huggingface_hub

    if file.bytes is not None and file.bytes > free_bytes(path.parent):
        raise DataError(
            f"{path.parent}: {file.bytes:,} bytes are needed for {path.name}, {free_bytes(path.parent):,} are free; "
            "choose another place with --dest"
        )
    # The client keeps a partial file below this folder and resumes from it.
    stage = path.with_name(f".{path.name}.hub")
    with _one_line_errors(file.address):
        arrived = Path(
            huggingface_hub.hf_hub_download(
                where.repository,
                where.path,
                repo_type="dataset",
                revision=where.revision,
                local_dir=stage,
                endpoint=hub_address(),
                token=token(),
                **_bars(progress),
            )
        )
    landed = hash_file(arrived)
    try:
        judge(path, landed, file.bytes, file.sha256)
    except DataError as error:
        shutil.rmtree(stage, ignore_errors=True)
        raise type(error)(f"{error} ({file.address}). It was deleted") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(arrived, path)
    shutil.rmtree(stage, ignore_errors=True)
    return landed


def _bars(progress: Progress | None) -> dict[str, Any]:
    """Options that make the client report to our progress instead of drawing its own bars, where its version can."""
    import huggingface_hub
    from tqdm import tqdm  # type: ignore[import-untyped]

    if "tqdm_class" not in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        return {}

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._done, self._of = int(kwargs.get("initial") or 0), kwargs.get("total")
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self._done += int(n or 0)
            if progress is not None:
                progress(self._done, None if self._of is None else int(self._of))
            return None

    return {"tqdm_class": Reporting}


class _one_line_errors:
    """Turns errors of huggingface_hub into a `DataError` of one line."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Its errors derive from OSError or ValueError; those of its HTTP client carry the client's name.
        known = isinstance(error, OSError | ValueError) or type(error).__module__.startswith("httpx")
        if error is not None and known:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.address}: cannot be had: {line}; a gated repository needs HF_TOKEN") from error
