"""LoRA adapters: read as PEFT and mlx-lm write them, converted, or merged into their base."""

from __future__ import annotations

from pathlib import Path

from edgellm_converters.adapters import mlx, peft
from edgellm_converters.adapters.files import CONFIG, Adapter
from edgellm_converters.errors import SourceNotFoundError

__all__ = ["Adapter", "is_adapter", "open_adapter"]


def is_adapter(path: Path) -> bool:
    """Tell whether a folder holds an adapter, and no weights of a model beside it."""
    models = ("model.safetensors", "model.safetensors.index.json")
    return (path / CONFIG).is_file() and not any((path / name).exists() for name in models)


def open_adapter(path: Path) -> Adapter:
    """Open a folder that PEFT or mlx-lm wrote; the name of the file of weights tells which.

    Raises:
        SourceNotFoundError: there is no such folder, or no adapter in it.
        ConvertersError: see `open_peft` and `open_mlx`.
    """
    if path.is_file():
        raise SourceNotFoundError(
            f"{path}: this is a file; the folder with {CONFIG} is needed",
            hint=f"give {path.parent}" if (path.parent / CONFIG).exists() else None,
        )
    if not path.exists():
        raise SourceNotFoundError(f"{path}: there is no such folder")
    if not (path / CONFIG).exists():
        raise SourceNotFoundError(f"{path}: there is no {CONFIG} in this folder")
    return mlx.open_mlx(path) if (path / mlx.WEIGHTS).exists() else peft.open_peft(path)
