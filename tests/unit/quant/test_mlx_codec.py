"""Encoding and decoding the formats of MLX, by hand; what mlx says is in tests/oracle."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_quant import mlx
from edgellm_quant.errors import ShapeError, UnknownTypeError, ValueRangeError
from edgellm_quant.formats.mlx import MLXFormat, join_rows, split_rows

MXFP4 = MLXFormat("mxfp4", 4, 32, "U8")


def affine(bits, group_size=32, scale="F16"):
    return MLXFormat("affine", bits, group_size, scale)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("scale", ["F16", "BF16", "F32"])
def test_a_ramp_is_held_exactly(bits, scale):
    # Whole numbers from -2 to the top: the top is farther from zero, so it has code 0, the scale
    # is -1, and a value v has the code top - v.
    top = 2**bits - 3
    x = np.resize(np.arange(-2, top + 1, dtype=np.float32), (2, 256))
    fmt = affine(bits, 128, scale)
    if bits == 8:  # a group must hold both ends
        x[:, [0, 128]], x[:, [1, 129]] = -2, top
    if bits == 2:  # -2 is the far end here: code 0, and the scale is 1
        expected, edge, step = x + 2, -2, 1
    else:
        expected, edge, step = top - x, top, -1
    rows = mlx.quantize_rows(x, fmt)
    codes, scales, biases = split_rows(rows, fmt, 256)
    if bits == 8:
        assert np.array_equal(codes.view(np.uint8), expected)
    assert np.array_equal(mlx.widen_scales(scales, fmt), np.full((2, 2), step))
    assert np.array_equal(mlx.widen_scales(biases, fmt), np.full((2, 2), edge))
    assert np.array_equal(mlx.dequantize_rows(rows, fmt, 256), x)


def test_a_group_by_hand():
    # From -1 to 0.5, 3 steps: -1 is farther from zero; 0.5 a step; zero is code 2.
    x = np.zeros((1, 32), np.float32)
    x[0, :5] = -1, 0.5, -0.5, 0.3, -0.7
    rows = mlx.quantize_rows(x, affine(2))
    first = 0 | 3 << 2 | 1 << 4 | 3 << 6 | 1 << 8  # 0.3 is nearer to 0.5, -0.7 to -0.5
    rest = sum(2 << 2 * at for at in range(5, 16))
    other = sum(2 << 2 * at for at in range(16))
    expected = np.array([first | rest, other], "<u4").tobytes()
    expected += np.array([0.5, -1], "<f2").tobytes()
    assert rows.tobytes() == expected


def test_zeros_get_the_least_scale():
    fmt = affine(4, scale="F32")
    _, scales, biases = split_rows(mlx.quantize_rows(np.zeros((1, 32), np.float32), fmt), fmt, 32)
    assert scales[0, 0] == np.float32(-1e-7)
    assert biases[0, 0] == 0


@pytest.mark.parametrize(("value", "code"), [(0.25, 0), (0.26, 1), (0.75, 1), (1.25, 2), (1.3, 3)])
def test_mxfp4_rounds_half_way_values_down(value, code):
    x = np.zeros((1, 32), np.float32)
    x[0, 0], x[0, 1], x[0, 2] = 6, value, -value
    codes, scales, biases = split_rows(mlx.quantize_rows(x, MXFP4), MXFP4, 32)
    assert scales[0, 0] == 127
    assert biases is None
    assert codes[0, 0] == 7 | code << 4 | (code | 8 if code else 0) << 8


@pytest.mark.parametrize(
    ("largest", "exponent"), [(6, 0), (np.nextafter(np.float32(6), np.float32(7)), 1), (3, -1)]
)
def test_mxfp4_takes_the_least_scale_that_holds_all(largest, exponent):
    x = np.full((1, 32), largest, np.float32)
    _, scales, _ = split_rows(mlx.quantize_rows(x, MXFP4), MXFP4, 32)
    assert scales[0, 0] == 127 + exponent


def test_floating_point_modes_decode_by_hand():
    # E2M1: 0 0.5 1 1.5 2 3 4 6, then the same below zero; E8M0 128 doubles.
    row = np.array([[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 2 + [128]], np.uint8)
    levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    expected = 2 * np.array((levels + [-level for level in levels]) * 2)
    assert np.array_equal(mlx.dequantize_rows(row, MXFP4, 32)[0], expected)
    # The same codes under an E4M3 scale: 0x3C is 1.5, 0x01 is 2**-9.
    nvfp4 = MLXFormat("nvfp4", 4, 16, "U8")
    row[0, 16:], row = 0x3C, np.append(row[:, :16], [[0x3C, 1]], axis=1).astype(np.uint8)
    expected = np.array(levels + [-level for level in levels])
    found = mlx.dequantize_rows(row, nvfp4, 32)[0]
    assert np.array_equal(found[:16], 1.5 * expected)
    assert np.array_equal(found[16:], expected / 512)
    # E4M3 codes: 0x7E is 448, 0x08 the least normal number 2**-6, 0xB8 is -1.
    row = np.array([[0x7E, 8, 0xB8, 0] * 8 + [126]], np.uint8)
    found = mlx.dequantize_rows(row, MLXFormat("mxfp8", 8, 32, "U8"), 32)
    assert np.array_equal(found[0, :4], [224, 2**-7, -0.5, 0])


@pytest.mark.parametrize("fmt", [affine(4), affine(3, 128, "BF16"), affine(6, 64, "F32"), MXFP4])
def test_bytes_do_not_depend_on_threads_or_slabs(fmt):
    x = np.random.default_rng(0).standard_normal((600, 512), np.float32)
    one = mlx.quantize_rows(x, fmt, threads=1)
    assert np.array_equal(one, mlx.quantize_rows(x, fmt, threads=5))
    slabs = [mlx.quantize_rows(x[at : at + 77], fmt, threads=2) for at in range(0, 600, 77)]
    assert np.array_equal(one, np.concatenate(slabs))
    back = mlx.dequantize_rows(one, fmt, 512, threads=1)
    assert np.array_equal(back, mlx.dequantize_rows(one, fmt, 512, threads=3))
    limit = 0.025 if fmt.bits == 6 else 0.4
    assert 0 < np.sqrt(((back - x) ** 2).mean()) < limit


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fmt", [affine(4), MXFP4])
def test_values_that_are_no_numbers_are_refused(bad, fmt):
    x = np.ones((3, 64), np.float32)
    x[2, 33] = bad
    with pytest.raises(ValueRangeError, match=f"row 2, column 33 is {bad}"):
        mlx.quantize_rows(x, fmt, threads=1)


@pytest.mark.parametrize(
    ("fmt", "value"),
    [(affine(4), 7e4), (affine(4), -7e4), (affine(8, scale="F32"), 3.2e38), (affine(2), 1e30)],
)
def test_values_beyond_the_scales_are_refused(fmt, value):
    x = np.ones((3, 64), np.float32)
    x[1, 3], x[1, 4] = value, -value
    with pytest.raises(ValueRangeError, match=r"row 1 holds values up to .* type") as caught:
        mlx.quantize_rows(x, fmt, threads=1)
    assert "F32" in caught.value.hint


def test_wrong_arrays_are_refused():
    with pytest.raises(ShapeError, match="contiguous float32"):
        mlx.quantize_rows(np.zeros((2, 64)), affine(4))
    with pytest.raises(ShapeError, match="48 values"):
        mlx.quantize_rows(np.zeros((2, 48), np.float32), affine(4))
    with pytest.raises(ShapeError, match=r"uint8 \(rows, 40\)"):
        mlx.dequantize_rows(np.zeros((2, 41), np.uint8), affine(4), 64)
    with pytest.raises(UnknownTypeError, match="MLX_NVFP4 can be decoded only"):
        mlx.quantize_rows(np.zeros((2, 64), np.float32), MLXFormat("nvfp4", 4, 16, "U8"))


@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_are_rows(rows):
    x = np.zeros((rows, 64), np.float32)
    encoded = mlx.quantize_rows(x, affine(5))
    assert encoded.shape == (rows, 40 + 8)
    assert np.array_equal(mlx.dequantize_rows(encoded, affine(5), 64), x)


def test_bfloat16_is_rounded_to_nearest_even():
    fmt = affine(4, scale="BF16")
    # between 1 and 1 + 2**-7: half-way goes to the even one, and half-way above it too
    values = np.array([[1 + 2**-8, 1 + 2**-8 + 2**-20, 1 + 3 * 2**-8, -3e38]], np.float32)
    found = mlx.widen_scales(mlx.narrow_scales(values, fmt), fmt)
    assert found[0, :3].tolist() == [1, 1 + 2**-7, 1 + 2**-6]
    assert abs(found[0, 3] / -3e38 - 1) < 2**-8
    codes = np.zeros((1, 4), np.uint32)
    bits = mlx.narrow_scales(np.ones((1, 1), np.float32), fmt)
    assert bits[0, 0] == 0x3F80
    assert np.array_equal(
        mlx.dequantize_rows(join_rows(codes, bits, bits, fmt, 32), fmt, 32), np.ones((1, 32))
    )
