"""Packing codes and taking MLX's rows apart lose nothing, whatever the codes and sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgellm_quant import mlx
from edgellm_quant.bitstream import pack_codes, unpack_codes
from edgellm_quant.formats.mlx import (
    AFFINE_BITS,
    AFFINE_GROUPS,
    AFFINE_SCALES,
    FLOAT_MODES,
    MLXFormat,
    join_rows,
    split_rows,
)

FORMATS = st.one_of(
    st.builds(
        MLXFormat,
        st.just("affine"),
        st.sampled_from(AFFINE_BITS),
        st.sampled_from(AFFINE_GROUPS),
        st.sampled_from(AFFINE_SCALES),
    ),
    st.sampled_from([MLXFormat(mode, *sizes, "U8") for mode, sizes in FLOAT_MODES.items()]),
)


@given(st.integers(1, 8), st.integers(0, 4), st.integers(1, 12), st.data())
@settings(max_examples=150, deadline=None)
def test_codes_come_back(bits: int, rows: int, eights: int, data: st.DataObject) -> None:
    codes = data.draw(arrays(np.uint8, (rows, 8 * eights), elements=st.integers(0, 2**bits - 1)))
    packed = pack_codes(codes, bits)
    assert packed.shape == (rows, bits * eights)
    assert np.array_equal(unpack_codes(packed, bits), codes)
    # The definition, as one large number.
    for row, stream in zip(codes, packed, strict=True):
        number = sum(int(code) << (at * bits) for at, code in enumerate(row))
        assert stream.tobytes() == number.to_bytes(bits * eights, "little")


@given(FORMATS, st.integers(0, 3), st.integers(1, 3), st.data())
@settings(max_examples=100, deadline=None)
def test_rows_come_back(fmt: MLXFormat, rows: int, groups: int, data: st.DataObject) -> None:
    columns = groups * fmt.group_size
    blocks = data.draw(arrays(np.uint8, (rows, fmt.row_bytes(columns))))
    assert np.array_equal(join_rows(*split_rows(blocks, fmt, columns), fmt, columns), blocks)


@given(
    st.sampled_from(AFFINE_BITS),
    st.sampled_from(AFFINE_GROUPS),
    arrays(np.float32, (2, 128), elements=st.floats(-1000, 1000, width=32)),
)
@settings(max_examples=100, deadline=None)
def test_no_value_moves_by_more_than_a_step(bits: int, group_size: int, x: np.ndarray) -> None:
    fmt = MLXFormat("affine", bits, group_size, "F32")
    rows = mlx.quantize_rows(x, fmt)
    _, scales, _ = split_rows(rows, fmt, 128)
    # Zero is made a code, which stretches or shrinks the range by up to half a step.
    limit = np.repeat(np.abs(scales), group_size, axis=1) * np.float32(1.001) + np.float32(1e-4)
    assert (np.abs(mlx.dequantize_rows(rows, fmt, 128) - x) <= limit).all()
