"""NaN and infinity: finding them in rows of any format, and encoding rows that hold them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgellm_quant.formats import FORMATS, BlockFormat, Format, MLXFormat
from edgellm_quant.ggml import recode_rows

__all__ = [
    "INFINITY",
    "SCALES",
    "is_finite",
    "not_finite",
    "recode_not_finite",
    "rows_are_finite",
    "spell",
]

Bytes = npt.NDArray[np.uint8]

# The bits of infinity. In IEEE 754, and in bf16 alike, a number is NaN or infinite if all bits of
# its exponent are set: without its sign it is then at least this, compared as a whole number.
INFINITY: Mapping[str, int] = {
    "F64": 0x7FF0 << 48,
    "F32": 0x7F800000,
    "F16": 0x7C00,
    "BF16": 0x7F80,
}
# The bytes of a block at which its float16 scales and minima lie (ggml-common.h). A block whose
# scale is NaN or infinite stands for such values alone. IQ1_M has its scale in pieces, MXFP4 and
# NVFP4 have scales of one byte: those are not looked at.
SCALES: Mapping[str, tuple[int, ...]] = {
    "Q1_0": (0,),
    "Q2_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ1_S": (0,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
# Bytes looked at in one go: both passes over them are in the cache.
PIECE = 1 << 18


def rows_are_finite(blocks: Bytes, fmt: Format, columns: int) -> bool:
    """Tell whether rows of a format hold no NaN and no infinity, as far as their scales say.

    Args:
        blocks: uint8 (rows, fmt.row_bytes(columns)).
        fmt: what the rows are.
        columns: values in a row.
    """
    if fmt.name in INFINITY:
        return is_finite(blocks, FORMATS[fmt.name])
    if isinstance(fmt, MLXFormat):
        if not fmt.has_biases:
            return True
        # scales and biases lie behind the codes
        scales = np.ascontiguousarray(blocks[:, 4 * fmt.words(columns) :])
        return is_finite(scales, FORMATS[fmt.scale])
    for offset in SCALES.get(fmt.name, ()):
        size = FORMATS[fmt.name].type_size
        column = blocks.reshape(-1, size)[:, offset : offset + 2]  # (blocks, 2)
        if not is_finite(np.ascontiguousarray(column), FORMATS["F16"]):
            return False
    return True


def is_finite(blocks: Bytes, fmt: BlockFormat) -> bool:
    """Tell whether all numbers of a plain format are finite.

    As signed whole numbers, positive ones are at least infinity's bits if they are NaN or infinite;
    as unsigned ones, negative ones are. Two maxima need no memory and no arithmetic.
    """
    bits = 8 * fmt.type_size
    infinity = INFINITY[fmt.name]
    words = blocks.reshape(-1).view(f"<u{fmt.type_size}")
    step = PIECE // fmt.type_size
    for start in range(0, len(words), step):
        piece = words[start : start + step]
        if piece.max() >= infinity | 1 << (bits - 1):
            return False
        if piece.view(f"<i{fmt.type_size}").max() >= infinity:
            return False
    return True


def not_finite(blocks: Bytes, fmt: BlockFormat) -> npt.NDArray[np.bool_]:
    """Tell of each number whether it is NaN or infinite: (rows, columns)."""
    words = blocks.view(f"<u{fmt.type_size}")
    infinity = INFINITY[fmt.name]
    bad: npt.NDArray[np.bool_] = (words & np.array(infinity, words.dtype)) == infinity
    return bad


def spell(cell: Bytes, fmt: BlockFormat) -> str:
    """Name the NaN or infinity in the bytes of one number."""
    word = int(cell.view(f"<u{fmt.type_size}")[0])
    bits = 8 * fmt.type_size
    sign, magnitude = word >> (bits - 1), word & ((1 << (bits - 1)) - 1)
    if magnitude > INFINITY[fmt.name]:
        return "NaN"
    return "-infinity" if sign else "infinity"


def recode_not_finite(
    blocks: Bytes, target: BlockFormat, columns: int, threads: int | None
) -> Bytes:
    """Encode float32 rows to a plain format of fewer bits, and keep NaN and infinity.

    Finite values that are too large are refused, as ever.

    Raises:
        ValueRangeError: a finite value is too large for the format.
    """
    values = blocks.view(np.float32).copy()
    bad = ~np.isfinite(values)
    special = values[bad]
    values[bad] = 0
    out = recode_rows(values.view(np.uint8), FORMATS["F32"], target, columns, threads=threads)
    # The upper half of a float32 is its bf16; a quiet NaN stays one.
    kind = np.where(np.isnan(special), INFINITY[target.name] | INFINITY[target.name] >> 1, 0)
    kind |= np.where(np.isinf(special), INFINITY[target.name], 0)
    kind |= np.where(np.signbit(special), 1 << (8 * target.type_size - 1), 0)
    out.view(f"<u{target.type_size}")[bad] = kind
    return out
