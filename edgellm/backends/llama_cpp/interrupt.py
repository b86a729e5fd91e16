"""Ctrl-C while native code runs."""

from __future__ import annotations

import signal
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["noted_interrupt"]


@contextmanager
def noted_interrupt() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C instead of raising, and raise KeyboardInterrupt at the end.

    An exception cannot pass through native code: raised inside a callback of it, it would be
    printed and lost. What is given says whether the signal came. Where Python's own handler is not
    in place (the command line has its own), or in another thread, nothing is changed.
    """
    noted = False

    def note(_signal: int, _frame: types.FrameType | None) -> None:
        nonlocal noted
        noted = True

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if noted:
            raise KeyboardInterrupt from None
