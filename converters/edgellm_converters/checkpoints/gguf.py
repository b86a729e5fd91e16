"""A GGUF model, whole or in parts, as a checkpoint: tensors one at a time, raw or as float32."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgellm_converters.checkpoints.gguf_header import (
    GGUFHeader,
    TensorInfo,
    open_regular,
    read_header,
)
from edgellm_converters.checkpoints.gguf_split import read_parts
from edgellm_converters.checkpoints.gguf_values import Metadata, StoredType, Value, ValueType
from edgellm_converters.checkpoints.slabs import read_into

__all__ = [
    "GGUFCheckpoint",
    "GGUFHeader",
    "Metadata",
    "StoredType",
    "TensorInfo",
    "Value",
    "ValueType",
    "read_header",
]


class GGUFCheckpoint:
    """An open GGUF model. A context manager; reading after `close` is an error.

    Any part of a split model opens all of them. `header` is the first part's with the tensors of
    all; `files` are the parts. Tensors are read, not mapped: memory holds what the caller keeps,
    and a file that another program cuts short is an error and no SIGBUS.

    Raises:
        SourceNotFoundError: there is no such file, or a part is missing.
        CorruptFileError: a header breaks the format's rules, or parts do not belong together.
    """

    def __init__(self, path: Path) -> None:
        parts = read_parts(path)
        everything = tuple(tensor for part in parts for tensor in part.tensors)
        self.header = replace(parts[0], tensors=everything)
        self.files = tuple(part.path for part in parts)
        self._tensors = {tensor.name: tensor for tensor in everything}
        # One part is open at a time: there may be more of them than a process may open.
        self._opened = self.path
        self._descriptor = open_regular(self.path)

    @property
    def path(self) -> Path:
        """The file; the first part of a split model."""
        return self.header.path

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors in the file's order."""
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """Give what the header says of a tensor; KeyError if there is none of that name."""
        return self._tensors[name]

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Read the blocks of a tensor: uint8 (rows, row_bytes).

        Raises:
            CorruptFileError: the file has become shorter since it was opened.
        """
        return self.raw_rows(name, 0, self._tensors[name].rows)

    def raw_rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Read the blocks of the rows `start` to `stop`: uint8 (stop - start, row_bytes).

        Rows are counted over all dimensions but the last.

        Raises:
            CorruptFileError: the file has become shorter since it was opened.
            IndexError: there are no such rows.
        """
        tensor = self._tensors[name]
        if not 0 <= start <= stop <= tensor.rows:
            raise IndexError(f"rows {start} to {stop} of {tensor.rows} of tensor {name}")
        blocks = np.empty((stop - start, tensor.row_bytes), dtype=np.uint8)
        offset = tensor.offset + start * tensor.row_bytes
        read_into(self._open(tensor.path), blocks, offset, tensor.path)
        return blocks

    def load(self, name: str, *, threads: int = 1) -> npt.NDArray[np.float32]:
        """Read a tensor as float32 in its shape, dequantized by ggml's own code.

        Raises:
            CorruptFileError: the file has become shorter since it was opened.
            QuantError: ggml cannot decode the tensor's type.
        """
        tensor = self._tensors[name]
        return self.load_rows(name, 0, tensor.rows, threads=threads).reshape(tensor.shape)

    def load_rows(
        self, name: str, start: int, stop: int, *, threads: int = 1
    ) -> npt.NDArray[np.float32]:
        """Read the rows `start` to `stop` as float32 (stop - start, columns); see `raw_rows`."""
        from edgellm_quant.ggml import dequantize_rows

        tensor = self._tensors[name]
        blocks = self.raw_rows(name, start, stop)
        return dequantize_rows(blocks, tensor.format, tensor.columns, threads)

    def _open(self, path: Path) -> int:
        """Give the descriptor of a part."""
        if path != self._opened and self._descriptor >= 0:
            descriptor = open_regular(path)
            os.close(self._descriptor)
            self._opened, self._descriptor = path, descriptor
        return self._descriptor

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> GGUFCheckpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
