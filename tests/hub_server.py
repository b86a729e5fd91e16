"""A Hugging Face hub on loopback, with the faults that a test asks for.

It speaks the two endpoints that edgellm uses, in the form that the real hub gives them:
`GET /api/models/USER/REPO/revision/REV?blobs=true` and `GET /USER/REPO/resolve/REV/FILE` with
ranges. Large files are redirected to another path, as the real one does to its storage.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_oid(data: bytes) -> str:
    """git's name of a file: sha1 of "blob SIZE\\0" and its bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """A repository; `lfs` says which files are large ones, `entries` replaces the listing."""

    files: dict[str, bytes]
    tags: list[str] = field(default_factory=list)
    card: dict[str, Any] | None = field(default_factory=lambda: {"license": "apache-2.0"})
    gated: Any = False
    commit: str = COMMIT
    entries: list[Any] | None = None

    def listing(self) -> list[Any]:
        if self.entries is not None:
            return self.entries
        return [entry(name, data) for name, data in self.files.items()]


@lru_cache(maxsize=64)
def digests(data: bytes) -> tuple[str, str]:
    """sha256 and git's name; hashing megabytes for every request would make the hub slow."""
    return hashlib.sha256(data).hexdigest(), git_oid(data)


def entry(name: str, data: bytes) -> dict[str, Any]:
    """Describe a file as the hub does; everything but text is a large file there."""
    digest, oid = digests(data)
    found: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": oid}
    if not name.endswith((".json", ".md", ".txt", ".jinja")):
        found["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 135}
    return found


@dataclass
class Request:
    """What was asked for: the path without query, the Range, and the token."""

    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """The server's state, which a test may change at any time.

    Attributes:
        cut_after: the connection breaks after so many bytes of a body, for the first `cuts`
            answers; -1 for all.
        pause: seconds between two pieces of a body of 64 KiB.
        status: answer every request for a file so, for the first `failures`; -1 for all.
        corrupt: flip a bit at this byte of every file.
        ranges: whether Range is honoured.
        redirect: "storage" as the real hub, "loop", or an address of another host.
    """

    address: str
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cut_after: int = 0
    cuts: int = 0
    pause: float = 0.0
    status: int = 200
    failures: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    corrupt: int | None = None
    ranges: bool = True
    redirect: str = "storage"
    api_body: bytes | None = None
    api_status: int = 200
    token: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def file_requests(self) -> list[Request]:
        """The requests for bytes of files, without those that were only led elsewhere."""
        return [each for each in self.requests if each.path.startswith("/storage/")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        """huggingface_hub asks so for a file's hash and size; edgellm does not."""
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization")
        hub.requests.append(Request(path, self.headers.get("Range"), token))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/(storage/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            self.api(api[1], api[2])
        elif file:
            self.file(file[2], file[3], file[4], redirected=bool(file[1]))
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def allowed(self, name: str) -> Repo | None:
        """Find a repository, or refuse as the hub does."""
        hub = self.hub
        found = next((r for n, r in hub.repos.items() if n.casefold() == name.casefold()), None)
        if found is None:
            self.answer(401, b"Invalid username or password.", {"X-Error-Code": "RepoNotFound"})
            return None
        storage = self.path.startswith("/storage/")
        if hub.token and not storage and self.headers.get("Authorization") != f"Bearer {hub.token}":
            code = "GatedRepo" if found.gated else "RepoNotFound"
            self.answer(403 if found.gated else 404, b"", {"X-Error-Code": code})
            return None
        return found

    def api(self, name: str, revision: str) -> None:
        hub = self.hub
        if hub.api_status != 200:
            self.answer(hub.api_status, b"", hub.headers)
            return
        if hub.api_body is not None:
            self.answer(200, hub.api_body)
            return
        repo = self.allowed(name)
        if repo is None:
            return
        if revision not in ("main", repo.commit):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        real = next(n for n in hub.repos if n.casefold() == name.casefold())
        assert parse_qs(urlsplit(self.path).query).get("blobs") == ["true"]
        body = {
            "id": real,
            "sha": repo.commit,
            "gated": repo.gated,
            "tags": repo.tags,
            "cardData": repo.card,
            "siblings": repo.listing(),
        }
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def file(self, name: str, revision: str, file: str, *, redirected: bool) -> None:
        hub = self.hub
        repo = self.allowed(name)
        if repo is None:
            return
        data = repo.files.get(file)
        if data is None or revision not in ("main", repo.commit):
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        listed = entry(file, data)
        etag = listed.get("lfs", {}).get("sha256", listed["blobId"])
        if not redirected:
            target = f"/storage{quote(f'/{name}/resolve/{revision}/{file}')}"
            if hub.redirect == "loop":
                target = self.path
            elif hub.redirect.startswith("http"):
                target = hub.redirect + target
            facts = {"X-Repo-Commit": repo.commit, "Location": target}
            facts |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{etag}"'}
            self.answer(302, b"", facts)
            return
        if hub.failures:
            hub.failures -= 1
            self.answer(hub.status, b"", hub.headers)
            return
        if hub.corrupt is not None:
            at = hub.corrupt
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        self.body(data, {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"'})

    def body(self, data: bytes, extra: dict[str, str]) -> None:
        hub = self.hub
        start, status = 0, 200
        stop = len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and hub.ranges:
            start = int(asked[1])
            stop = min(stop, int(asked[2]) + 1) if asked[2] else stop
            if start >= len(data):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            extra["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        for key, value in extra.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        piece, left = 64 << 10, stop - start
        if hub.cuts and hub.cut_after < left:
            hub.cuts -= 1
            left = hub.cut_after
            self.close_connection = True
        with suppress(ConnectionError):
            for at in range(start, start + left, piece):
                self.wfile.write(data[at : min(at + piece, start + left)])
                if hub.pause and hub.stop.wait(hub.pause):
                    break
        if self.close_connection:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is what the tests are about."""


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port of loopback."""
    handler = type("HubHandler", (Handler,), {})
    server = Server(("127.0.0.1", 0), handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    handler.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
