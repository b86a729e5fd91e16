"""The kinds of source behind one face: what is planned and written is asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.errors import SourceNotFoundError
from edgellm_converters.sources.base import Files, Plan, Source
from edgellm_converters.sources.folder import FolderSource
from edgellm_converters.sources.gguf import GGUFSource

__all__ = ["Files", "FolderSource", "GGUFSource", "Plan", "Source", "open_source"]


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a GGUF file, or a folder of Hugging Face or MLX, and check its headers.

    Raises:
        ConvertersError: see its subclasses.
    """
    if path.is_dir():
        yield FolderSource(path)
        return
    if path.suffix == ".safetensors" or path.name == "config.json":
        raise SourceNotFoundError(
            f"{path}: a single file of a checkpoint; its folder is needed",
            hint=f"give {path.parent}",
        )
    with GGUFCheckpoint(path) as checkpoint:
        yield GGUFSource(checkpoint)
