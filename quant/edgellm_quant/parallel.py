"""Work on rows, a cache-sized piece at a time, on several cores.

It pays where the work gives up the interpreter lock, as C calls through ctypes and numpy's
functions on large arrays do.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

__all__ = ["default_threads", "for_each_chunk"]

# Values a thread takes at a time: enough to hide the cost of a call from Python, few enough to
# stay in a core's cache and to share the work evenly.
_MIN_CHUNK = 2**15
_MAX_CHUNK = 2**18


def default_threads() -> int:
    """Give the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_each_chunk(
    rows: int,
    columns: int,
    threads: int | None,
    work: Callable[[int, int], None],
    step: int | None = None,
) -> None:
    """Call `work(start, stop)` for every piece of the rows, on several cores.

    The calling thread works too, and threads that help are kept for the next call: a call for a
    few megabytes takes milliseconds, as long as starting threads does. A piece has `step` rows,
    or as many as fit into a core's cache.
    """
    if threads is None:
        threads = default_threads()
    if step is None:
        share = rows * columns // (4 * max(1, threads))
        step = max(1, min(max(share, _MIN_CHUNK), _MAX_CHUNK) // columns)
    size = step  # of a type that is not optional any more
    starts = iter(range(0, rows, size))
    lock = threading.Lock()
    failed = threading.Event()

    def take_pieces() -> None:
        while not failed.is_set():
            with lock:
                start = next(starts, None)
            if start is None:
                return
            try:
                work(start, min(start + size, rows))
            except BaseException:
                failed.set()
                raise

    helpers = min(threads, -(-rows // size)) - 1
    if helpers <= 0:
        take_pieces()
        return
    helping = [_pool(threads - 1).submit(take_pieces) for _ in range(helpers)]
    try:
        take_pieces()
    finally:
        # One that has not begun is not needed any more.
        running = [future for future in helping if not future.cancel()]
        wait(running)
    for future in running:
        future.result()


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="edgellm-quant")


if hasattr(os, "register_at_fork"):
    # A child process has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
