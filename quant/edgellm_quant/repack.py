"""Quantized rows from ggml's blocks to MLX and back without quantizing anew.

Codes move and scales are written another way, so that a value stays what it was, or nearly: the
tables say which formats go where, and the error is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.affine import UNPACKERS, Affine
from edgellm_quant.bitstream import pack_codes, unpack_codes
from edgellm_quant.codes import LAYOUTS, Parts, nibbles, pack_nibbles
from edgellm_quant.errors import ShapeError, UnknownTypeError, ValueRangeError
from edgellm_quant.formats import FORMATS, BlockFormat, Format
from edgellm_quant.formats.mlx import MLXFormat, join_rows, split_rows
from edgellm_quant.mlx import narrow_scales, widen_scales
from edgellm_quant.parallel import for_each_chunk

__all__ = ["TO_GGUF", "TO_MLX", "Kind", "best_target", "repack_kind", "repack_rows", "try_repack"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

Kind = Literal["exact", "near", "requantized"]
"""What becomes of the values: the same in float32; changed by the rounding of scales and biases
alone; chosen anew where the rows' values allow nothing better."""


@dataclass(frozen=True, slots=True)
class Route:
    """The MLX format that fits a format of ggml best, and the kind with float16 scales."""

    mode: str
    bits: int
    group_size: int
    kind: Kind


TO_MLX: Mapping[str, Route] = MappingProxyType(
    {
        "Q4_0": Route("affine", 4, 32, "exact"),
        "Q4_1": Route("affine", 4, 32, "exact"),
        "Q5_0": Route("affine", 5, 32, "exact"),
        "Q5_1": Route("affine", 5, 32, "exact"),
        "Q8_0": Route("affine", 8, 32, "exact"),
        # the product of two scales has up to 17 bits; float16 has 11
        "Q4_K": Route("affine", 4, 32, "near"),
        "Q5_K": Route("affine", 5, 32, "near"),
        # MLX has no groups of 16 but in nvfp4
        "Q6_K": Route("affine", 8, 32, "requantized"),
        # levels are no equal steps, but they are whole numbers of eight bits
        "IQ4_NL": Route("affine", 8, 32, "exact"),
        "IQ4_XS": Route("affine", 8, 32, "near"),
        "Q1_0": Route("affine", 2, 128, "exact"),
        "Q2_0": Route("affine", 2, 64, "exact"),
        "TQ2_0": Route("affine", 2, 128, "exact"),
        "MXFP4": Route("mxfp4", 4, 32, "exact"),
        "NVFP4": Route("nvfp4", 4, 16, "exact"),
    }
)
"""By ggml's name. What is not here has to be decoded: its levels are no equal steps, or share
scales in a way that MLX has not."""

TO_GGUF: Mapping[tuple[str, int], tuple[str, Kind]] = MappingProxyType(
    {
        ("affine", 2): ("Q4_1", "exact"),
        ("affine", 3): ("Q4_1", "exact"),
        ("affine", 4): ("Q4_1", "exact"),
        ("affine", 5): ("Q5_1", "exact"),
        # Q8_0 has no bias, but the codes of MLX have a zero; with it they fit into a byte's sign
        ("affine", 6): ("Q8_0", "near"),
        # here they do only where the zero is in the middle, as in what came from Q8_0
        ("affine", 8): ("Q8_0", "requantized"),
        ("mxfp4", 4): ("MXFP4", "exact"),
        ("nvfp4", 4): ("NVFP4", "exact"),
    }
)
"""By MLX's mode and bits, any group size: the format of ggml that fits best, and the kind with
float16 scales."""

# ggml's name of a floating-point mode, the values under a scale, and the least invalid scale: E8M0
# 255 is NaN, and so is E4M3 127, beyond which the sign follows that ggml passes over.
_FLOAT_BLOCKS: Mapping[str, tuple[str, int]] = MappingProxyType(
    {"mxfp4": ("MXFP4", 255), "nvfp4": ("NVFP4", 127)}
)

# The formats that blocks of 32 values with float16 scales are written in, and the bits of a code.
_BITS: Mapping[str, int] = MappingProxyType({"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8})

# How far, in steps, a bias may lie from a whole number of them where the target has no bias.
# Scales of float16 and up to 63 steps from an edge to zero explain that much; an error as large
# is still below half of that of quantizing 6 bits anew in Q8_0.
_OFF_GRID = np.float32(1 / 16)

# As what ggml's float16 scales are rounded: its blocks of 32 values, in MLX's terms.
_HALVES = MLXFormat("affine", 8, 32, "F16")


def best_target(source: Format, scale: str = "F16") -> tuple[Format, Kind] | None:
    """Give the format on the other side that fits best, and what becomes of the values.

    Args:
        source: a format of ggml or of MLX.
        scale: the type of scales wanted in MLX's affine formats.

    Returns:
        The target and the kind, or None if nothing fits: `source` holds plain numbers, or values
        that can only be decoded.
    """
    if isinstance(source, MLXFormat):
        entry = TO_GGUF.get((source.mode, source.bits))
        if entry is None:
            return None
        target: Format = FORMATS[entry[0]]
    else:
        route = TO_MLX.get(source.name)
        if route is None:
            return None
        scale = scale if route.mode == "affine" else "U8"
        target = MLXFormat(route.mode, route.bits, route.group_size, scale)
    return target, repack_kind(source, target) or "requantized"


def repack_kind(source: Format, target: Format) -> Kind | None:
    """Tell what becomes of the values when rows are repacked.

    The kind is what can be promised without looking at scales: "near" may turn out to be exact,
    and "requantized" says that rows can be repacked only where their values allow it.

    Returns:
        None if there is no way but to decode.
    """
    if isinstance(target, MLXFormat):
        return _kind_to_mlx(source, target)
    if isinstance(source, MLXFormat):
        return _kind_to_ggml(source, target)
    return None


def _kind_to_mlx(source: Format, target: MLXFormat) -> Kind | None:
    if isinstance(source, MLXFormat):
        if source.mode != "affine":
            return None
        route = Route(source.mode, source.bits, source.group_size, "exact")
        keeps = target.scale in (source.scale, "F32")
    elif source.name in TO_MLX:
        route = TO_MLX[source.name]
        keeps = target.scale in ("F16", "F32", "U8")
    else:
        return None
    if route.mode != target.mode or route.kind == "requantized":
        return None
    if route.bits > target.bits or route.group_size % target.group_size:
        return None
    if target.scale == "F32":
        return "exact"
    return route.kind if keeps else "near"


def _kind_to_ggml(source: MLXFormat, target: Format) -> Kind | None:
    if source.mode in _FLOAT_BLOCKS:
        return "exact" if _FLOAT_BLOCKS[source.mode][0] == target.name else None
    bits = _BITS.get(target.name, 0)
    if source.mode != "affine" or source.bits > bits:
        return None
    if LAYOUTS[target.name].zero:
        # With a bit more than the codes have, any zero among them fits; but scales of bfloat16
        # are too coarse to tell which one it is.
        fits = source.bits < bits and source.scale != "BF16"
        return "near" if fits else "requantized"
    return "exact" if source.scale == "F16" else "near"


def repack_rows(
    blocks: Bytes, source: Format, target: Format, columns: int, threads: int | None = None
) -> tuple[Bytes, float]:
    """Repack rows without choosing any value anew.

    Args:
        blocks: uint8 (rows, source.row_bytes(columns)), C-contiguous.
        source: what the rows are.
        target: what they become; `repack_kind` must know the pair.
        columns: values in a row.
        threads: how many cores to use; None for all.

    Returns:
        uint8 (rows, target.row_bytes(columns)), and the largest difference between a value decoded
        from them and from the source in float32; 0.0 if all are the same.

    Raises:
        UnknownTypeError: the pair cannot be repacked.
        ShapeError: a wrong shape or dtype, or rows that the target does not hold.
        ValueRangeError: scales that are NaN or infinite, or that the target cannot hold.
    """
    rows, kept, error = try_repack(blocks, source, target, columns, threads)
    if not kept.all():
        row = int(np.flatnonzero(~kept)[0])
        raise ValueRangeError(
            f"row {row} of {source.name} has scales or values that {target.name} cannot hold as "
            "they are",
            hint="decode and quantize anew, or choose scales of a wider type",
        )
    return rows, error


def try_repack(
    blocks: Bytes, source: Format, target: Format, columns: int, threads: int | None = None
) -> tuple[Bytes, NDArray[np.bool_], float]:
    """Repack the rows whose values allow it.

    Args:
        blocks, source, target, columns, threads: as in `repack_rows`.

    Returns:
        uint8 (rows, target.row_bytes(columns)); bool (rows,), false where a row is not repacked
        and its bytes mean nothing; and the largest error of the others.

    Raises:
        UnknownTypeError, ShapeError: as in `repack_rows`.
        ValueRangeError: a scale of a floating-point mode that is NaN.
    """
    if repack_kind(source, target) is None:
        raise UnknownTypeError(
            f"rows of {source.name} cannot be repacked as {target.name}",
            hint="decode and quantize them",
        )
    width = source.row_bytes(columns)
    if (
        blocks.ndim != 2
        or blocks.dtype != np.uint8
        or blocks.shape[1] != width
        or not blocks.flags.c_contiguous
    ):
        raise ShapeError(
            f"{source.name} rows of {columns} values must be contiguous uint8 (rows, {width}), "
            f"not {blocks.dtype} {blocks.shape}"
        )
    out = np.empty((len(blocks), target.row_bytes(columns)), np.uint8)
    kept = np.ones(len(blocks), np.bool_)
    errors = [0.0]

    floats = _float_mode(source, target)

    def work(start: int, stop: int) -> None:
        piece = blocks[start:stop]
        if floats is not None:
            out[start:stop] = _move_floats(piece, floats, source, columns, start)
            return
        with np.errstate(all="ignore"):  # what is not finite is found in `good`
            affine = _read(piece, source, columns)
            if isinstance(target, MLXFormat):
                rows, good, values = _write_mlx(affine, target, columns)
            else:
                rows, good, values = _write_ggml(affine, target)
            error = _largest_error(affine, values, good)
        out[start:stop] = rows
        kept[start:stop] = good
        errors.append(error)

    for_each_chunk(len(blocks), columns, threads, work)
    return out, kept, max(errors)


def _float_mode(source: Format, target: Format) -> MLXFormat | None:
    """Give the MLX format of a pair with floating-point values."""
    for fmt in (source, target):
        if isinstance(fmt, MLXFormat) and fmt.mode != "affine":
            return fmt
    return None


def _move_floats(
    rows: Bytes, fmt: MLXFormat, source: Format, columns: int, first_row: int
) -> Bytes:
    """Move the codes and scales of a floating-point mode between MLX's order and ggml's.

    MLX has neighbours in the nibbles of a byte; ggml has the first half of the values of a scale
    in the low nibbles of its bytes, the second half in the high ones.
    """
    name, invalid = _FLOAT_BLOCKS[fmt.mode]
    block = FORMATS[name]
    count, size = len(rows), fmt.group_size
    per_block = block.block_size // size  # scales in a block of ggml; they come first
    if isinstance(source, MLXFormat):
        words, scales, _ = split_rows(rows, fmt, columns)
        codes = unpack_codes(words.view(np.uint8), fmt.bits).reshape(count, -1, size)
        _check_floats(scales, invalid, fmt, first_row)
        packed = pack_nibbles(codes).reshape(count, -1, block.type_size - per_block)
        parts = [scales.reshape(count, -1, per_block), packed]
        return np.concatenate(parts, axis=2).reshape(count, -1)
    blocks = _blocks(rows, block)
    scales = blocks[..., :per_block].reshape(count, -1)
    _check_floats(scales, invalid, fmt, first_row)
    values = nibbles(blocks[..., per_block:].reshape(count, -1, size // 2))  # (n, groups, size)
    words = pack_codes(values.reshape(count, -1), fmt.bits).view("<u4")
    return join_rows(words, scales, None, fmt, columns)


def _check_floats(scales: Bytes, invalid: int, fmt: MLXFormat, first_row: int) -> None:
    if scales.size and scales.max() >= invalid:
        row = int(np.argwhere(scales >= invalid)[0][0])
        raise ValueRangeError(
            f"row {first_row + row} has a scale of {scales[row].max():#x}, which is no number in "
            f"{fmt.name}"
        )


def _blocks(rows: Bytes, fmt: BlockFormat) -> Bytes:
    """Give rows as (rows, blocks, bytes of a block)."""
    return rows.reshape(len(rows), -1, fmt.type_size)


def _read(rows: Bytes, fmt: Format, columns: int) -> Affine:
    if isinstance(fmt, MLXFormat):
        codes, scales, biases = split_rows(rows, fmt, columns)
        assert biases is not None
        return Affine(
            unpack_codes(codes.view(np.uint8), fmt.bits),
            widen_scales(scales, fmt),
            widen_scales(biases, fmt),
        )
    return UNPACKERS[fmt.name](_blocks(rows, FORMATS[fmt.name]))


_Written = tuple[Bytes, NDArray[np.bool_], Affine]
"""Rows; which of them hold what they should; and what they hold."""


def _finite_rows(scales: Floats) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(scales), axis=1)
    return finite


def _narrow(affine: Affine, fmt: MLXFormat) -> tuple[NDArray[Any], NDArray[Any], Affine]:
    """Round scales and biases to a type; give both as stored, and what the rows then hold.

    Where a scale changes, so does the mean of its group. Of the bias and the bias that makes up
    for that, each rounded, the one that leaves the smaller change of the mean is taken.
    """
    scales, biases = narrow_scales(affine.scales, fmt), narrow_scales(affine.biases, fmt)
    held, kept = widen_scales(scales, fmt), widen_scales(biases, fmt)
    if not np.array_equal(held, affine.scales):
        groups = affine.codes.reshape(*held.shape, -1)
        # Of short groups, einsum is twice as fast as sum.
        mean = np.einsum("rgv->rg", groups, dtype=np.uint16) / np.float32(affine.group_size)
        wanted = affine.biases + mean * (affine.scales - held)
        other = narrow_scales(wanted, fmt)
        made_up = widen_scales(other, fmt)
        better = np.abs(made_up - wanted) < np.abs(kept - wanted)
        biases, kept = np.where(better, other, biases), np.where(better, made_up, kept)
    return scales, biases, Affine(affine.codes, held, kept)


def _write_mlx(affine: Affine, fmt: MLXFormat, columns: int) -> _Written:
    affine = affine.regroup(fmt.group_size)
    scales, biases, held = _narrow(affine, fmt)
    good = _finite_rows(held.scales) & _finite_rows(held.biases)
    words = pack_codes(affine.codes, fmt.bits).view("<u4")
    return join_rows(words, scales, biases, fmt, columns), good, held


def _write_ggml(affine: Affine, fmt: Format) -> _Written:
    layout = LAYOUTS[fmt.name]
    affine = affine.regroup(32)
    _, _, held = _narrow(affine, _HALVES)
    good = _finite_rows(held.scales)
    if layout.zero:
        codes, fits = _signed_codes(affine, layout.zero)
        good &= fits
        held = Affine(codes, held.scales, -layout.zero * held.scales)
    else:
        good &= _finite_rows(held.biases)
    codes = held.codes.reshape(*held.scales.shape, 32)  # (rows, blocks, 32)
    added = held.biases if layout.has_m else None
    blocks = layout.write(Parts(codes, held.scales, added))
    return blocks.reshape(len(good), -1), good, held


def _signed_codes(affine: Affine, half: int) -> tuple[Bytes, NDArray[np.bool_]]:
    """Make codes of which `half` is zero; tell which rows have such codes.

    A row has them if each bias is a whole number of steps, or nearly, and no code leaves the
    range from 0 to 2 half - 1.
    """
    scales, biases = affine.scales, affine.biases
    steps = np.where(biases == 0, np.float32(0), np.rint(biases / scales))
    # More than 256 steps would leave no code in the range; NaN fails the comparisons.
    whole = np.abs(biases - steps * scales) <= np.abs(scales) * _OFF_GRID
    whole &= np.abs(steps) <= 256
    shift = np.where(whole, steps + half, 0).astype(np.int16)
    moved = affine.codes.reshape(*scales.shape, -1) + shift[..., None]
    inside = (moved >= 0) & (moved < 2 * half)
    fits = np.logical_and.reduce(inside & whole[..., None], axis=(1, 2))
    return moved.astype(np.uint8).reshape(affine.codes.shape), fits


def _largest_error(wanted: Affine, found: Affine, good: NDArray[np.bool_]) -> float:
    """Give the largest difference of two values in the good rows.

    Groups of `wanted` may be longer.
    """
    wanted = wanted.regroup(found.group_size)
    rows = good
    if wanted.codes is found.codes:
        same = (wanted.scales == found.scales) & (wanted.biases == found.biases)
        rows = good & ~np.logical_and.reduce(same, axis=1)
    if not rows.any():
        return 0.0
    if not rows.all():
        wanted, found = wanted.take(rows), found.take(rows)
    difference = wanted.values()
    difference -= found.values()
    return float(max(difference.max(), -difference.min()))
