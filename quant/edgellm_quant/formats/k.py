"""The K formats: super-blocks of 256 values; the scales of their sub-blocks are quantized too."""

from __future__ import annotations

from edgellm_quant.formats.base import BlockFormat

__all__ = ["K"]

K = (
    # 16 scales and minima of 4 bits each, values of 2 bits, d and dmin
    BlockFormat("Q2_K", 10, 256, 16 + 64 + 2 + 2),
    # the third bits, the two lower ones, 16 scales of 6 bits, d
    BlockFormat("Q3_K", 11, 256, 32 + 64 + 12 + 2),
    # d and dmin, 8 scales and minima of 6 bits, values of 4 bits
    BlockFormat("Q4_K", 12, 256, 2 + 2 + 12 + 128),
    # as Q4_K, and the fifth bits
    BlockFormat("Q5_K", 13, 256, 2 + 2 + 12 + 32 + 128),
    # the four lower bits, the two upper ones, 16 scales of 8 bits, d
    BlockFormat("Q6_K", 14, 256, 128 + 64 + 16 + 2),
    # What activations are rounded to while a model runs: float32 d, values, sums of 16 values.
    BlockFormat("Q8_K", 15, 256, 4 + 256 + 32),
)
