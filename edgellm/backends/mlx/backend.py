"""The row of MLX in the table of backends."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

from edgellm.backends.base import Accelerator, LoadOptions
from edgellm.backends.mlx.device import accelerators
from edgellm.backends.mlx.library import missing
from edgellm.backends.mlx.model import MLXModel
from edgellm.errors import UsageError

__all__ = ["MLXBackend", "backend"]


class MLXBackend:
    """Runs folders of MLX and of Hugging Face."""

    name = "mlx"

    def missing(self) -> str | None:
        """Say which package is not installed; None if all are."""
        return missing()

    def accelerators(self) -> Sequence[Accelerator]:
        """List the device that it computes on, if that is not the processor."""
        return accelerators()

    @property
    def build(self) -> str:
        """Its versions."""
        return " ".join(importlib.metadata.version(package) for package in ("mlx", "mlx-lm"))

    def refusal(self, path: Path) -> str | None:
        """Say why it cannot run this path; None if it can."""
        if not (path / "config.json").is_file():
            return "reads folders with a config.json and safetensors only"
        return missing()

    def load(self, path: Path, options: LoadOptions, cancelled: Callable[[], bool]) -> MLXModel:
        """Load a folder that has passed the safety check.

        Raises:
            UsageError: an option that MLX has nothing for.
        """
        if options.threads is not None:
            raise UsageError(
                f"MLX takes no number of threads, and {options.threads} are asked for",
                hint="leave --threads (EDGELLM_THREADS) out for this model",
            )
        if options.gpu_layers is not None:
            raise UsageError(
                "MLX computes all layers on one device, and takes no number of GPU layers",
                hint="leave --gpu-layers (EDGELLM_GPU_LAYERS) out for this model",
            )
        return MLXModel(path, cancelled, options.adapters)


backend = MLXBackend()
