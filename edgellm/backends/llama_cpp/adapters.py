"""LoRA adapters in llama.cpp: loaded beside a model, and put to use in its contexts."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgellm.backends.llama_cpp.library import library, log, quiet
from edgellm.errors import BackendError

__all__ = ["load_adapter", "use_adapters"]


def load_adapter(path: Path, model: Path, handle: Any) -> Any:
    """Load an adapter that has passed the check; gives llama.cpp's handle, which the model frees.

    Contexts of the model must be made after it: their graphs have room for what is loaded then.

    Raises:
        BackendError: llama.cpp cannot use it with this model.
    """
    quiet()
    log.clear()
    adapter = library().llama_adapter_lora_init(handle, bytes(path))
    if not adapter:
        raise BackendError(
            f"{path}: llama.cpp cannot use the adapter with {model}: "
            f"{log.reason() or 'it gave no reason'}"
        )
    return adapter


def use_adapters(context: Any, adapters: Sequence[Any], scales: Sequence[float]) -> None:
    """Let a context use adapters; those of the scale 0 are left out of its graph."""
    native = library()
    used = [pair for pair in zip(adapters, scales, strict=True) if pair[1]]
    handles = (native.llama_adapter_lora_p_ctypes * max(1, len(used)))(*(one for one, _ in used))
    numbers = (ctypes.c_float * max(1, len(used)))(*(scale for _, scale in used))
    native.llama_set_adapters_lora(context, handles, len(used), numbers)
