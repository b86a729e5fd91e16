"""The IQ formats: values come from a fixed grid of points (IQ1 to IQ3) or levels (IQ4)."""

from __future__ import annotations

from edgellm_quant.formats.base import BlockFormat

__all__ = ["IQ"]

IQ = (
    BlockFormat("IQ1_S", 19, 256, 2 + 32 + 16),
    BlockFormat("IQ1_M", 29, 256, 32 + 16 + 8),
    BlockFormat("IQ2_XXS", 16, 256, 2 + 64),
    BlockFormat("IQ2_XS", 17, 256, 2 + 64 + 8),
    BlockFormat("IQ2_S", 22, 256, 2 + 64 + 8 + 8),
    BlockFormat("IQ3_XXS", 18, 256, 2 + 96),
    BlockFormat("IQ3_S", 21, 256, 2 + 64 + 8 + 32 + 4),
    BlockFormat("IQ4_NL", 20, 32, 2 + 16),
    BlockFormat("IQ4_XS", 23, 256, 2 + 2 + 4 + 128),
)
