"""The files below a folder, and what tells whether one is as it was."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import NotFoundError

__all__ = ["FoundFile", "Problem", "digest_of", "find_files", "real_path"]

RACE_NS = 2_000_000_000  # a file that is younger may change again without another time
# Folders of programs, which nobody wrote to be read.
LEFT_OUT = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that is not in the library, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file with its size in bytes and the time of its last change, see `Source`."""

    path: str
    size: int
    mtime_ns: int


def real_path(path: Path) -> Path:
    """Give a path without links, so that a file has one name."""
    try:
        return path.expanduser().resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        raise NotFoundError(f"no file or folder {path}") from None


def find_files(root: Path, skipped: list[Problem]) -> Iterator[FoundFile]:
    """Find the regular files below a folder, or the file itself.

    What is hidden is left out without a word, as every program does; links to files are followed
    where they stay in the folder, links to folders never (what is in the folder is found anyway).
    """
    if not root.is_dir():
        facts = root.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise NotFoundError(f"{root} is no regular file")
        yield FoundFile(str(root), facts.st_size, facts.st_mtime_ns)
        return

    def refused(error: OSError) -> None:
        skipped.append(Problem(str(error.filename), error.strerror or str(error)))

    for folder, folders, names in os.walk(root, onerror=refused):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in LEFT_OUT
        )
        for name in sorted(names):
            if name.startswith(".") or name.endswith("~"):
                continue
            path = os.path.join(folder, name)  # noqa: PTH118  ten thousands of them
            try:
                facts = os.lstat(path)
                path.encode()
            except OSError as error:
                refused(error)
                continue
            except UnicodeEncodeError:
                skipped.append(Problem(ascii(path), "its name is not UTF-8"))
                continue
            if stat.S_ISLNK(facts.st_mode):
                if not Path(os.path.realpath(path)).is_relative_to(root):
                    skipped.append(Problem(path, "is a link out of the folder"))
                continue
            if stat.S_ISREG(facts.st_mode):
                yield FoundFile(path, facts.st_size, facts.st_mtime_ns)


def digest_of(file: FoundFile) -> tuple[FoundFile, bytes]:
    """Give a file's size, time and sha256; a time so young that it may not tell is negative."""
    with Path(file.path).open("rb") as opened:
        facts = os.fstat(opened.fileno())
        digest = hashlib.file_digest(opened, "sha256").digest()
    young = time.time_ns() - facts.st_mtime_ns < RACE_NS
    changed = -facts.st_mtime_ns if young else facts.st_mtime_ns
    return FoundFile(file.path, facts.st_size, changed), digest
