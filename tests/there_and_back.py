"""A tiny checkpoint through both directions, for tests that look at what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgellm_converters.pipeline import convert

__all__ = ["there_and_back"]


def there_and_back(root: Path, write: Callable[[Path], Path]) -> tuple[Path, Path, Path]:
    """Give a checkpoint, the float32 GGUF file made of it, and the folder made of that."""
    folder, gguf, back = write(root / "hf"), root / "model.gguf", root / "back"
    convert(folder, gguf, dtype="f32")
    convert(gguf, back)
    return folder, gguf, back
