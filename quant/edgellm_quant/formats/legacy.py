"""The first formats: blocks of 32 values with one scale, or a scale and a minimum.

Bytes of a block: `d` (and `m`, or the sum of the values in Q8_1) are float16; Q5 has its fifth
bits in four bytes of their own.
"""

from __future__ import annotations

from edgellm_quant.formats.base import BlockFormat

__all__ = ["LEGACY"]

LEGACY = (
    BlockFormat("Q4_0", 2, 32, 2 + 16),
    BlockFormat("Q4_1", 3, 32, 2 + 2 + 16),
    BlockFormat("Q5_0", 6, 32, 2 + 4 + 16),
    BlockFormat("Q5_1", 7, 32, 2 + 2 + 4 + 16),
    BlockFormat("Q8_0", 8, 32, 2 + 32),
    # What activations are rounded to while a model runs; named here to bound files that use it.
    BlockFormat("Q8_1", 9, 32, 2 + 2 + 32),
)
