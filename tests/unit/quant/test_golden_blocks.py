"""Blocks written by hand from the layouts, at least one for each family."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_quant.formats import FORMATS
from edgellm_quant.ggml import dequantize_rows, quantize_rows

ONE = b"\x00\x3c"  # 1.0 in float16, little-endian
HALF = b"\x00\x38"


def nibbles(values):
    """Pack 4-bit codes: the first half in the low nibbles, the second in the high ones."""
    half = len(values) // 2
    return bytes(low | high << 4 for low, high in zip(values[:half], values[half:], strict=True))


def q4_0():
    codes = [*range(16), *range(15, -1, -1)]
    return ONE + nibbles(codes), [code - 8 for code in codes]


def q4_1():
    codes = [*range(16), *range(15, -1, -1)]
    return ONE + HALF + nibbles(codes), [code + 0.5 for code in codes]


def q5_0():
    codes = [(7 * at) % 32 for at in range(32)]
    high = sum((code >> 4) << at for at, code in enumerate(codes))
    packed = ONE + high.to_bytes(4, "little") + nibbles([code & 15 for code in codes])
    return packed, [code - 16 for code in codes]


def q8_0():
    values = [127, -127, 1, -1, *range(28)]
    return ONE + np.array(values, np.int8).tobytes(), values


def q4_k():
    # Scales 1..8 and minima 9..16 of six bits. The first four of each fill the low six bits of
    # eight bytes; of the others the low nibbles share four bytes, and the upper two bits would be
    # the top bits of the first eight bytes (all zero here but for minimum 16 = 0b010000).
    scales, minima = [*range(1, 9)], [*range(9, 17)]
    packed = [*scales[:4], *minima[:4]]
    for at in range(4):
        packed[at] |= (scales[4 + at] >> 4) << 6
        packed[4 + at] |= (minima[4 + at] >> 4) << 6
    packed += [scales[4 + at] & 15 | (minima[4 + at] & 15) << 4 for at in range(4)]
    codes = np.arange(256).reshape(8, 32) % 13  # (8 sub-blocks, 32)
    pairs = codes.reshape(4, 2, 32)  # two sub-blocks share 32 bytes
    quants = (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
    values = codes * np.array(scales)[:, None] - 0.5 * np.array(minima)[:, None]
    return ONE + HALF + bytes(packed) + quants, values.ravel()


def q6_k():
    # Low bits 15 and high bits 2 everywhere: code 47, value 47 - 32 = 15, times a scale for 16.
    scales = np.arange(-8, 8, dtype=np.int8)
    packed = b"\xff" * 128 + b"\xaa" * 64 + scales.tobytes() + ONE
    return packed, np.repeat(15.0 * scales, 16)


def iq4_nl():
    levels = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    codes = [*range(16), *range(15, -1, -1)]
    return ONE + nibbles(codes), [levels[code] for code in codes]


def iq2_xxs():
    # The first grid point is eight times 8; scale code 0 means d * (0.5 + 0) / 4.
    return ONE + bytes(64), [1.0] * 256


def tq2_0():
    codes = np.arange(256) % 3
    packed = np.zeros(64, np.uint8)
    for at, code in enumerate(codes):  # 128 values in 32 bytes, 2 bits from each 32
        part, within = divmod(at, 128)
        packed[32 * part + within % 32] |= code << 2 * (within // 32)
    return packed.tobytes() + ONE, codes - 1.0


def tq1_0():
    # A byte holds five digits as ceil(value * 256 / 243): digits 2 2 2 2 2 are 242, hence 255.
    # The last four bytes hold four digits: 2 2 2 2 0 are 240, hence 253.
    return b"\xff" * 48 + b"\xfd" * 4 + ONE, [1.0] * 256


def mxfp4():
    levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    levels += [-level for level in levels]
    codes = [*range(16), *range(15, -1, -1)]
    return b"\x80" + nibbles(codes), [2 * levels[code] for code in codes]  # 2^(128 - 127)


def nvfp4():
    # E4M3 scales 0x38 (1.0), 0x40 (2.0), 0x3C (1.5), 0x30 (0.5), each for 16 values.
    levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    packed = bytes([0x38, 0x40, 0x3C, 0x30]) + 4 * nibbles([*range(16)])
    return packed, [scale * level for scale in (1.0, 2.0, 1.5, 0.5) for level in levels]


def q1_0():
    return ONE + b"\x01" * 16, ([1] + [-1] * 7) * 16


def q2_0():
    return ONE + b"\xe4" * 16, [-1, 0, 1, 2] * 16


GOLDEN = {
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q8_0": q8_0,
    "Q4_K": q4_k,
    "Q6_K": q6_k,
    "IQ4_NL": iq4_nl,
    "IQ2_XXS": iq2_xxs,
    "TQ1_0": tq1_0,
    "TQ2_0": tq2_0,
    "MXFP4": mxfp4,
    "NVFP4": nvfp4,
    "Q1_0": q1_0,
    "Q2_0": q2_0,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_decode(name):
    packed, values = GOLDEN[name]()
    fmt = FORMATS[name]
    assert len(packed) == fmt.type_size
    block = np.frombuffer(packed, np.uint8)[None]
    decoded = dequantize_rows(block, fmt, fmt.block_size)
    assert decoded.tolist() == [[float(value) for value in values]]


# Formats in which the values above leave the encoder no choice.
@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
def test_encode(name):
    packed, values = GOLDEN[name]()
    encoded = quantize_rows(np.array([values], np.float32), FORMATS[name])
    assert encoded.tobytes() == packed or name == "MXFP4"
    # MXFP4 has two zeros: compare what the codes mean.
    decoded = dequantize_rows(encoded, FORMATS[name], len(values))
    assert decoded.tolist() == [[float(value) for value in values]]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("F16", 0x3F800000, 0x3C00),  # 1
        ("F16", 0x3F801000, 0x3C00),  # a tie goes to the even neighbour: down ...
        ("F16", 0x3F803000, 0x3C02),  # ... and up
        ("F16", 0x33800000, 0x0001),  # 2^-24, the smallest denormal
        ("F16", 0x33000000, 0x0000),  # half of it, a tie
        ("F16", 0x80000000, 0x8000),  # -0
        ("F16", 0x477FEFFF, 0x7BFF),  # just below 65520
        ("BF16", 0x3F800000, 0x3F80),
        ("BF16", 0x3F808000, 0x3F80),
        ("BF16", 0x3F818000, 0x3F82),
        ("BF16", 0x00018000, 0x0002),  # denormals are kept
        ("BF16", 0x80000001, 0x8000),
        ("BF16", 0x7F7F7FFF, 0x7F7F),
        ("F32", 0x00000001, 0x00000001),
        ("F32", 0x7FC00000, 0x7FC00000),  # float32 is copied, NaN and all
    ],
)
def test_rounding(name, value, expected):
    x = np.array([[value] * 3], np.uint32).view(np.float32)
    raw = quantize_rows(x, FORMATS[name]).view(np.uint32 if name == "F32" else np.uint16)
    assert raw.tolist() == [[expected] * 3]
