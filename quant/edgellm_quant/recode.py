"""From any format to any other: copied, repacked, or decoded and encoded, whichever loses least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgellm_quant import ggml, mlx
from edgellm_quant.errors import QuantError, ShapeError, UnknownTypeError
from edgellm_quant.formats import BlockFormat, Format
from edgellm_quant.formats.mlx import MLXFormat
from edgellm_quant.repack import repack_kind, try_repack

__all__ = ["How", "Outcome", "how", "recode_rows"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

How = Literal["copied", "exact", "near", "requantized", "encoded"]
"""What happened to values: nothing; repacked as they are; repacked with rounded scales; decoded
from quantized values and quantized anew; rounded from plain numbers, or decoded to them."""

_WORST: tuple[How, ...] = ("copied", "exact", "near", "encoded", "requantized")


@dataclass(slots=True)
class Outcome:
    """What happened to the rows of a tensor, as `recode_rows` fills it in, slab by slab.

    `how` is the worst of all rows, None before the first; `max_abs_error` the largest difference
    between a repacked value and the source's, 0.0 while all are the same.
    """

    how: How | None = None
    max_abs_error: float = 0.0

    def add(self, how: How, error: float = 0.0) -> None:
        """Add what happened to more rows."""
        if self.how is None or _WORST.index(how) > _WORST.index(self.how):
            self.how = how
        self.max_abs_error = max(self.max_abs_error, error)


def how(source: Format, target: Format) -> How:
    """Tell what recoding does to values, as far as the formats alone say.

    "near" may turn out exact, and "requantized" may turn out better for rows whose values allow
    it: an `Outcome` has what was found.
    """
    if source == target:
        return "copied"
    if not source.is_quantized or not target.is_quantized:
        return "encoded"
    return repack_kind(source, target) or "requantized"


def recode_rows(
    blocks: Bytes,
    source: Format,
    target: Format,
    columns: int,
    importance: Floats | None = None,
    threads: int | None = None,
    outcome: Outcome | None = None,
) -> Bytes:
    """Turn rows of one format into rows of another.

    Args:
        blocks: uint8 (rows, source.row_bytes(columns)), C-contiguous.
        source: what the rows are.
        target: what they become.
        columns: values in a row.
        importance: float32 (columns,), for ggml's encoders; repacking chooses no values, so it
            has no use there.
        threads: how many cores to use; None for all.
        outcome: gets added what was done.

    Returns:
        uint8 (rows, target.row_bytes(columns)); `blocks` itself where the formats are the same.

    Raises:
        ShapeError: a wrong shape or dtype, or rows that a format does not hold.
        ValueRangeError: values that are NaN, infinite or too large for the target.
        ImportanceRequiredError: the target needs an importance vector.
        UnknownTypeError: the source has no decoder, or the target no encoder.
        QuantError: importance is given for MLX's encoders, which cannot weigh errors.
    """
    outcome = outcome or Outcome()
    if source == target:
        width = source.row_bytes(columns)
        if blocks.ndim != 2 or blocks.dtype != np.uint8 or blocks.shape[1] != width:
            raise ShapeError(
                f"{source.name} rows of {columns} values must be uint8 (rows, {width}), "
                f"not {blocks.dtype} {blocks.shape}"
            )
        outcome.add("copied")
        return blocks
    kind = repack_kind(source, target)
    if kind is None:
        plain = not source.is_quantized or not target.is_quantized
        out = _convert(blocks, source, target, columns, importance, threads)
        outcome.add("encoded" if plain else "requantized")
        return out
    out, kept, error = try_repack(blocks, source, target, columns, threads)
    rest = np.flatnonzero(~kept)
    if rest.size:
        out[rest] = _convert(blocks[rest], source, target, columns, importance, threads)
        outcome.add("requantized")
    if rest.size < len(blocks):
        outcome.add("near" if error else "exact", error)
    return out


def _convert(
    blocks: Bytes,
    source: Format,
    target: Format,
    columns: int,
    importance: Floats | None,
    threads: int | None,
) -> Bytes:
    """Decode and encode, each with the codec that knows the format."""
    if isinstance(source, BlockFormat) and isinstance(target, BlockFormat):
        return ggml.recode_rows(blocks, source, target, columns, importance, threads)
    if isinstance(target, MLXFormat) and importance is not None:
        raise QuantError(
            f"{target.name} is encoded without an importance vector",
            hint="leave the calibration out, or choose a type of GGUF",
        )
    values = _decode(blocks, source, columns, threads)
    if isinstance(target, MLXFormat):
        return mlx.quantize_rows(values, target, threads)
    if isinstance(target, BlockFormat):
        return ggml.quantize_rows(values, target, importance, threads)
    raise UnknownTypeError(f"nothing encodes {target.name}")


def _decode(blocks: Bytes, source: Format, columns: int, threads: int | None) -> Floats:
    if isinstance(source, MLXFormat):
        return mlx.dequantize_rows(blocks, source, columns, threads)
    if isinstance(source, BlockFormat):
        return ggml.dequantize_rows(blocks, source, columns, threads)
    raise UnknownTypeError(f"nothing decodes {source.name}")
