"""Rows of numbers to blocks and back, by ggml's own encoders, on all cores.

Rows are independent in every format, so the bytes are the same for any number of threads and any
cut into slabs, and they are those that llama.cpp's quantizer writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.errors import (
    ImportanceRequiredError,
    ShapeError,
    UnknownTypeError,
    ValueRangeError,
)
from edgellm_quant.formats import BlockFormat
from edgellm_quant.library import Decode, check_layout, decoder, library, library_version
from edgellm_quant.parallel import for_each_chunk

__all__ = [
    "can_decode",
    "can_encode",
    "dequantize_rows",
    "library_version",
    "quantize_rows",
    "recode_rows",
    "requires_importance",
]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# ggml counts the values of one call in a C int in places; nothing real comes near this.
_MAX_COLUMNS = 2**31 - 1

# Formats without an encoder: whole numbers, and what activations are rounded to at run time.
_NOT_ENCODED = frozenset({"F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"})

_LARGEST = float(np.finfo(np.float32).max)
# ggml's encoders for these abort the process when a sum of squares overflows. A value beyond the
# limit would overflow their float16 scale in any case.
_GRIDS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
_LIMITS: Mapping[str, float] = {
    # the largest float32 values that do not round to infinity
    "F16": float(np.nextafter(np.float32(65520), np.float32(0))),
    "BF16": float(np.array(0x7F7F7FFF, np.uint32).view(np.float32)),
    **dict.fromkeys(_GRIDS, 1e8),
}
# For the same reason; importance is a mean square of activations, far below this.
_MAX_IMPORTANCE = 1e15


def requires_importance(fmt: BlockFormat) -> bool:
    """Tell whether ggml encodes the format only with an importance vector."""
    check_layout(fmt)
    return bool(library().ggml_quantize_requires_imatrix(fmt.ggml_type))


def can_encode(fmt: BlockFormat) -> bool:
    """Tell whether `quantize_rows` takes the format."""
    return fmt.name not in _NOT_ENCODED


def can_decode(fmt: BlockFormat) -> bool:
    """Tell whether `dequantize_rows` takes the format."""
    return fmt.name == "F32" or decoder(fmt) is not None


def quantize_rows(
    x: Floats,
    fmt: BlockFormat,
    importance: Floats | None = None,
    threads: int | None = None,
) -> Bytes:
    """Encode rows of float32 values.

    Args:
        x: float32 (rows, columns), C-contiguous.
        fmt: what to encode to.
        importance: float32 (columns,), from 0 to 1e15: how much an error in a column
            matters; None weighs all columns as ggml does on its own.
        threads: how many cores to use; None for all.

    Returns:
        uint8 (rows, fmt.row_bytes(columns)).

    Raises:
        ShapeError: a wrong shape or dtype, or rows that are no whole number of blocks.
        ValueRangeError: a value is NaN, infinite or too large for the format.
        ImportanceRequiredError: the format needs an importance vector.
        UnknownTypeError: ggml has no encoder for the format.
    """
    if x.ndim != 2 or x.dtype != np.float32 or not x.flags.c_contiguous:
        raise ShapeError(
            f"values must be contiguous float32 (rows, columns), not {x.dtype} {x.shape}"
        )
    rows, columns = x.shape
    encode = _Encoder(fmt, columns, importance)
    out = np.empty((rows, fmt.row_bytes(columns)), np.uint8)

    def work(start: int, stop: int) -> None:
        encode(x[start:stop], out[start:stop], start)

    for_each_chunk(rows, columns, threads, work)
    return out


def dequantize_rows(
    blocks: Bytes, fmt: BlockFormat, columns: int, threads: int | None = None
) -> Floats:
    """Decode rows of blocks.

    Args:
        blocks: uint8 (rows, fmt.row_bytes(columns)), C-contiguous.
        fmt: what the blocks are.
        columns: values in a row.
        threads: how many cores to use; None for all.

    Returns:
        float32 (rows, columns).

    Raises:
        ShapeError: a wrong shape or dtype.
        UnknownTypeError: ggml has no decoder for the format.
    """
    rows = _check_blocks(blocks, fmt, columns)
    out = np.empty((rows, columns), np.float32)
    decode = _Decoder(fmt, columns)

    def work(start: int, stop: int) -> None:
        decode(blocks[start:stop], out[start:stop])

    for_each_chunk(rows, columns, threads, work)
    return out


def recode_rows(
    blocks: Bytes,
    source: BlockFormat,
    target: BlockFormat,
    columns: int,
    importance: Floats | None = None,
    threads: int | None = None,
) -> Bytes:
    """Decode rows and encode them again, a cache-sized piece at a time.

    The bytes are those of `quantize_rows(dequantize_rows(blocks, source), target)`, without the
    float32 array between the two.

    Args:
        blocks: uint8 (rows, source.row_bytes(columns)), C-contiguous.
        source: what the blocks are.
        target: what to encode to.
        columns: values in a row.
        importance: as in `quantize_rows`.
        threads: how many cores to use; None for all.

    Returns:
        uint8 (rows, target.row_bytes(columns)).

    Raises:
        ShapeError, ValueRangeError, ImportanceRequiredError, UnknownTypeError: as in
            `quantize_rows` and `dequantize_rows`.
    """
    rows = _check_blocks(blocks, source, columns)
    if source.name == "F32" and blocks.ctypes.data % 4 == 0:
        return quantize_rows(blocks.view(np.float32), target, importance, threads)
    decode = _Decoder(source, columns)
    encode = _Encoder(target, columns, importance)
    out = np.empty((rows, target.row_bytes(columns)), np.uint8)

    def work(start: int, stop: int) -> None:
        values = np.empty((stop - start, columns), np.float32)
        decode(blocks[start:stop], values)
        encode(values, out[start:stop], start)

    for_each_chunk(rows, columns, threads, work)
    return out


class _Encoder:
    """What one call of ggml's encoder needs, checked once."""

    def __init__(self, fmt: BlockFormat, columns: int, importance: Floats | None) -> None:
        if not can_encode(fmt):
            raise UnknownTypeError(f"ggml has no encoder for {fmt.name}")
        check_layout(fmt)
        _check_columns(fmt, columns)
        if importance is None:
            if requires_importance(fmt):
                raise ImportanceRequiredError(
                    f"{fmt.name} is encoded only with an importance vector",
                    hint="calibrate first, or choose a type such as Q2_K or IQ3_S",
                )
        else:
            importance = _check_importance(importance, columns)
        self.fmt = fmt
        self.columns = columns
        self.importance = importance  # kept: ggml gets its address only
        self.limit = _LIMITS.get(fmt.name, _LARGEST)
        self.chunk = library().ggml_quantize_chunk
        self.validate = library().ggml_validate_row_data

    def __call__(self, values: Floats, out: Bytes, first_row: int) -> None:
        # (n, columns) -> (n, row_bytes)
        number = self.fmt.ggml_type
        if number == 0:
            out[...] = values.view(np.uint8)
            return
        # NaN fails both comparisons.
        if not (values.max() <= self.limit and values.min() >= -self.limit):
            self._refuse(values, first_row)
        weights = None if self.importance is None else self.importance.ctypes.data
        self.chunk(
            number, values.ctypes.data, out.ctypes.data, 0, len(values), self.columns, weights
        )
        # A finite value can still be too large for a block's float16 scale.
        if self.fmt.is_quantized and not self.validate(number, out.ctypes.data, out.nbytes):
            raise ValueRangeError(
                f"rows {first_row} to {first_row + len(values) - 1} hold values too large for "
                f"{self.fmt.name}"
            )

    def _refuse(self, values: Floats, first_row: int) -> None:
        bad = ~(np.abs(values) <= self.limit)
        row, column = (int(at) for at in np.argwhere(bad)[0])
        raise ValueRangeError(
            f"the value in row {first_row + row}, column {column} is {values[row, column]}, "
            f"which {self.fmt.name} cannot hold"
        )


class _Decoder:
    """What one call of ggml's decoder needs, checked once."""

    def __init__(self, fmt: BlockFormat, columns: int) -> None:
        _check_columns(fmt, columns)
        function: Decode | None = None
        if fmt.name != "F32":
            function = decoder(fmt)
            if function is None:
                raise UnknownTypeError(f"ggml has no decoder for {fmt.name}")
        self.function = function

    def __call__(self, blocks: Bytes, out: Floats) -> None:
        # (n, row_bytes) -> (n, columns)
        if self.function is None:
            out.view(np.uint8)[...] = blocks
        else:
            self.function(blocks.ctypes.data, out.ctypes.data, out.size)


def _check_columns(fmt: BlockFormat, columns: int) -> None:
    fmt.row_bytes(columns)
    if columns > _MAX_COLUMNS:
        raise ShapeError(f"rows of {columns} values are longer than ggml can take")


def _check_blocks(blocks: Bytes, fmt: BlockFormat, columns: int) -> int:
    width = fmt.row_bytes(columns)
    if (
        blocks.ndim != 2
        or blocks.dtype != np.uint8
        or blocks.shape[1] != width
        or not blocks.flags.c_contiguous
    ):
        raise ShapeError(
            f"{fmt.name} rows of {columns} values must be contiguous uint8 (rows, {width}), "
            f"not {blocks.dtype} {blocks.shape}"
        )
    return int(blocks.shape[0])


def _check_importance(importance: NDArray[Any], columns: int) -> Floats:
    if importance.shape != (columns,):
        raise ShapeError(f"importance must have shape ({columns},), not {importance.shape}")
    importance = np.ascontiguousarray(importance, np.float32)
    if not (importance.min() >= 0 and importance.max() <= _MAX_IMPORTANCE):
        raise ValueRangeError(
            f"importance must be from 0 to {_MAX_IMPORTANCE:g}, "
            f"not from {importance.min()} to {importance.max()}"
        )
    return importance
