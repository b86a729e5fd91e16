"""What an interrupted quantization leaves behind, so that the next one goes on from it.

A folder in the cache for each job: tensors that are encoded, and small results as JSON. A file has
its name only when it is whole. The folder is removed when the job is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgellm.errors import EdgellmError
from edgellm.settings import cache_dir

__all__ = ["Work", "cache_folder", "job_key"]

STALE_SECONDS = 14 * 24 * 3600
FOLDER = "quantize"
LOCK = "lock"


def job_key(facts: Mapping[str, object]) -> str:
    """Give the name of a job: a hash of everything that its results depend on."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def cache_folder(name: str) -> Path:
    """Make a folder of the cache, and remove what nobody used in it for two weeks."""
    folder = cache_dir() / name
    folder.mkdir(parents=True, exist_ok=True)
    for each in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - each.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(each, ignore_errors=True)
    return folder


class Work:
    """The folder of one job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextlib.contextmanager
    def open(cls, key: str) -> Iterator[Work]:
        """Open the folder of a job, for one process at a time; folders of old jobs are removed.

        Raises:
            EdgellmError: another process works on the same job.
        """
        parent = cache_folder(FOLDER)
        folder = parent / key
        folder.mkdir(exist_ok=True)
        with _locked(folder / LOCK) as free:
            if not free:
                raise EdgellmError(
                    f"{folder}: another process is quantizing the same model in the same way",
                    hint="wait for it, or choose other options",
                )
            os.utime(folder)
            yield cls(folder)

    def path(self, name: str, *facts: object) -> Path:
        """Give the place of a file, named after `name` and hashed facts."""
        if not facts:
            return self.folder / name
        digest = hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()[:24]
        return self.folder / f"{name}-{digest}"

    def read(self, path: Path) -> Any:
        """Read a result; None if there is none."""
        try:
            return json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def write(self, path: Path, value: object) -> None:
        """Write a result as JSON, whole or not at all."""
        with self.writing(path) as temporary:
            temporary.write_text(json.dumps(value, ensure_ascii=False), "utf-8")

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """Give a temporary name, which becomes `path` when the block ends well."""
        temporary = path.with_name(f".{path.name}.partial")
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock that ends with the process; tell whether it was free."""
    with path.open("wb") as file:
        try:
            import fcntl
        except ImportError:  # Windows: nothing keeps two processes apart
            yield True
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
