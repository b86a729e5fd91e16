"""Rows of numbers to the formats of MLX and back, in numpy alone, so on any machine.

`quantize_rows` gives the bytes that `mlx.core.quantize` gives on the CPU: the affine scheme maps
the end of a group's range that is farther from zero to code 0 and rounds the scale so that zero
is a code as well (mlx/backend/cpu/quantized.cpp); mxfp4 takes the least power of two under which
no value of a group is beyond 6, the largest of E2M1 (as mlx 0.32.4 does).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.bitstream import pack_codes, unpack_codes
from edgellm_quant.errors import ShapeError, UnknownTypeError, ValueRangeError
from edgellm_quant.formats.mlx import MLXFormat, split_rows
from edgellm_quant.parallel import for_each_chunk

__all__ = ["can_encode", "dequantize_rows", "narrow_scales", "quantize_rows", "widen_scales"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# mlx's least scale of an affine group.
_LEAST_SCALE = np.float32(1e-7)
_LARGEST = float(np.finfo(np.float32).max)

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([E2M1, -E2M1])  # the highest bit is the sign
# The code for |x| in quarters, rounded up: half-way values go to the lower one.
_E2M1_CODE = np.searchsorted([1, 3, 5, 7, 10, 14, 20], np.arange(32)).astype(np.uint8)


def can_encode(fmt: MLXFormat) -> bool:
    """Tell whether `quantize_rows` takes the format."""
    return fmt.mode in ("affine", "mxfp4")


def quantize_rows(x: Floats, fmt: MLXFormat, threads: int | None = None) -> Bytes:
    """Encode rows of float32 values.

    Values are not rounded to the type of the scales first; where they are of that type (weights of
    a bfloat16 model with bfloat16 scales), the bytes are those that mlx makes of them. mxfp4
    is computed as mlx computes it from float32.

    Args:
        x: float32 (rows, columns), C-contiguous.
        fmt: what to encode to.
        threads: how many cores to use; None for all.

    Returns:
        uint8 (rows, fmt.row_bytes(columns)).

    Raises:
        ShapeError: a wrong shape or dtype, or rows that are no whole number of groups.
        ValueRangeError: a value is NaN, infinite, or too large for the type of the scales.
        UnknownTypeError: the format is for reading only.
    """
    if x.ndim != 2 or x.dtype != np.float32 or not x.flags.c_contiguous:
        raise ShapeError(
            f"values must be contiguous float32 (rows, columns), not {x.dtype} {x.shape}"
        )
    if not can_encode(fmt):
        raise UnknownTypeError(f"{fmt.name} can be decoded only", hint="choose affine or mxfp4")
    rows, columns = x.shape
    out = np.empty((rows, fmt.row_bytes(columns)), np.uint8)
    encode = _encode_affine if fmt.mode == "affine" else _encode_mxfp4

    def work(start: int, stop: int) -> None:
        encode(x[start:stop], fmt, out[start:stop], start)

    for_each_chunk(rows, columns, threads, work)
    return out


def dequantize_rows(
    blocks: Bytes, fmt: MLXFormat, columns: int, threads: int | None = None
) -> Floats:
    """Decode rows, in float32: code * scale, rounded, + bias, rounded.

    That is what `mlx.core.dequantize` gives for scales and biases widened to float32, and for the
    floating-point modes with `dtype=float32`. (With float16 or bfloat16 scales mlx rounds both
    steps to that type.)

    Args:
        blocks: uint8 (rows, fmt.row_bytes(columns)).
        fmt: what the rows are.
        columns: values in a row.
        threads: how many cores to use; None for all.

    Returns:
        float32 (rows, columns).

    Raises:
        ShapeError: a wrong shape or dtype.
    """
    split_rows(blocks[:0], fmt, columns)  # checks the shape
    out = np.empty((len(blocks), columns), np.float32)

    def work(start: int, stop: int) -> None:
        codes, scales, biases = split_rows(blocks[start:stop], fmt, columns)
        groups = out[start:stop].reshape(stop - start, -1, fmt.group_size)  # (n, groups, values)
        unpacked = unpack_codes(codes.view(np.uint8), fmt.bits).reshape(groups.shape)
        if biases is None:
            levels = E4M3 if fmt.bits == 8 else E2M1
            np.take(levels, unpacked, out=groups, mode="clip")
        else:
            groups[...] = unpacked
        with np.errstate(over="ignore", invalid="ignore"):
            groups *= widen_scales(scales, fmt)[..., None]
            if biases is not None:
                groups += widen_scales(biases, fmt)[..., None]

    for_each_chunk(len(blocks), columns, threads, work)
    return out


def widen_scales(stored: NDArray[Any], fmt: MLXFormat) -> Floats:
    """Give scales or biases, as `split_rows` gives them, as float32 of the same shape."""
    if fmt.scale == "BF16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if fmt.mode == "nvfp4":
        return np.take(E4M3, stored)
    if fmt.scale == "U8":
        return np.take(E8M0, stored)
    return stored.astype(np.float32)


def narrow_scales(values: Floats, fmt: MLXFormat) -> NDArray[Any]:
    """Round the scales or biases of an affine format to its type, to nearest, ties to even.

    Returns:
        float16, float32 or uint16 (the bits of a bfloat16), infinite where a value is too
        large; NaN stays NaN.
    """
    if fmt.scale == "BF16":
        bits = values.view(np.uint32)
        rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        narrow = (rounded >> np.uint32(16)).astype(np.uint16)
        # Rounding can carry a NaN over into the sign.
        return np.where(np.isnan(values), np.uint16(0x7FC0), narrow)
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16 if fmt.scale == "F16" else np.float32)


def _encode_affine(x: Floats, fmt: MLXFormat, out: Bytes, first_row: int) -> None:
    # (n, columns) -> (n, row_bytes)
    groups = x.reshape(len(x), -1, fmt.group_size)  # (n, groups, values)
    high = _fold(np.maximum, x, fmt.group_size)  # (n, groups)
    low = _fold(np.minimum, x, fmt.group_size)
    _check_values(x, high, low, fmt, first_row)
    bins = np.float32(2**fmt.bits - 1)
    with np.errstate(all="ignore"):  # what is too large is refused below
        below = np.abs(low) > np.abs(high)
        scale = np.maximum((high - low) / bins, _LEAST_SCALE)
        np.negative(scale, out=scale, where=~below)
        edge = np.where(below, low, high)
        zero = np.rint(edge / scale)
        bias = np.where(zero != 0, edge, np.float32(0))
        np.divide(edge, zero, out=scale, where=zero != 0)
        work = groups - bias[..., None]
        work /= scale[..., None]
        np.rint(work, out=work)
        np.clip(work, np.float32(0), bins, out=work)
        stored = (narrow_scales(scale, fmt), narrow_scales(bias, fmt))
        kept = [np.isfinite(widen_scales(part, fmt)).all(axis=1) for part in stored]
        kept.append((scale != 0).all(axis=1))
    rows = np.logical_and.reduce(kept)  # (n,)
    if not rows.all():
        row = int(np.flatnonzero(~rows)[0])
        raise ValueRangeError(
            f"row {first_row + row} holds values up to {np.abs(x[row]).max()}, too large for "
            f"{fmt.name} with scales of type {fmt.scale}",
            hint="scales of type F32 hold larger values",
        )
    codes = pack_codes(work.astype(np.uint8).reshape(x.shape), fmt.bits)
    _store(out, codes, *stored)


def _encode_mxfp4(x: Floats, fmt: MLXFormat, out: Bytes, first_row: int) -> None:
    # (n, columns) -> (n, row_bytes)
    groups = x.reshape(len(x), -1, fmt.group_size)
    largest = _fold(np.maximum, np.abs(x), fmt.group_size)  # (n, groups)
    _check_values(x, largest, largest, fmt, first_row)
    fraction, exponent = np.frexp(largest / np.float32(6))  # fraction from 0.5, 1 excluded; or 0
    exponent -= fraction == 0.5
    # mlx wraps around below the least E8M0 scale; here that scale is taken.
    np.maximum(exponent, -127, out=exponent)
    quarters = np.ldexp(groups, 2 - exponent[..., None])
    work = np.ceil(np.abs(quarters)).astype(np.uint8)
    codes = np.take(_E2M1_CODE, work)
    # Zero has no sign.
    codes |= ((quarters < 0) & (codes != 0)).astype(np.uint8) << np.uint8(3)
    _store(out, pack_codes(codes.reshape(x.shape), 4), (exponent + 127).astype(np.uint8))


def _fold(larger: np.ufunc, x: Floats, group_size: int) -> Floats:
    """Give the largest (or least) value of each group: (n, columns) -> (n, columns / group_size).

    Halving all groups at once is up to eight times as fast as numpy's reduction of short rows.
    """
    values = x.reshape(-1)
    while group_size > 1:
        values = larger(values[0::2], values[1::2])
        group_size //= 2
    return values.reshape(len(x), -1)


def _check_values(x: Floats, high: Floats, low: Floats, fmt: MLXFormat, first_row: int) -> None:
    # NaN fails both comparisons.
    if high.max() <= _LARGEST and low.min() >= -_LARGEST:
        return
    row, column = (int(at) for at in np.argwhere(~np.isfinite(x))[0])
    raise ValueRangeError(
        f"the value in row {first_row + row}, column {column} is {x[row, column]}, "
        f"which {fmt.name} cannot hold"
    )


def _store(out: Bytes, *parts: NDArray[Any]) -> None:
    """Write the parts of rows one after the other: `join_rows` without the copy."""
    at = 0
    for part in parts:
        data = part.view(np.uint8)
        out[:, at : at + data.shape[1]] = data
        at += data.shape[1]


def _e4m3() -> Floats:
    """Give the 256 values of E4M3 (OCP 8-bit floating point): no infinities, NaN at 0x7F."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    value = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    value[code & 127 == 127] = np.nan
    return np.where(code < 128, value, -value).astype(np.float32)


E4M3 = _e4m3()
E8M0 = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.nan).astype(np.float32)
