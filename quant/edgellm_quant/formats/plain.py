"""Plain numbers: one value is one block."""

from __future__ import annotations

from edgellm_quant.formats.base import BlockFormat

__all__ = ["PLAIN"]

PLAIN = (
    BlockFormat("F32", 0, 1, 4),
    BlockFormat("F16", 1, 1, 2),
    BlockFormat("BF16", 30, 1, 2),
    BlockFormat("F64", 28, 1, 8),
    BlockFormat("I8", 24, 1, 1),
    BlockFormat("I16", 25, 1, 2),
    BlockFormat("I32", 26, 1, 4),
    BlockFormat("I64", 27, 1, 8),
)
