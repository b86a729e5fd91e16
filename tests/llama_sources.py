"""Where llama.cpp's own converter and vocabularies are, for tests that compare with them.

`make test-oracle` unpacks them out of llama-cpp-python's source distribution into the cache; the
variable LLAMA_CPP_SOURCE names another place.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from edgellm import settings

__all__ = ["reference_file", "run_reference", "source_or_skip"]


def _source() -> Path:
    given = os.environ.get("LLAMA_CPP_SOURCE")
    if given:
        return Path(given)
    try:
        installed = version("llama-cpp-python")
    except PackageNotFoundError:
        installed = "none"
    return settings.cache_dir() / "sources" / f"llama.cpp-{installed}"


# Taken before a test is turned away from the person's own folders.
SOURCE = _source()


def source_or_skip() -> Path:
    """Give the folder, or skip a test (or a module that asks while it is imported)."""
    if not (SOURCE / "conversion").is_dir():
        pytest.skip("needs llama.cpp's sources: make test-oracle", allow_module_level=True)
    return SOURCE


def run_reference(folders: Iterable[Path]) -> None:
    """Let llama.cpp's converter write a float32 GGUF file beside each folder."""
    program = Path(__file__).parent / "oracle" / "reference_convert.py"
    command = [sys.executable, str(program), str(SOURCE), *map(str, folders)]
    subprocess.run(command, check=True, capture_output=True, timeout=1200)


def reference_file(folder: Path) -> Path:
    """Give the file that llama.cpp's converter made of a folder, or fail with what it said."""
    error = folder.parent / f"{folder.name}.error"
    if error.exists():
        pytest.fail(f"llama.cpp's converter refuses {folder.name}: {error.read_text()}")
    return folder.parent / f"{folder.name}.gguf"
