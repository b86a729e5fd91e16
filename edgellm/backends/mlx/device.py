"""The device that MLX computes on: Metal, CUDA, or the processor for want of both."""

from __future__ import annotations

import importlib
from typing import Any

from edgellm.backends.base import Accelerator
from edgellm.backends.mlx.library import missing, sentence
from edgellm.errors import BackendError

__all__ = ["accelerators", "on_cpu"]


def on_cpu() -> bool:
    """Tell whether the processor computes.

    Raises:
        BackendError: MLX cannot be loaded.
    """
    core = _core()
    return bool(core.default_device() == core.cpu)


def accelerators() -> tuple[Accelerator, ...]:
    """List the device beside the processor, if there is one; nothing where MLX is not installed.

    Raises:
        BackendError: MLX cannot be loaded.
    """
    if missing() is not None or on_cpu():
        return ()
    core = _core()
    metal = bool(core.metal.is_available())
    facts: dict[str, Any] = core.device_info()
    return (
        Accelerator(
            name="Metal" if metal else "CUDA",
            description=str(facts.get("device_name", "")),
            kind="gpu",
            memory_free=0,  # it does not tell
            memory_total=int(facts.get("memory_size") or facts.get("total_memory") or 0),
            unified=metal,
        ),
    )


def _core() -> Any:
    """Import mlx.core alone, which takes a fiftieth of mlx-lm's time."""
    try:
        return importlib.import_module("mlx.core")
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"MLX cannot be loaded: {sentence(error)}") from error
