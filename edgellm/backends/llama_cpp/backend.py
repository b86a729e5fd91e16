"""The row of llama.cpp in the table of backends."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

from edgellm.backends.base import Accelerator, LoadOptions
from edgellm.backends.llama_cpp.build import accelerators
from edgellm.backends.llama_cpp.library import library, missing
from edgellm.backends.llama_cpp.model import LlamaCppModel

__all__ = ["LlamaCppBackend", "backend"]


class LlamaCppBackend:
    """Runs GGUF files."""

    name = "llama_cpp"

    def missing(self) -> str | None:
        """Say why its library cannot be used; None if its package is installed."""
        return missing()

    def accelerators(self) -> Sequence[Accelerator]:
        """List the devices that layers can be put on."""
        return accelerators()

    @property
    def build(self) -> str:
        """Its versions, and what it was built for."""
        native = library()
        version, system = native.llama_version(), native.llama_print_system_info()
        package = importlib.metadata.version("llama_cpp_python")
        return f"{package} {version.decode()} {native.LLAMA_SESSION_VERSION} {system.decode()}"

    def refusal(self, path: Path) -> str | None:
        """Say why it cannot run this file; None if it can."""
        if not path.is_file():
            return "reads GGUF files only"
        return missing()

    def load(
        self, path: Path, options: LoadOptions, cancelled: Callable[[], bool]
    ) -> LlamaCppModel:
        """Load a model file that has passed the safety check."""
        return LlamaCppModel(path, options, cancelled)


backend = LlamaCppBackend()
