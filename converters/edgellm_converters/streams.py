"""Tensors of either checkpoint in slabs of rows, and what happens to them on their way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.base import Transform
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.plan import Step
from edgellm_quant.errors import QuantError, UnknownTypeError
from edgellm_quant.formats import FORMATS, BlockFormat
from edgellm_quant.ggml import recode_rows

__all__ = ["SLAB_VALUES", "GGUFTensors", "HuggingFaceTensors", "Tensors", "stream"]

# Values in memory at a time (a row at least): as float32, 8 MB. With half of it threads wait more
# for one another; with twice as much memory grows, and the speed hardly.
SLAB_VALUES = 1 << 21

Bytes = npt.NDArray[np.uint8]


class Tensors(Protocol):
    """The tensors of a checkpoint, as rows of blocks."""

    @property
    def path(self) -> Path:
        """The file or folder, for errors."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor in numpy's order, in the order in which they are stored."""
        ...

    def format(self, name: str) -> BlockFormat:
        """Give the format in which `rows` gives a tensor."""
        ...

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Read rows: uint8 (stop - start, row_bytes). A vector is one row."""
        ...


class GGUFTensors:
    """The tensors of a GGUF file."""

    def __init__(self, checkpoint: GGUFCheckpoint) -> None:
        self._checkpoint = checkpoint
        self.path = checkpoint.path
        self.shapes: Mapping[str, tuple[int, ...]] = {
            tensor.name: tensor.shape for tensor in checkpoint.header.tensors
        }

    def format(self, name: str) -> BlockFormat:
        """Give the format of a tensor."""
        return self._checkpoint.info(name).format

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Read rows of blocks."""
        return self._checkpoint.raw_rows(name, start, stop)


class HuggingFaceTensors:
    """The tensors of a Hugging Face folder; float64 ones are rounded to float32."""

    def __init__(self, path: Path, checkpoint: SafetensorsCheckpoint) -> None:
        self._checkpoint = checkpoint
        self.path = path
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: tensor.shape for name, tensor in checkpoint.tensors.items()
        }

    def format(self, name: str) -> BlockFormat:
        """Give F32, F16 or BF16.

        Raises:
            UnsupportedError: the tensor holds no such numbers.
        """
        tensor = self._checkpoint.tensors[name]
        if tensor.dtype in ("F32", "F16", "BF16"):
            return FORMATS[tensor.dtype]
        if tensor.dtype == "F64":
            return FORMATS["F32"]
        raise UnsupportedError(
            f"{tensor.path}: the tensor {name!r} is of type {tensor.dtype}; weights in F64, F32, "
            "F16 or BF16 are needed",
            hint="a checkpoint that is quantized already cannot be converted here",
        )

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Read rows of numbers as their bytes."""
        if self._checkpoint.tensors[name].dtype == "F64":
            return self._checkpoint.load_rows(name, start, stop).view(np.uint8)
        return self._checkpoint.raw_rows(name, start, stop).view(np.uint8)


def stream(
    tensors: Tensors, step: Step, target: BlockFormat, *, to_gguf: bool, threads: int | None = None
) -> Iterator[npt.NDArray[Any]]:
    """Give the blocks of one tensor of the target, a slab of rows after the other.

    Bytes are copied where the format stays, so that nothing can change on the way.

    Raises:
        CorruptFileError: the source ends early.
        UnsupportedError: the source's format cannot be decoded, such as whole numbers.
        QuantError: a value or shape that the format cannot hold; the message names the tensor.
    """
    source = tensors.format(step.source)
    columns = step.shape[-1]
    rows = 1
    for size in step.shape[:-1]:
        rows *= size
    unit = step.head_dim if step.transform is Transform.ROPE and len(step.shape) > 1 else 1
    slab = max(1, SLAB_VALUES // (columns * unit)) * unit
    for start in range(0, rows, slab):
        blocks = tensors.rows(step.source, start, min(start + slab, rows))
        if step.transform is Transform.ROPE:
            blocks = _reorder(blocks, step, to_gguf=to_gguf)
        try:
            if step.transform is Transform.PLUS_ONE:
                blocks = _shift(blocks, source, columns, 1.0 if to_gguf else -1.0)
                yield recode_rows(blocks, FORMATS["F32"], target, columns, threads=threads)
            elif source == target:
                yield blocks
            else:
                yield recode_rows(blocks, source, target, columns, threads=threads)
        except QuantError as error:
            what = f"{tensors.path}: tensor {step.source}: {error}"
            if isinstance(error, UnknownTypeError):
                raise UnsupportedError(what) from error
            raise type(error)(what, hint=error.hint) from error


def _reorder(blocks: Bytes, step: Step, *, to_gguf: bool) -> Bytes:
    """Reorder the rows of each head.

    Hugging Face rotates row i of a head with row i + d/2, ggml row 2i with row 2i + 1. Whole rows
    move, so that packed blocks may too; of a vector (a bias), single values move.
    """
    vector = len(step.shape) == 1
    # (heads, 2, d/2, bytes of a row) in Hugging Face's order, (heads, d/2, 2, bytes) in ggml's
    lines = blocks.reshape(step.shape[0], -1) if vector else blocks
    half = step.head_dim // 2
    heads = lines.shape[0] // step.head_dim
    split = (heads, 2, half, -1) if to_gguf else (heads, half, 2, -1)
    return np.ascontiguousarray(lines.reshape(split).swapaxes(1, 2)).reshape(blocks.shape)


def _shift(blocks: Bytes, source: BlockFormat, columns: int, by: float) -> Bytes:
    """Add a number to every value, as float32."""
    values = recode_rows(blocks, source, FORMATS["F32"], columns).view(np.float32)
    return (values + np.float32(by)).view(np.uint8)
