"""Error-compensated rounding in the block formats of ggml and MLX, row by row.

For every row, codes and scales are sought that make (w - q)' H (w - q) small: `feedback` rounds
columns one after the other, each making up for those before it, and `descent` then improves codes
and scales one at a time. What is written are ordinary blocks; kernels notice nothing.

Lone columns are handled where values have codes of their own (`codes.LAYOUTS`, MLX's affine mode
and mxfp4). In the lattice formats (IQ1, IQ2, IQ3), where groups of values share a code, a block of
256 columns is rounded by ggml as a whole, and makes up for the blocks before it; `lattice` then
improves blocks and their scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellm_quant import ggml
from edgellm_quant.blas import one_thread
from edgellm_quant.codes import Parts, join_groups, layout_of
from edgellm_quant.errors import ShapeError, UnknownTypeError, ValueRangeError
from edgellm_quant.formats import BlockFormat, Format
from edgellm_quant.formats.mlx import MLXFormat
from edgellm_quant.methods.descent import descend
from edgellm_quant.methods.feedback import round_columns, round_slabs
from edgellm_quant.methods.hessian import Factors
from edgellm_quant.methods.lattice import SCALES, descend_slabs
from edgellm_quant.methods.scales import search_scales
from edgellm_quant.parallel import for_each_chunk

__all__ = ["block_of", "can_compensate", "encode", "search"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Scales are mostly float16.
_LARGEST = float(np.finfo(np.float16).max)

# Rows that are handled together at least and at most: enough to hide what a call of numpy costs,
# few enough that a run of columns stays in a core's cache.
_FEWEST, _MOST = 128, 640


def can_compensate(fmt: Format) -> bool:
    """Tell whether `encode` takes the format."""
    if isinstance(fmt, BlockFormat):
        return fmt.is_quantized and ggml.can_encode(fmt)
    return layout_of(fmt) is not None


def block_of(fmt: Format) -> int:
    """Give how many columns have their scales chosen together."""
    if isinstance(fmt, BlockFormat):
        return fmt.block_size
    layout = layout_of(fmt)
    return 1 if layout is None else layout.block


def encode(
    weights: Floats,
    fmt: Format,
    factors: Factors,
    importance: Floats,
    sweeps: int = 0,
    searched: bool = True,
    threads: int | None = None,
) -> Bytes:
    """Encode rows that meet inputs of one Hessian.

    Args:
        weights: float32 (rows, columns), C-contiguous.
        fmt: what to encode to.
        factors: of the Hessian, (columns, columns), from `hessian.factor`, with `block_of(fmt)`.
        importance: float32 (columns,), what scales are chosen by.
        sweeps: how often codes and scales are improved.
        searched: look for scales as `scales` does; else take those of ggml's encoder, which is
            quicker. MLX's scales are always searched for.
        threads: how many cores to use; None for all.

    Returns:
        uint8 (rows, fmt.row_bytes(columns)); the same for any number of threads.

    Raises:
        ShapeError: a wrong shape or dtype, or rows that are no whole number of blocks.
        ValueRangeError: a value is NaN, infinite or too large for the format.
        UnknownTypeError: the format has no encoder or is not quantized.
    """
    _check(weights, fmt)
    rows, columns = weights.shape
    if importance.shape != (columns,) or factors.hessian.shape != (columns, columns):
        raise ShapeError(f"a Hessian of {factors.hessian.shape} for rows of {columns} values")
    if not can_compensate(fmt):
        raise UnknownTypeError(f"nothing can make up for errors in {fmt.name}")
    if len(factors.order) * block_of(fmt) != columns:
        raise ShapeError(f"factors of another block than the {block_of(fmt)} of {fmt.name}")
    out = np.empty((rows, fmt.row_bytes(columns)), np.uint8)

    def work(start: int, stop: int) -> None:
        out[start:stop] = _encode(weights[start:stop], fmt, factors, importance, sweeps, searched)

    with one_thread():
        for_each_chunk(rows, columns, threads, work, step=_step(rows))
    return out


def search(weights: Floats, fmt: Format, importance: Floats, threads: int | None = None) -> Bytes:
    """Encode rows of which only the importance of the columns is known, with our own scales.

    Args:
        weights: float32 (rows, columns), C-contiguous.
        fmt: what to encode to; a format that has a layout in `codes`.
        importance: float32 (columns,).
        threads: how many cores to use; None for all.

    Returns:
        uint8 (rows, fmt.row_bytes(columns)).

    Raises:
        ShapeError, ValueRangeError: as `encode`.
        UnknownTypeError: the format has no layout.
    """
    _check(weights, fmt)
    rows, columns = weights.shape
    out = np.empty((rows, fmt.row_bytes(columns)), np.uint8)
    layout = layout_of(fmt)
    if layout is None:
        raise UnknownTypeError(f"{fmt.name} has no scales that can be searched for")

    def work(start: int, stop: int) -> None:
        part = weights[start:stop]
        blocks = [
            layout.write(search_scales(part[:, at : at + layout.block], weight, layout))
            for at, weight in zip(
                range(0, columns, layout.block),
                importance.reshape(-1, layout.block),
                strict=True,
            )
        ]
        out[start:stop] = _join(np.stack(blocks, axis=1), fmt)

    for_each_chunk(rows, columns, threads, work, step=_step(rows))
    return out


def _check(weights: Floats, fmt: Format) -> None:
    if weights.ndim != 2 or weights.dtype != np.float32 or not weights.flags.c_contiguous:
        raise ShapeError(
            f"values must be contiguous float32 (rows, columns), not {weights.dtype} "
            f"{weights.shape}"
        )
    # NaN fails both comparisons.
    if weights.size and not (weights.max() <= _LARGEST and weights.min() >= -_LARGEST):
        row, column = (int(at) for at in np.argwhere(~(np.abs(weights) <= _LARGEST))[0])
        raise ValueRangeError(
            f"the value in row {row}, column {column} is {weights[row, column]}, too large to make "
            f"up for its error in {fmt.name}"
        )


def _step(rows: int) -> int:
    """Cut rows into pieces of one size: an even number of them, for an even number of cores."""
    pieces = 2 * -(-rows // (2 * _MOST)) if rows >= 2 * _FEWEST else 1
    return max(1, -(-rows // pieces))


def _encode(
    weights: Floats,
    fmt: Format,
    factors: Factors,
    importance: Floats,
    sweeps: int,
    searched: bool,
) -> Bytes:
    """Encode a piece of the rows: (n, columns) -> (n, row_bytes)."""
    columns = np.array(factors.sort_columns(weights).T, order="C")  # (columns, n)
    importance = factors.sort_columns(importance)
    layout = layout_of(fmt)

    def weights_of(first: int, count: int) -> Floats:
        return np.ascontiguousarray(importance[first : first + count])

    if layout is None:
        assert isinstance(fmt, BlockFormat)

        def rounded(wanted: Floats, first: int) -> tuple[Bytes, Floats]:
            count = wanted.shape[1]
            blocks = ggml.quantize_rows(wanted, fmt, weights_of(first, count), threads=1)
            return blocks, ggml.dequantize_rows(blocks, fmt, count, threads=1)

        slabs, values = round_slabs(columns.copy(), fmt.block_size, factors, rounded)
        if sweeps:
            scales = SCALES.get(fmt.name)
            descend_slabs(slabs, values, columns, factors.hessian, sweeps, scales, rounded)
        return _join(np.stack(slabs, axis=1), fmt, factors.order)

    def scaled(wanted: Floats, first: int) -> Parts:
        weight = weights_of(first, layout.block)
        if searched or not isinstance(fmt, BlockFormat):
            return search_scales(wanted, weight, layout)
        return layout.read(ggml.quantize_rows(wanted, fmt, weight, threads=1))

    solution = round_columns(columns.copy(), layout, factors, scaled)
    if sweeps:
        descend(solution, columns, factors.hessian, sweeps)
    return _join(solution.write(), fmt, factors.order)


def _join(blocks: Bytes, fmt: Format, order: NDArray[np.intp] | None = None) -> Bytes:
    """Join (n, blocks, bytes of a block) to rows of the format; blocks may be in another order."""
    if order is not None:
        blocks = blocks[:, np.argsort(order)]
    if isinstance(fmt, MLXFormat):
        return join_groups(blocks, fmt)
    return blocks.reshape(len(blocks), -1)
