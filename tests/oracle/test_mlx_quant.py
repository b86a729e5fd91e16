"""Rows are encoded bit for bit as mlx.core.quantize does it on the CPU, and decoded as it does."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest

from edgellm_quant import ggml, mlx
from edgellm_quant.formats import FORMATS
from edgellm_quant.formats.mlx import (
    AFFINE_BITS,
    AFFINE_GROUPS,
    AFFINE_SCALES,
    FLOAT_MODES,
    MLXFormat,
    join_rows,
    split_rows,
)
from edgellm_quant.repack import best_target, repack_rows

pytestmark = pytest.mark.oracle
if importlib.util.find_spec("mlx") is None:
    pytest.skip("needs mlx", allow_module_level=True)

import mlx.core as mx  # noqa: E402

COLUMNS = 384
FLOATS = [MLXFormat(mode, *sizes, "U8") for mode, sizes in FLOAT_MODES.items()]
REPACKED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_NL", "TQ2_0", "MXFP4"]


@pytest.fixture(autouse=True)
def on_the_cpu():
    mx.set_default_device(mx.cpu)


def rows_of_all_kinds() -> np.ndarray:
    """Give rows that take every path: signs, sizes, constants, zeros, outliers, whole numbers."""
    random = np.random.default_rng(0)
    x = random.standard_normal((32, COLUMNS)).astype(np.float32)
    x[0], x[1], x[2], x[3] = 0, -0.0, 0.7, -0.3
    x[4], x[5] = np.abs(x[4]), -np.abs(x[5])
    for row, size in zip(range(6, 16), np.logspace(-12, 3.5, 10), strict=True):
        x[row] *= size
    x[16] = np.round(x[16])
    x[17], x[17, ::37] = 0, 1
    x[18] = np.clip(x[18] * np.exp(4 * random.standard_normal(COLUMNS)), -3e4, 3e4)
    x[19, ::2] = 0
    x[20], x[21] = np.linspace(-1, 1, COLUMNS), np.linspace(0, 255, COLUMNS)
    x[22, 0] = 6e4
    x[23] = random.choice(np.array([-1, 0, 1], np.float32), COLUMNS)
    x[24] = 3 * np.sign(x[24])
    return x


def stored(array: mx.array) -> np.ndarray:
    """Give an array as `join_rows` takes it: bfloat16 by its bits."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


@pytest.mark.parametrize("scale", AFFINE_SCALES)
@pytest.mark.parametrize(
    ("bits", "group_size"), list(itertools.product(AFFINE_BITS, AFFINE_GROUPS))
)
def test_affine_rows_are_those_of_mlx(bits: int, group_size: int, scale: str) -> None:
    fmt = MLXFormat("affine", bits, group_size, scale)
    dtype = {"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32}[scale]
    x = mx.array(rows_of_all_kinds()).astype(dtype)
    codes, scales, biases = mx.quantize(x, group_size=group_size, bits=bits)
    rows = join_rows(np.array(codes), stored(scales), stored(biases), fmt, COLUMNS)
    assert np.array_equal(mlx.quantize_rows(np.array(x.astype(mx.float32)), fmt), rows)
    wide = (scales.astype(mx.float32), biases.astype(mx.float32))
    decoded = mx.dequantize(codes, *wide, group_size=group_size, bits=bits)
    assert np.array_equal(mlx.dequantize_rows(rows, fmt, COLUMNS), np.array(decoded))


def test_mxfp4_rows_are_those_of_mlx() -> None:
    fmt = FLOATS[0]
    assert fmt.mode == "mxfp4"
    x = rows_of_all_kinds()
    # Around every edge between two scales: 6 times a power of two and its neighbours.
    edges = np.ldexp(np.float32(6), np.arange(-120, 120)).astype(np.float32).view(np.uint32)
    near = (edges[:, None] + np.arange(-4, 5)).astype(np.uint32).view(np.float32)  # (240, 9)
    sharp = np.zeros((near.size, COLUMNS), np.float32)
    sharp[:, 7] = near.ravel()
    for values in (x, sharp):
        codes, scales = mx.quantize(mx.array(values), mode="mxfp4")
        rows = join_rows(np.array(codes), np.array(scales), None, fmt, COLUMNS)
        assert np.array_equal(mlx.quantize_rows(values, fmt), rows)


@pytest.mark.parametrize("fmt", FLOATS, ids=lambda fmt: fmt.mode)
def test_floating_point_modes_decode_as_in_mlx(fmt: MLXFormat) -> None:
    codes, scales = mx.quantize(mx.array(rows_of_all_kinds()), mode=fmt.mode)
    rows = join_rows(np.array(codes), np.array(scales), None, fmt, COLUMNS)
    decoded = mx.dequantize(codes, scales, mode=fmt.mode, dtype=mx.float32)
    assert np.array_equal(mlx.dequantize_rows(rows, fmt, COLUMNS), np.array(decoded))


@pytest.mark.parametrize("name", REPACKED)
def test_mlx_reads_repacked_rows_as_ggml_reads_the_blocks(name: str) -> None:
    source = FORMATS[name]
    blocks = ggml.quantize_rows(np.resize(rows_of_all_kinds(), (32, 512)) / 300, source)
    target, _ = best_target(source, "F32")
    assert isinstance(target, MLXFormat)
    rows, error = repack_rows(blocks, source, target, 512)
    assert error == 0
    parts = [mx.array(part) for part in split_rows(rows, target, 512) if part is not None]
    decoded = mx.dequantize(
        *parts,
        group_size=target.group_size,
        bits=target.bits,
        mode=target.mode,
        dtype=mx.float32,
    )
    assert np.array_equal(np.array(decoded), ggml.dequantize_rows(blocks, source, 512))
