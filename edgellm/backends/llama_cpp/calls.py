"""llama.cpp's calls that can fail, each with the reason that its log gives."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgellm.backends.base import CancelledError
from edgellm.backends.llama_cpp.interrupt import noted_interrupt
from edgellm.backends.llama_cpp.library import library, log, quiet
from edgellm.errors import BackendError, DoesNotFitError

__all__ = ["check_evaluated", "load_model", "make_context", "marked_batch"]

UNKNOWN = "llama.cpp gave no reason"


def load_model(path: Path, params: Any, cancelled: Callable[[], bool]) -> Any:
    """Load a file that has passed the safety check; gives llama.cpp's handle.

    Raises:
        CancelledError, KeyboardInterrupt: it was stopped.
        BackendError: llama.cpp cannot load it.
    """
    native = library()
    quiet()
    log.clear()
    handle: Any = None
    try:
        with noted_interrupt() as interrupted:
            progress = native.llama_progress_callback(
                lambda _part, _data: not (interrupted() or cancelled())
            )
            params.progress_callback = progress
            handle = native.llama_model_load_from_file(bytes(path), params)
    except BaseException:
        if handle:
            native.llama_model_free(handle)
        raise
    if not handle:
        if cancelled():
            raise CancelledError
        raise BackendError(f"{path}: llama.cpp cannot load it: {log.reason() or UNKNOWN}")
    return handle


def make_context(
    path: Path, handle: Any, params: Any, size: int, hint: str = "a smaller context needs less"
) -> Any:
    """Make a context for `size` tokens; gives llama.cpp's handle.

    Raises:
        DoesNotFitError: there is not enough memory.
        BackendError: it fails otherwise.
    """
    quiet()
    log.clear()
    context = library().llama_init_from_model(handle, params)
    if not context:
        reason = log.reason() or UNKNOWN
        kind = DoesNotFitError if "alloc" in reason else BackendError
        raise kind(f"{path}: a context of {size} tokens cannot be made: {reason}", hint=hint)
    return context


def marked_batch(tokens: Sequence[int], outputs: Sequence[bool]) -> Any:
    """Make a batch whose tokens say whether logits are wanted after them."""
    native, count = library(), len(tokens)
    array = (ctypes.c_int32 * count)(*tokens)
    flags = (ctypes.c_int8 * count)(*map(int, outputs))
    batch = native.llama_batch_get_one(array, count)
    batch.logits = ctypes.cast(flags, ctypes.POINTER(ctypes.c_int8))
    batch.kept_alive = array, flags  # the struct holds bare pointers to them
    return batch


def check_evaluated(path: Path, status: int) -> None:
    """Refuse a status of llama_decode or llama_encode that is not 0.

    Raises:
        BackendError: with the reason.
    """
    if status:
        why = log.reason() or f"it gave {status}"
        raise BackendError(f"{path}: evaluating tokens failed: {why}")
