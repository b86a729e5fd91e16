"""The 8-bit floats of safetensors files, as tables of the 256 values that a byte can stand for.

E4M3 (without infinities) and E5M2 are those of "FP8 Formats for Deep Learning" (Micikevicius et al.
2022), E8M0 is the scale of the OCP Microscaling Formats 1.0. Every value is exact in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

__all__ = ["FLOAT8", "decode_float8"]

Floats = npt.NDArray[np.float32]


def _table(exponent_bits: int, bias: int) -> Floats:
    """Give the value of each byte: sign, exponent, mantissa; all of them finite as yet."""
    mantissa_bits = 7 - exponent_bits
    codes = np.arange(256)
    mantissa = codes & (1 << mantissa_bits) - 1
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    # A subnormal number has the exponent of the smallest normal one, and no leading 1.
    significand = np.where(exponent > 0, mantissa + (1 << mantissa_bits), mantissa)
    magnitude: npt.NDArray[np.float64] = np.ldexp(
        significand, np.maximum(exponent, 1) - bias - mantissa_bits
    )
    return np.where(codes < 128, magnitude, -magnitude).astype(np.float32, copy=False)


def _e4m3() -> Floats:
    table = _table(4, 7)
    table[[0x7F, 0xFF]] = np.nan  # the only two; the rest of the last exponent are numbers
    return table


def _e5m2() -> Floats:
    table = _table(5, 15)
    table[[0x7C, 0xFC]] = np.inf, -np.inf
    table[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return table


def _e8m0() -> Floats:
    table = np.ldexp(np.float64(1), np.arange(256) - 127)
    table[0xFF] = np.nan
    return table.astype(np.float32)


FLOAT8: Mapping[str, Floats] = MappingProxyType(
    {"F8_E4M3": _e4m3(), "F8_E5M2": _e5m2(), "F8_E8M0": _e8m0()}
)
"""The float32 value of each byte, (256,), by the dtype's name in a safetensors header."""


def decode_float8(codes: npt.NDArray[np.uint8], dtype: str) -> Floats:
    """Give the float32 values of bytes, in their shape."""
    return FLOAT8[dtype][codes]
