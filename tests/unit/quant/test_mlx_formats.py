"""The formats of MLX: their names, sizes and rows; codes as a stream of bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgellm_quant.bitstream import pack_codes, unpack_codes
from edgellm_quant.errors import ShapeError, UnknownTypeError
from edgellm_quant.formats import Format
from edgellm_quant.formats.mlx import (
    AFFINE_BITS,
    AFFINE_GROUPS,
    AFFINE_SCALES,
    FLOAT_MODES,
    MLXFormat,
    join_rows,
    split_rows,
)

AFFINE = [
    MLXFormat("affine", *parts)
    for parts in itertools.product(AFFINE_BITS, AFFINE_GROUPS, AFFINE_SCALES)
]
FLOATS = [MLXFormat(mode, *sizes, "U8") for mode, sizes in FLOAT_MODES.items()]


def names(formats):
    return [f"{fmt.name}-{fmt.scale}" for fmt in formats]


def test_names_and_sizes():
    fmt: Format = MLXFormat("affine", 4, 64, "F16")
    assert fmt.name == "MLX4G64"
    assert fmt.bits_per_weight == 4.5
    assert fmt.is_quantized
    # 128 codes of half a byte; two groups with a scale and a bias of two bytes each
    assert fmt.row_bytes(128) == 64 + 2 * 2 * 2
    assert MLXFormat("affine", 3, 32, "F32").row_bytes(32) == 12 + 8
    mxfp4 = MLXFormat("mxfp4", 4, 32, "U8")
    assert (mxfp4.name, mxfp4.bits_per_weight, mxfp4.row_bytes(64)) == ("MLX_MXFP4", 4.25, 34)
    assert MLXFormat("nvfp4", 4, 16, "U8").row_bytes(48) == 24 + 3
    assert MLXFormat("mxfp8", 8, 32, "U8").bits_per_weight == 8.25


@pytest.mark.parametrize(
    "parts",
    [
        ("affine", 7, 64, "F16"),
        ("affine", 1, 64, "F16"),
        ("affine", 4, 16, "F16"),
        ("affine", 4, 64, "U8"),
        ("affine", 4, 0, "F16"),
        ("mxfp4", 4, 64, "U8"),
        ("mxfp4", 4, 32, "F16"),
        ("mxfp4", 8, 32, "U8"),
        ("nvfp4", 4, 32, "U8"),
        ("int4", 4, 32, "F16"),
    ],
)
def test_combinations_that_mlx_has_not_are_refused(parts):
    with pytest.raises(UnknownTypeError, match=f"'{parts[0]}' of {parts[1]} bits") as caught:
        MLXFormat(*parts)
    assert "mxfp4" in caught.value.hint


@pytest.mark.parametrize("columns", [0, -64, 32, 96, 100])
def test_rows_that_are_no_whole_groups_are_refused(columns):
    fmt = MLXFormat("affine", 4, 64, "F16")
    assert not fmt.holds(columns)
    with pytest.raises(ShapeError, match=f"{columns} values .* 64 values in a group of MLX4G64"):
        fmt.row_bytes(columns)


# Eight codes, and the bytes that they make, written by hand: the stream from its end, as one
# binary number, is the codes from the last to the first.
STREAMS = {
    1: ([1, 0, 0, 1, 1, 0, 1, 0], [0b01011001]),
    2: ([0, 1, 2, 3, 3, 2, 1, 0], [0b11_10_01_00, 0b00_01_10_11]),
    3: ([0, 1, 2, 3, 4, 5, 6, 7], [0b10_001_000, 0b1_100_011_0, 0b111_110_10]),
    4: ([1, 2, 3, 4, 5, 6, 7, 8], [0x21, 0x43, 0x65, 0x87]),
    5: (
        [1, 2, 4, 8, 16, 31, 0, 21],
        [0b010_00001, 0b0_00100_00, 0b0000_0100, 0b00_11111_1, 0b10101_000],
    ),
    6: (
        [1, 2, 3, 63, 32, 0, 5, 42],
        [0b10_000001, 0b0011_0000, 0b111111_00, 0b00_100000, 0b0101_0000, 0b101010_00],
    ),
    8: ([1, 2, 3, 250, 251, 252, 253, 255], [1, 2, 3, 250, 251, 252, 253, 255]),
}


@pytest.mark.parametrize("bits", STREAMS)
def test_streams_of_bits_by_hand(bits):
    codes, packed = (np.array([values] * 2, np.uint8) for values in STREAMS[bits])
    assert np.array_equal(pack_codes(codes, bits), packed)
    assert np.array_equal(unpack_codes(packed, bits), codes)


@pytest.mark.parametrize("bits", [3, 5, 6])
def test_a_code_may_straddle_two_words(bits):
    codes = np.zeros((1, 32), np.uint8)
    at = 32 // bits  # its first bit is in the first word
    codes[0, at] = 2**bits - 1
    words = pack_codes(codes, bits).view("<u4")[0]
    value = (2**bits - 1) << (at * bits)
    assert words[0] == value & 0xFFFFFFFF
    assert words[1] == value >> 32 > 0


@pytest.mark.parametrize("fmt", AFFINE + FLOATS, ids=names(AFFINE + FLOATS))
def test_rows_are_taken_apart_and_put_together(fmt):
    random = np.random.default_rng(1)
    rows = random.integers(0, 256, (3, fmt.row_bytes(256)), np.uint8)
    codes, scales, biases = split_rows(rows, fmt, 256)
    assert codes.dtype == np.uint32
    assert codes.shape == (3, 8 * fmt.bits)
    assert scales.shape == (3, 256 // fmt.group_size)
    assert (biases is None) == (fmt.mode != "affine")
    assert (
        bytes(codes[1].tobytes() + scales[1].tobytes())
        == rows[1].tobytes()[: codes[1].nbytes + scales[1].nbytes]
    )
    assert np.array_equal(join_rows(codes, scales, biases, fmt, 256), rows)


def test_arrays_that_do_not_belong_together_are_refused():
    fmt = MLXFormat("affine", 4, 32, "F16")
    codes, scales = np.zeros((2, 8), np.uint32), np.zeros((2, 2), np.float16)
    with pytest.raises(ShapeError, match="MLX4G32 has biases"):
        join_rows(codes, scales, None, fmt, 64)
    with pytest.raises(ShapeError, match=r"float16 \(2, 2\), not float32"):
        join_rows(codes, scales.astype(np.float32), scales, fmt, 64)
    with pytest.raises(ShapeError, match=r"uint32 \(2, 8\), not uint32 \(2, 7\)"):
        join_rows(codes[:, :7], scales, scales, fmt, 64)
    with pytest.raises(ShapeError, match="has no biases"):
        join_rows(codes, scales, scales, MLXFormat("mxfp4", 4, 32, "U8"), 64)
    with pytest.raises(ShapeError, match=r"uint8 \(rows, 40\)"):
        split_rows(np.zeros((2, 41), np.uint8), fmt, 64)
