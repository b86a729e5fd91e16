"""What takes the place of a format whose blocks do not divide a row."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm_quant.errors import ShapeError
from edgellm_quant.formats import FORMATS, BlockFormat

__all__ = ["FALLBACKS", "fall_back"]

# From wide blocks to blocks of 32 values, with about as many bits or the next step up.
FALLBACKS: Mapping[str, str] = {
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q2_0": "Q4_0",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}


def fall_back(wanted: BlockFormat, columns: int) -> tuple[BlockFormat, str | None]:
    """Give the format for rows of `columns` values, and the reason if it is not the wanted one.

    Raises:
        ShapeError: the rows do not fit and the format has no fallback.
    """
    if wanted.holds(columns):
        return wanted, None
    reason = f"{columns} columns are no multiple of {wanted.block_size}"
    smaller = FORMATS[FALLBACKS.get(wanted.name, wanted.name)]
    if smaller.holds(columns):
        return smaller, reason
    if smaller is wanted and wanted.block_size > 32:
        raise ShapeError(f"{reason}, and {wanted.name} has no fallback", hint="choose another type")
    if smaller is not wanted:
        reason += f" or {smaller.block_size}"
    return FORMATS["F16"], reason
