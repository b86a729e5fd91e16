"""Matrix products on one core each, while this package's own threads use the others.

numpy's OpenBLAS starts threads of its own for every product. Under several threads that each work
on their rows they only wait for one another, the longer the busier the machine is.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

__all__ = ["one_thread"]

_Get = Callable[[], int]
_Set = Callable[[int], None]

_lock = threading.Lock()
_users = 0
_before = 1


@functools.cache
def _control() -> tuple[_Get, _Set] | None:
    """Find OpenBLAS's own functions; None where numpy uses another library."""
    home = Path(np.__file__).parent
    folders = (home.parent / "numpy.libs", home / ".dylibs")
    for path in (each for folder in folders for each in sorted(folder.glob("*openblas*"))):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            try:
                get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
                put = getattr(library, f"{prefix}openblas_set_num_threads{suffix}")
            except AttributeError:
                continue
            get.restype, get.argtypes = ctypes.c_int, ()
            put.restype, put.argtypes = None, (ctypes.c_int,)
            return get, put
    return None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have every product of matrices computed by the thread that asks for it, until the end.

    It counts for the whole process, and nests.
    """
    global _users, _before
    control = _control()
    if control is None:
        yield
        return
    get, put = control
    with _lock:
        if _users == 0:
            _before = get()
            put(1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                put(_before)
