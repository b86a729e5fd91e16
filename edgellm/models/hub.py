"""The Hugging Face hub: what a repository holds, and the bytes of its files.

huggingface_hub gives the connection (with the person's token, proxies and certificates), the
endpoint, the offline switch and the place of its cache. Its own download cannot go on after the
process that began it has ended; `download` does that with the ranges which are read here.

What a hub answers is untrusted: sizes and times are bounded, names are looked at before use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgellm.errors import EdgellmError, FetchError, NotFoundError
from edgellm.models.reference import HubReference, is_safe_name

if TYPE_CHECKING:
    import httpx2

__all__ = ["Body", "RemoteFile", "Repository", "TransientError", "describe", "is_offline", "read"]

MAX_LISTING = 16 << 20  # bytes; a repository of 10,000 files takes some 4 MB
MAX_FILES = 100_000
MAX_SIZE = 1 << 46
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: `sha256` of large files, `oid` (git's sha1) of the others."""

    name: str
    size: int
    sha256: str | None
    oid: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit (`revision`); files whose names are not safe are left out."""

    repo: str
    revision: str
    licence: str | None
    gated: bool
    tags: frozenset[str]
    files: tuple[RemoteFile, ...]


class TransientError(FetchError):
    """What may be better in a moment: a connection that breaks, a hub that is busy.

    `wait` is how many seconds the hub asks for, if it does.
    """

    def __init__(self, message: str, *, wait: float = 0.0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Body:
    """An answer: where in the file its bytes begin, and the bytes."""

    start: int
    chunks: Iterator[bytes]


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def describe(reference: HubReference) -> Repository:
    """Ask the hub what a repository holds.

    Raises:
        NotFoundError: there is no such repository or revision, or it is private.
        FetchError: the hub cannot be reached, refuses, or gives an answer that is none.
    """
    from huggingface_hub import constants

    revision = quote(reference.revision or "main", safe="")
    url = f"{constants.ENDPOINT}/api/models/{reference.repo}/revision/{revision}"
    with _get(url, reference.repo, {"params": {"blobs": "true"}}) as response:
        raw = bytearray()
        for chunk in response.iter_bytes():
            raw += chunk
            if len(raw) > MAX_LISTING:
                raise FetchError(f"the listing of {reference.repo} is longer than {MAX_LISTING} B")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    repository = _repository(reference.repo, body) if isinstance(body, dict) else None
    if repository is None:
        raise FetchError(
            f"what {constants.ENDPOINT} says of {reference.repo} is no listing of a hub",
            hint="if HF_ENDPOINT is set, it must name a Hugging Face hub",
        )
    return repository


@contextmanager
def read(repository: Repository, name: str, start: int, stop: int | None = None) -> Iterator[Body]:
    """Read bytes `start` to `stop` of a file; the hub may begin at 0 all the same.

    Raises:
        TransientError: the connection breaks, or the hub is busy; reading the chunks may too.
        NotFoundError, FetchError: as `describe`.
    """
    from huggingface_hub import constants

    path = quote(name, safe="/")
    url = f"{constants.ENDPOINT}/{repository.repo}/resolve/{repository.revision}/{path}"
    headers = {"Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    with _get(url, repository.repo, {"headers": headers}) as response:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise FetchError(f"the hub sends {name} packed, which was not asked for")
        begin = 0
        if response.status_code == 206:
            found = re.match(r"bytes (\d{1,15})-", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise FetchError(f"the hub sends another part of {name} than it was asked for")
            begin = start
        # as they come: pieces of a given size would be gathered first, and lost with a broken line
        yield Body(begin, response.iter_raw())


@contextmanager
def _get(url: str, repo: str, options: dict[str, Any]) -> Iterator[httpx2.Response]:
    """Ask, and turn what goes wrong, also while the answer is read, into our errors."""
    import httpx2
    from huggingface_hub import constants, get_session, get_token
    from huggingface_hub.errors import OfflineModeIsEnabled

    headers = {"User-Agent": "edgellm", **options.pop("headers", {})}
    if token := get_token():
        # httpx2 takes it away where a redirect leads to another host.
        headers["Authorization"] = f"Bearer {token}"
    try:
        with get_session().stream(
            "GET",
            url,
            headers=headers,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            follow_redirects=True,
            **options,
        ) as response:
            if response.status_code not in (200, 206):
                raise _refusal(response, repo)
            yield response
    except EdgellmError:
        raise
    except OfflineModeIsEnabled:
        raise FetchError(
            f"{repo} is not here, and HF_HUB_OFFLINE forbids asking the hub",
            hint="unset HF_HUB_OFFLINE, or pull it on another machine and bring the file",
        ) from None
    except httpx2.TooManyRedirects:
        raise FetchError(f"the hub leads in circles for {repo}") from None
    except httpx2.TimeoutException:
        raise TransientError(
            f"the hub did not answer in {constants.HF_HUB_DOWNLOAD_TIMEOUT} s, for {repo}",
            hint="HF_HUB_DOWNLOAD_TIMEOUT sets the seconds; what came is kept: pull again",
        ) from None
    except (httpx2.TransportError, httpx2.StreamError) as error:
        reason = str(error)[:200] or type(error).__name__
        raise TransientError(
            f"the connection to the hub failed for {repo}: {reason}",
            hint="what came is kept: pull again when there is a network",
        ) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise FetchError(f"the hub could not be asked for {repo}: {str(error)[:200]}") from None


def _refusal(response: httpx2.Response, repo: str) -> EdgellmError:
    """Say what a status means, with the code that the hub puts beside it."""
    from huggingface_hub import constants, get_token

    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    if code == "GatedRepo" or status == 403:
        return FetchError(
            f"{repo} is gated: its owner wants terms to be accepted first (HTTP {status})",
            hint=f"accept them at {constants.ENDPOINT}/{repo}, then set HF_TOKEN to your token",
        )
    if code == "RevisionNotFound":
        return NotFoundError(f"{repo} has no such revision")
    if code == "EntryNotFound":
        return NotFoundError(f"{repo} has no such file any more", hint="pull again")
    if status in (401, 404):
        known = get_token() is not None
        hint = "check the name" + ("" if known else "; a private one needs HF_TOKEN")
        return NotFoundError(f"there is no model {repo} on the hub, or it is private", hint=hint)
    if status == 429:
        return TransientError(
            f"the hub has had too many requests (HTTP 429), for {repo}",
            wait=_seconds(response.headers.get("Retry-After", "")),
            hint="wait a few minutes; with HF_TOKEN set more is allowed",
        )
    if status in (408, 500, 502, 503, 504):
        return TransientError(f"the hub failed for {repo} (HTTP {status})", hint="pull again later")
    return FetchError(f"the hub refuses {repo} (HTTP {status})")


def _seconds(text: str) -> float:
    return float(min(int(text), 60)) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0


def _repository(repo: str, body: dict[str, Any]) -> Repository | None:
    revision, siblings = body.get("sha"), body.get("siblings")
    if not isinstance(revision, str) or not _COMMIT.fullmatch(revision):
        return None
    if not isinstance(siblings, list) or len(siblings) > MAX_FILES:
        return None
    tags = [tag for tag in _list(body.get("tags")) if isinstance(tag, str)]
    files = [file for file in map(_file, siblings) if file is not None]
    canonical = body.get("id")
    if isinstance(canonical, str) and canonical.lower() == repo.lower():
        repo = canonical  # as its owner writes it
    return Repository(
        repo=repo,
        revision=revision,
        licence=_licence(body.get("cardData"), tags),
        gated=bool(body.get("gated")),
        tags=frozenset(tags),
        files=tuple(files),
    )


def _file(value: object) -> RemoteFile | None:
    """Read an entry of the listing; None for one that is malformed or whose name is not safe."""
    if not isinstance(value, dict):
        return None
    name, size, lfs, oid = (value.get(key) for key in ("rfilename", "size", "lfs", "blobId"))
    if not isinstance(name, str) or not is_safe_name(name):
        return None
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        return None
    sha256 = lfs.get("sha256", lfs.get("oid")) if isinstance(lfs, dict) else None
    if isinstance(sha256, str) and _SHA256.fullmatch(sha256):
        return RemoteFile(name, size, sha256, None)
    if isinstance(oid, str) and _COMMIT.fullmatch(oid):
        return RemoteFile(name, size, None, oid)
    return None


def _licence(card: object, tags: list[str]) -> str | None:
    if isinstance(card, dict):
        for key in ("license_name", "license"):
            value = card.get(key)
            if isinstance(value, str) and value.strip():
                return " ".join(value[:200].split())
    return next((tag[8:208] for tag in tags if tag.startswith("license:")), None)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
