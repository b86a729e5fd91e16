"""LoRA adapters of PEFT, mlx-lm and llama.cpp: read, converted, or merged into their base."""

from __future__ import annotations

from pathlib import Path

from edgellm_converters.adapters import gguf, mlx, peft
from edgellm_converters.adapters.files import CONFIG, Adapter
from edgellm_converters.checkpoints.gguf_adapter import ADAPTER, TYPE
from edgellm_converters.checkpoints.gguf_header import read_header
from edgellm_converters.errors import ConvertersError, SourceNotFoundError

__all__ = ["Adapter", "is_adapter", "open_adapter"]


def is_adapter(path: Path) -> bool:
    """Tell whether a folder holds an adapter, and no weights of a model beside it; or a GGUF file.

    A file that is not a sound one of GGUF is no adapter.
    """
    if path.is_file():
        try:
            return read_header(path).metadata.get(TYPE) == ADAPTER
        except ConvertersError:
            return False
    models = ("model.safetensors", "model.safetensors.index.json")
    return (path / CONFIG).is_file() and not any((path / name).exists() for name in models)


def open_adapter(path: Path) -> Adapter:
    """Open a GGUF file, or a folder that PEFT or mlx-lm wrote: its file of weights tells which.

    Raises:
        SourceNotFoundError: there is no such file or folder, or no adapter in it.
        ConvertersError: see `open_gguf`, `open_peft` and `open_mlx`.
    """
    if path.is_file():
        if (path.parent / CONFIG).exists() and not is_adapter(path):
            raise SourceNotFoundError(
                f"{path}: this is a file; the folder with {CONFIG} is needed",
                hint=f"give {path.parent}",
            )
        return gguf.open_gguf(path)
    if not path.exists():
        raise SourceNotFoundError(f"{path}: there is no such file or folder")
    if not (path / CONFIG).exists():
        raise SourceNotFoundError(f"{path}: there is no {CONFIG} in this folder")
    return mlx.open_mlx(path) if (path / mlx.WEIGHTS).exists() else peft.open_peft(path)
