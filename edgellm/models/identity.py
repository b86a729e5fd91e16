"""Telling in a moment whether a model's files are those that something was computed with."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

__all__ = ["model_identity"]

HEAD = 2**20  # bytes: names, shapes and settings stand at the beginning of every format
SAMPLE = 4096
SAMPLES = 64
MAX_FILES = 1000


def model_identity(path: Path) -> str:
    """Give a digest of a model's file, or of the files of its folder.

    Reading gigabytes at every start would take longer than what they are read for. The digest is
    therefore of each file's name, size and time of change, its first megabyte, and 64 pieces of
    4 KiB spread over the rest: a file that is written anew has another time, and another model of
    the same size and time has other weights in nearly every piece.

    Raises:
        OSError: a file cannot be read, or there are more than any model has.
    """
    # A store may be a folder of links: what they lead to counts.
    files = [path]
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if entry.is_file())
        if len(files) > MAX_FILES:
            raise OSError(f"{path}: a folder of {len(files)} files")
    digest = hashlib.sha256()
    for file in files:
        name = file.name if file != path else ""
        with file.open("rb", buffering=0) as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{file}: not a file")
            size = found.st_size
            digest.update(f"{len(name)}:{name}:{size}:{found.st_mtime_ns}:".encode())
            digest.update(os.pread(opened.fileno(), HEAD, 0))
            step = max((size - HEAD) // SAMPLES, SAMPLE)
            for at in range(HEAD, size, step):
                digest.update(os.pread(opened.fileno(), SAMPLE, at))
    return digest.hexdigest()
