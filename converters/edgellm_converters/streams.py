"""Tensors of a checkpoint in slabs of rows, and what happens to them on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.checkpoints.quantized import Decoded
from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint
from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.finite import recode_not_finite
from edgellm_converters.plan import Change, Piece, Step
from edgellm_quant.errors import QuantError, UnknownTypeError
from edgellm_quant.formats import FORMATS, Format
from edgellm_quant.recode import Outcome, recode_rows

__all__ = [
    "SLAB_VALUES",
    "GGUFTensors",
    "HuggingFaceTensors",
    "Recoder",
    "Tensors",
    "quantized_formats",
    "step_format",
    "stream",
]

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

    def format(self, name: str) -> Format:
        """Give the format in which `rows` gives a tensor."""
        ...

    def published(self, name: str) -> Format:
        """Give the format in which the weights are meant to be kept; mostly that of `rows`."""
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

    def format(self, name: str) -> Format:
        """Give the format of a tensor."""
        return self._checkpoint.info(name).format

    def published(self, name: str) -> Format:
        """Give the format of a tensor."""
        return self.format(name)

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Read rows of blocks."""
        return self._checkpoint.raw_rows(name, start, stop)


class HuggingFaceTensors:
    """The tensors of a Hugging Face folder; float64 ones are rounded to float32.

    `canonical` gives the name under which the rules know a tensor; `decoded` are the weights that
    have to be computed.

    Raises:
        ConfigError: two tensors go by one name.
    """

    def __init__(
        self,
        path: Path,
        checkpoint: SafetensorsCheckpoint,
        canonical: Callable[[str], str] = str,
        decoded: Decoded | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self.path = path
        self._names: dict[str, str] = {}
        decoded = decoded or Decoded()
        self._decoded = decoded.weights
        plain = (name for name in checkpoint.tensors if name not in decoded.hidden)
        for name in dict.fromkeys((*plain, *self._decoded)):
            known = self._names.setdefault(canonical(name), name)
            if known != name:
                raise ConfigError(f"{path}: {known} and {name} are two names of one tensor")
        self.shapes: Mapping[str, tuple[int, ...]] = {
            known: (self._decoded.get(name) or checkpoint.tensors[name]).shape
            for known, name in self._names.items()
        }

    def format(self, name: str) -> Format:
        """Give F32, F16 or BF16.

        Raises:
            UnsupportedError: the tensor holds no such numbers.
        """
        if self._names[name] in self._decoded:
            return FORMATS["F32"]
        tensor = self._checkpoint.tensors[self._names[name]]
        if tensor.dtype in ("F32", "F16", "BF16"):
            return FORMATS[tensor.dtype]
        if tensor.dtype == "F64":
            return FORMATS["F32"]
        raise UnsupportedError(
            f"{tensor.path}: the tensor {name!r} is of type {tensor.dtype}; weights in F64, F32, "
            "F16 or BF16 are needed",
            hint="if it is quantized in a way of its own, convert from the original weights",
        )

    def published(self, name: str) -> Format:
        """Give the format of a tensor, or the one that a decoded weight is computed with."""
        weight = self._decoded.get(self._names[name])
        return self.format(name) if weight is None else FORMATS[weight.published]

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Read rows of numbers as their bytes."""
        name = self._names[name]
        if name in self._decoded:
            return self._decoded[name].rows(start, stop).view(np.uint8)
        if self._checkpoint.tensors[name].dtype == "F64":
            with np.errstate(over="ignore"):  # infinities are reported later
                return self._checkpoint.load_rows(name, start, stop).view(np.uint8)
        return self._checkpoint.raw_rows(name, start, stop).view(np.uint8)


def step_format(tensors: Tensors, step: Step) -> Format:
    """Give the format in which a step's values are kept: that of all its pieces, else F32.

    What is computed with (transposed rows of blocks) comes out as F32 too.
    """
    found = {tensors.published(piece.source) for piece in step.pieces}
    first = next(iter(found))
    if len(found) > 1 or (first.is_quantized and not step.moves_rows):
        return FORMATS["F32"]
    return first


def quantized_formats(tensors: Tensors, step: Step) -> list[Format]:
    """Give the quantized formats that a step's pieces are stored in, each once, by name."""
    found = {tensors.format(piece.source) for piece in step.pieces}
    return sorted((fmt for fmt in found if fmt.is_quantized), key=lambda fmt: fmt.name)


@dataclass(slots=True)
class Recoder:
    """Turns rows into the target's format.

    `threads` are the cores to use, None for all. `allow_nan` lets NaN and infinity pass where the
    target is a plain format. `outcome` gets added what became of the values.
    """

    target: Format
    threads: int | None = None
    allow_nan: bool = False
    outcome: Outcome = field(default_factory=Outcome)

    def __call__(self, blocks: Bytes, source: Format, columns: int) -> Bytes:
        """Give uint8 (rows, row_bytes of the target)."""
        target, threads = self.target, self.threads
        if self.allow_nan and source != target and not target.is_quantized:
            blocks = recode_rows(blocks, source, FORMATS["F32"], columns, threads=threads)
            return recode_not_finite(blocks, FORMATS[target.name], columns, threads)
        return recode_rows(blocks, source, target, columns, threads=threads, outcome=self.outcome)


def stream(tensors: Tensors, step: Step, recode: Recoder) -> Iterator[npt.NDArray[Any]]:
    """Give the blocks of one tensor of the target, a slab of rows after the other.

    Bytes are copied where the format stays, so that nothing can change on the way.

    Raises:
        CorruptFileError: the source ends early.
        UnsupportedError: the source's format cannot be decoded, such as whole numbers.
        QuantError: a value or shape that the format cannot hold; the message names the tensor.
    """
    if step.blank:
        columns = step.shape[-1]
        zeros = np.zeros((step.blank, columns), np.float32).view(np.uint8)
        yield recode(zeros, FORMATS["F32"], columns)
    for piece in step.pieces:
        try:
            yield from _stream(tensors, piece, recode)
        except QuantError as error:
            what = f"{tensors.path}: tensor {piece.source}: {error}"
            if isinstance(error, UnknownTypeError):
                raise UnsupportedError(what) from error
            raise type(error)(what, hint=error.hint) from error


def _stream(tensors: Tensors, piece: Piece, recode: Recoder) -> Iterator[npt.NDArray[Any]]:
    source = tensors.format(piece.source)
    if piece.vector:
        yield _recoded(*_vector(tensors, piece, source), piece, source, recode)
        return
    if Change.TRANSPOSE in piece.changes:
        for blocks in _transposed(tensors, piece, source):
            yield _recoded(blocks, piece.rows, piece, source, recode)
        return
    unit = piece.head_dim or 1
    slab = max(1, SLAB_VALUES // (piece.columns * unit)) * unit
    stop = piece.row + piece.rows
    for start in range(piece.row, stop, slab):
        blocks = tensors.rows(piece.source, start, min(start + slab, stop))
        if piece.head_dim:
            blocks = _reorder(blocks, piece)
        yield _recoded(blocks, piece.columns, piece, source, recode)


def _recoded(blocks: Bytes, columns: int, piece: Piece, source: Format, recode: Recoder) -> Bytes:
    """Give rows in the target's format; blocks that were transposed come as F32."""
    if Change.TRANSPOSE in piece.changes and source.is_quantized:
        source = FORMATS["F32"]
    shift = (Change.ADD_ONE in piece.changes) - (Change.SUBTRACT_ONE in piece.changes)
    if shift:
        values = recode_rows(blocks, source, FORMATS["F32"], columns).view(np.float32)
        blocks, source = (values + np.float32(shift)).view(np.uint8), FORMATS["F32"]
    return recode(blocks, source, columns)


def _vector(tensors: Tensors, piece: Piece, source: Format) -> tuple[Bytes, int]:
    """Read the values of a vector that a piece is about, as one row."""
    row = tensors.rows(piece.source, 0, 1)
    if not piece.head_dim and tensors.shapes[piece.source] == (piece.rows,):
        return row, piece.rows  # so that blocks of several values are copied too
    width = source.row_bytes(1)
    values = row.reshape(-1, width)[piece.row : piece.row + piece.rows]
    if piece.head_dim:
        values = _reorder(values, piece)
    return np.ascontiguousarray(values).reshape(1, -1), piece.rows


def _transposed(tensors: Tensors, piece: Piece, source: Format) -> Iterator[Bytes]:
    """Read a matrix whole, and give its columns as rows, a slab of them after the other."""
    blocks = tensors.rows(piece.source, piece.row, piece.row + piece.rows)
    if source.is_quantized:
        blocks = recode_rows(blocks, source, FORMATS["F32"], piece.columns)
    cells = blocks.reshape(piece.rows, piece.columns, -1)
    slab = max(1, SLAB_VALUES // piece.rows)
    for start in range(0, piece.columns, slab):
        part = cells[:, start : start + slab].swapaxes(0, 1)
        yield np.ascontiguousarray(part).reshape(part.shape[0], -1)


def _reorder(blocks: Bytes, piece: Piece) -> Bytes:
    """Reorder the rows of each head.

    Hugging Face rotates row i of a head with row i + d/2, ggml row 2i with row 2i + 1. Whole rows
    move, so that packed blocks may too; of a vector (a bias), single values move.
    """
    # (heads, 2, d/2, bytes of a row) in Hugging Face's order, (heads, d/2, 2, bytes) in ggml's
    half = piece.head_dim // 2
    heads = blocks.shape[0] // piece.head_dim
    to_ggml = Change.TO_GGML_ROPE in piece.changes
    split = (heads, 2, half, -1) if to_ggml else (heads, half, 2, -1)
    return np.ascontiguousarray(blocks.reshape(split).swapaxes(1, 2)).reshape(blocks.shape)
