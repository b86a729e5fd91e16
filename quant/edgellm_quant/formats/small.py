"""Formats of very few levels: one and two bits, ternary digits, and 4-bit floating point."""

from __future__ import annotations

from edgellm_quant.formats.base import BlockFormat

__all__ = ["SMALL"]

SMALL = (
    # sign bits and a float16 scale
    BlockFormat("Q1_0", 41, 128, 2 + 16),
    # two bits a value and a float16 scale
    BlockFormat("Q2_0", 42, 64, 2 + 16),
    # five ternary digits in a byte; the last 16 values four in a byte
    BlockFormat("TQ1_0", 34, 256, 48 + 4 + 2),
    # four ternary digits in a byte
    BlockFormat("TQ2_0", 35, 256, 64 + 2),
    # E2M1 values under one power of two (OCP Microscaling Formats 1.0)
    BlockFormat("MXFP4", 39, 32, 1 + 16),
    # E2M1 values, one E4M3 scale for each 16
    BlockFormat("NVFP4", 40, 64, 4 + 32),
)
