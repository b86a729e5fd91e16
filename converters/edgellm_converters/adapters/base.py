"""The base model of an adapter, as far as its names and shapes go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgellm_converters.architectures import Architecture, Decoder
from edgellm_converters.architectures.base import TensorRule
from edgellm_converters.sources import open_source

__all__ = ["BaseModel", "open_base"]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """An architecture with its sizes; `path` is where they were read."""

    path: Path
    architecture: Architecture
    decoder: Decoder

    def rules(self) -> list[TensorRule]:
        """Give the rules of all tensors."""
        return self.architecture.rules(self.decoder)


def open_base(path: Path) -> BaseModel:
    """Read what a checkpoint says of its architecture.

    Raises:
        ConvertersError: see `open_source`.
    """
    with open_source(path) as source:
        return BaseModel(path, *source.model())
