"""Parts of blocks stand for what libggml and mlx decode, and become the same bytes again."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_quant import ggml, mlx
from edgellm_quant.codes import LAYOUTS, layout_of
from edgellm_quant.formats import FORMATS
from edgellm_quant.formats.mlx import AFFINE_BITS, AFFINE_GROUPS, AFFINE_SCALES, MLXFormat

# A byte of TQ1_0 holds five of three digits: 243 of its 256 values are ever written.
FREE = sorted(set(LAYOUTS) - {"TQ1_0"})
MLX = [
    MLXFormat("affine", bits, size, scale)
    for bits in AFFINE_BITS
    for size in AFFINE_GROUPS
    for scale in AFFINE_SCALES
] + [MLXFormat("mxfp4", 4, 32, "U8")]


def random_blocks(name: str, rows: int, blocks: int, seed: int = 0) -> np.ndarray:
    """Blocks of any bytes whose scales are finite numbers."""
    rng = np.random.default_rng(seed)
    fmt = FORMATS[name]
    out = rng.integers(0, 256, (rows, blocks, fmt.type_size), dtype=np.uint8)
    layout = LAYOUTS[name]
    if name == "MXFP4":
        out[..., 0] = rng.integers(0, 255, out.shape[:2])
    elif name == "NVFP4":
        out[..., :4] = rng.integers(0, 127, (*out.shape[:2], 4))
    else:
        parts = layout.read(out)
        scale = rng.normal(size=out.shape[:2]).astype(np.float16).astype(np.float32)
        added = scale[::-1].copy() if layout.has_m else None
        out = layout.write(type(parts)(parts.codes, scale, added, parts.steps, parts.steps_m))
    return out


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_values_are_those_of_ggml(name: str) -> None:
    blocks, layout = random_blocks(name, 5, 3), LAYOUTS[name]
    wanted = ggml.dequantize_rows(blocks.reshape(5, -1), FORMATS[name], 3 * layout.block)
    with np.errstate(over="ignore"):
        found = layout.values(layout.read(blocks))
    np.testing.assert_array_equal(found.reshape(5, -1), wanted)


@pytest.mark.parametrize("name", FREE)
def test_parts_of_any_bytes_become_them_again(name: str) -> None:
    blocks = random_blocks(name, 5, 3, seed=1)
    np.testing.assert_array_equal(LAYOUTS[name].write(LAYOUTS[name].read(blocks)), blocks)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_parts_of_what_ggml_wrote_become_it_again(name: str) -> None:
    fmt, rng = FORMATS[name], np.random.default_rng(2)
    values = rng.normal(size=(7, 2 * fmt.block_size)).astype(np.float32)
    blocks = ggml.quantize_rows(values, fmt).reshape(7, 2, fmt.type_size)
    np.testing.assert_array_equal(LAYOUTS[name].write(LAYOUTS[name].read(blocks)), blocks)


def test_layouts_and_formats_agree() -> None:
    for name, layout in LAYOUTS.items():
        assert layout.block == FORMATS[name].block_size
        assert layout.block % layout.group == 0
        if layout.zero is not None:
            np.testing.assert_array_equal(np.diff(layout.levels), 1)
            assert layout.levels[layout.zero] == 0


@pytest.mark.parametrize("fmt", MLX, ids=lambda fmt: f"{fmt.name}-{fmt.scale}")
def test_values_are_those_of_the_mlx_codec(fmt: MLXFormat) -> None:
    values = np.random.default_rng(3).normal(size=(5, fmt.group_size)).astype(np.float32)
    rows = mlx.quantize_rows(values, fmt)
    layout = layout_of(fmt)
    assert layout is not None
    wanted = mlx.dequantize_rows(rows, fmt, fmt.group_size)
    np.testing.assert_array_equal(layout.values(layout.read(rows)), wanted)
    np.testing.assert_array_equal(layout.write(layout.read(rows)), rows)


def test_formats_without_codes_have_no_layout() -> None:
    assert layout_of(FORMATS["IQ3_S"]) is None
    assert layout_of(FORMATS["F16"]) is None
    assert layout_of(MLXFormat("mxfp8", 8, 32, "U8")) is None
