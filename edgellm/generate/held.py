"""Temporary files that a killed process leaves behind only until the next one looks.

A process holds a lock (flock) on the file that it writes, and the system gives it up when the
process ends, however it ends: what nobody holds can be removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

__all__ = ["TEMPORARIES", "held_temporary", "remove_abandoned"]

TEMPORARIES = ".*.tmp"  # a pattern of all names that `held_temporary` gives


@contextlib.contextmanager
def held_temporary(target: Path) -> Iterator[Path]:
    """Give an empty file beside the target, for its owner alone; it goes unless it is renamed.

    The lock stays on the file under its last name too, until the end of the `with` statement.

    Raises:
        OSError: the file cannot be made.
    """
    path = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not path.exists():  # removed before it was locked
            raise FileNotFoundError(f"{path}: another process removed it")
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)


def remove_abandoned(files: Iterable[Path], still: Callable[[Path], bool] = lambda _: True) -> None:
    """Remove files that nobody holds, if `still` says so when that is known."""
    for file in files:
        with contextlib.suppress(OSError), file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if still(file):
                file.unlink()
