"""A web server of this process that serves files well or badly, as it is told, and remembers what it was asked."""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from jepawm.data.download.public_sources import PublicSource, read_manifest

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
OFFLINE = ("JEPAWM_OFFLINE", "HF_HUB_OFFLINE")


def sha(content: bytes) -> str:
    """What a manifest calls SHA-256."""
    return hashlib.sha256(content).hexdigest()


def source_of(*files: dict[str, Any], **more: Any) -> PublicSource:
    """A source as the manifest would give it."""
    item = {
        "name": "toy",
        "about": "a toy",
        "environment": "none",
        "format": None,
        "opens": None,
        "licence": {"name": "MIT", "commercial_use": True, "seen_in": "here"},
        "citation": {"authors": "A", "title": "T", "arxiv": None},
        "homepage": "https://example.org",
        "files": [{"bytes": None, "sha256": None, **file} for file in files],
        **more,
    }
    return read_manifest(json.dumps({"hub": "https://example.org", "sources": [item]}), "toy.yaml")[1][0]


@dataclass
class Served:
    """A file, and how its next requests are answered.

    Attributes:
        content: Its bytes.
        etag: What this version is called, None: not at all.
        ranges: Whether ranges are known.
        checks_if_range: Whether `If-Range` is heeded.
        length: Whether `Content-Length` is sent.
        faults: One for each of the next requests: `("status", 429, {"Retry-After": "3"})`, `("drop", bytes)`,
            `("stall", bytes, event)`, which waits in the middle, or `("swap", content, etag)`, which becomes another
            file and then serves it.
        kind: Content type.
        asked: Headers of every request.
        gate: Waited for before anything is answered.
    """

    content: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    checks_if_range: bool = True
    length: bool = True
    faults: list[tuple[Any, ...]] = field(default_factory=list)
    kind: str = "application/octet-stream"
    asked: list[dict[str, str]] = field(default_factory=list)
    gate: threading.Event | None = None


class Site:
    """The server.

    Attributes:
        url: Where it is.
        files: By path; a value may also be something JSON-able, or `(JSON-able, headers)`.
    """

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def do_GET(self, body: bool = True) -> None:
                found = site.files.get(self.path)
                if found is None:
                    self._send(404, b"nothing", {}, body)
                elif isinstance(found, Served):
                    self._file(found, body)
                else:
                    data, headers = found if isinstance(found, tuple) else (found, {})
                    self._send(200, json.dumps(data).encode(), {"Content-Type": "application/json", **headers}, body)

            def _file(self, file: Served, body: bool) -> None:
                file.asked.append(dict(self.headers))
                fault = file.faults.pop(0) if file.faults else ("none",)
                if file.gate is not None:
                    file.gate.wait(10)
                if fault[0] == "status":
                    self._send(fault[1], b"no", fault[2], body)
                    return
                if fault[0] == "swap":
                    file.content, file.etag = fault[1:]
                headers = {"Content-Type": file.kind, "X-Repo-Commit": "c0ffee", "Accept-Ranges": "bytes"}
                if file.etag is not None:
                    headers["ETag"] = file.etag
                content, status = file.content, 200
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                fits = not file.checks_if_range or self.headers.get("If-Range") in (None, file.etag)
                if wanted and file.ranges and fits:
                    start = int(wanted[1])
                    if start >= len(content):
                        self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"}, body)
                        return
                    headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                    content, status = content[start:], 206
                cut = fault[1] if fault[0] in ("drop", "stall") else None
                self._send(status, content, headers, body, file.length, cut)
                if fault[0] == "stall":
                    self.wfile.flush()
                    fault[2].wait(20)

            def _send(
                self,
                status: int,
                content: bytes,
                headers: dict[str, str],
                body: bool = True,
                length: bool = True,
                drop: int | None = None,
            ) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if length:
                    self.send_header("Content-Length", str(len(content)))
                if not length or drop is not None:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()
                if body:
                    self.wfile.write(content if drop is None else content[:drop])

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                # A client that was killed, or that has seen enough, resets its connection.
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, path: str, content: bytes, **how: Any) -> Served:
        """Serves a file below `/`."""
        self.files[f"/{path}"] = Served(content, **how)
        return self.files[f"/{path}"]


@contextmanager
def serving() -> Iterator[Site]:
    """A running site."""
    site = Site()
    thread = threading.Thread(target=site._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site._server.shutdown()
        site._server.server_close()
        thread.join(5)
