"""One file from the hub onto the disk: resumed where it stopped, and whole or not at all.

What has come lies in `NAME.partial`, and takes its name when its hash is what the hub says. A
process that is killed leaves the partial file, and the next one goes on from its end.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

from edgellm.errors import FetchError
from edgellm.models.hub import RemoteFile, Repository, TransientError, read

__all__ = [
    "Progress",
    "download",
    "download_beginning",
    "hash_file",
    "link_or_copy",
    "partial_of",
    "partial_path",
    "sha256_of",
]

# (what is going on, bytes done, bytes in all or 0 where nobody knows)
Progress = Callable[[str, int, int], None]

PARTIAL = ".partial"
CHUNK = 1 << 20
# Seconds before each further attempt. They count from the start again once so many bytes came.
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0)
ENOUGH = 64 << 10


class _Hash:
    """sha256 of bytes, and git's sha1 of them where that is what the hub tells."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        # git hashes "blob SIZE\0" before a file's bytes
        start = b"blob %d\0" % file.size
        self._sha1 = hashlib.sha1(start, usedforsecurity=False) if file.oid else None

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._sha1 is not None:
            self._sha1.update(data)

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def found(self) -> str:
        """Give what has to be equal to `wanted`."""
        return self.sha256() if self._sha1 is None else self._sha1.hexdigest()

    @property
    def wanted(self) -> str | None:
        return self._file.sha256 or self._file.oid

    @property
    def holds(self) -> bool:
        return self.wanted is None or self.found() == self.wanted


def download(repository: Repository, file: RemoteFile, target: Path, report: Progress) -> str:
    """Bring a file to `target`, and give its sha256.

    Raises:
        FetchError: it does not come whole, or its bytes are not what the listing says; what came
            is kept in the first case and removed in the second.
        NotFoundError: the hub has it no more.
        OSError: the disk is full, or may not be written.
    """
    partial = partial_path(target)
    resumed = partial.exists()
    digest = _receive(repository, file, partial, file.size, report)
    if not digest.holds and resumed:
        # The end of what lay there may have been lost with the power: once from the start.
        partial.unlink()
        digest = _receive(repository, file, partial, file.size, report)
    if not digest.holds:
        partial.unlink()
        kind = "sha256" if file.sha256 else "git hash"
        raise FetchError(
            f"what came for {file.name} of {repository.repo} has the {kind} {digest.found()}, "
            f"not {digest.wanted}; it was thrown away",
            hint="pull again; if that does not help, something between here and the hub is wrong",
        )
    partial.replace(target)
    return digest.sha256()


def download_beginning(
    repository: Repository, file: RemoteFile, target: Path, count: int, report: Progress
) -> Path:
    """Bring at least the first `count` bytes (or all) into the partial file of `target`.

    Raises: as `download`.
    """
    partial = partial_path(target)
    _receive(repository, file, partial, min(count, file.size), report)
    return partial


def hash_file(path: Path, file: RemoteFile, what: str, report: Progress) -> str | None:
    """Give the sha256 of a file that is here if it is what the hub lists, and None if not."""
    digest = _Hash(file)
    with path.open("rb") as source:
        if os.fstat(source.fileno()).st_size != file.size:
            return None
        _hash_rest(source, digest, what, file.size, report)
    return digest.sha256() if digest.holds else None


def sha256_of(path: Path, what: str, report: Progress) -> str:
    """Hash a file, telling how far it is."""
    digest = hashlib.sha256()
    done, total = 0, path.stat().st_size
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(what, done, total)
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name (a hard link); a copy where the file system has none."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        partial = partial_path(target)
        with source.open("rb") as whence, partial.open("wb") as out:
            shutil.copyfileobj(whence, out, CHUNK)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(target)


def partial_path(target: Path) -> Path:
    """Name the file that holds what has come of `target`."""
    return target.with_name(target.name + PARTIAL)


def partial_of(path: Path, targets: Collection[Path]) -> Path | None:
    """Give that of the targets whose partial file `path` is."""
    target = path.with_name(path.name.removesuffix(PARTIAL))
    return target if target != path and target in targets else None


def _receive(
    repository: Repository, file: RemoteFile, partial: Path, until: int, report: Progress
) -> _Hash:
    """Fill the partial file up to `until` bytes and give the hash of what is in it."""
    what = f"pulling {file.name}"
    with partial.open("a+b") as out:
        done = out.seek(0, os.SEEK_END)
        if done > file.size:
            out.truncate(0)
            done = 0
        digest = _Hash(file)
        out.seek(0)
        _hash_rest(out, digest, f"checking {file.name}", file.size, report)
        tries = 0
        while done < until:
            before = done
            try:
                with read(
                    repository, file.name, done, None if until == file.size else until
                ) as body:
                    if body.start != done:  # the hub does not do ranges: all of it again
                        out.truncate(0)
                        done = before = 0
                        digest = _Hash(file)
                    for chunk in body.chunks:
                        if done + len(chunk) > file.size:
                            raise FetchError(
                                f"the hub sends more of {file.name} than the {file.size} bytes "
                                "that it lists"
                            )
                        out.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
                        report(what, done, file.size)
                        if done >= until:
                            break
                if done < until:
                    raise TransientError(
                        f"the hub ended {file.name} at {done} of {file.size} bytes",
                        hint="what came is kept: pull again",
                    )
            except TransientError as error:
                out.flush()
                if done - before >= ENOUGH:
                    tries = 0
                if tries == len(WAITS):
                    raise
                time.sleep(max(WAITS[tries], error.wait))
                tries += 1
        out.flush()
        os.fsync(out.fileno())
    return digest


def _hash_rest(source: BinaryIO, digest: _Hash, what: str, total: int, report: Progress) -> None:
    done = 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        done += len(chunk)
        report(what, done, total)
