"""Ctrl-C while native code runs."""

from __future__ import annotations

import signal
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["abortable", "noted_interrupt"]


# What else ends a program; a handler that raises would raise inside native code.
ENDING = ("SIGTERM", "SIGHUP")


@contextmanager
def noted_interrupt() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C instead of raising, and raise KeyboardInterrupt at the end.

    An exception cannot pass through native code: raised inside a callback of it, it would be
    printed and lost. What is given says whether the signal came. Where another handler than
    Python's own is in place (a chat has its own), or in another thread, nothing is changed.
    Handlers of SIGTERM and SIGHUP wait until the end as well.
    """
    noted: list[int] = []
    handlers: dict[int, Any] = {}

    def note(number: int, _frame: types.FrameType | None) -> None:
        noted.append(number)

    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers[signal.SIGINT] = signal.default_int_handler
        for name in ENDING:
            number = getattr(signal, name, None)  # no HUP on Windows
            if number is not None and callable(handler := signal.getsignal(number)):
                handlers[number] = handler
    for number in handlers:
        signal.signal(number, note)
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if noted:
            handlers[noted[0]](noted[0], None)


@contextmanager
def abortable(
    native: Any, context: Any, cancelled: Callable[[], bool]
) -> Iterator[Callable[[], bool]]:
    """Let `cancelled` and Ctrl-C stop the evaluation of tokens within one graph node.

    What is given says whether either asked for it. The callback runs Python for each node, which
    is nothing beside a batch of tokens and too much beside a single one.
    """
    with noted_interrupt() as interrupted:

        def stopped() -> bool:
            return interrupted() or cancelled()

        # The library holds a bare pointer to it: this frame keeps it alive as long as it is set.
        callback = native.ggml_abort_callback(lambda _data: stopped())
        native.llama_set_abort_callback(context, callback, None)
        try:
            yield stopped
        finally:
            native.llama_set_abort_callback(context, native.ggml_abort_callback(), None)
