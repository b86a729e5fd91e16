"""Whatever the bytes of a block are: repacking keeps its values, measures the error, or refuses."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_quant import ggml, mlx
from edgellm_quant.affine import UNPACKERS
from edgellm_quant.formats import FORMATS
from edgellm_quant.formats.mlx import AFFINE_BITS, AFFINE_GROUPS, AFFINE_SCALES, MLXFormat
from edgellm_quant.repack import best_target, try_repack


def random_rows(data: st.DataObject, width: int) -> np.ndarray:
    return np.frombuffer(
        data.draw(st.binary(min_size=3 * width, max_size=3 * width)), np.uint8
    ).reshape(3, width)


@given(st.sampled_from(sorted(UNPACKERS)), st.sampled_from(AFFINE_SCALES), st.data())
@settings(max_examples=300, deadline=None)
def test_blocks_of_any_bytes(name: str, scale: str, data: st.DataObject) -> None:
    source = FORMATS[name]
    found = best_target(source, scale)
    assert found is not None
    target, kind = found
    assert isinstance(target, MLXFormat)
    blocks = random_rows(data, source.row_bytes(256))
    rows, kept, error = try_repack(blocks, source, target, 256, threads=1)
    wanted = ggml.dequantize_rows(blocks[kept], source, 256)
    decoded = mlx.dequantize_rows(rows[kept], target, 256)
    assert np.isfinite(decoded).all()
    assert error == np.abs(decoded - wanted).max(initial=0)
    if kind == "exact":
        assert error == 0
    if scale == "F32":  # it holds every product of two float16 numbers: all that are numbers
        values = ggml.dequantize_rows(blocks, source, 256)
        assert not np.isfinite(values[~kept]).all(axis=1).any()


@given(
    st.sampled_from([bits for bits in AFFINE_BITS if bits < 6]),
    st.sampled_from(AFFINE_GROUPS),
    st.sampled_from(AFFINE_SCALES),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_rows_of_any_bytes(bits: int, group_size: int, scale: str, data: st.DataObject) -> None:
    source = MLXFormat("affine", bits, group_size, scale)
    found = best_target(source)
    assert found is not None
    target, kind = found
    blocks = random_rows(data, source.row_bytes(128))
    rows, kept, error = try_repack(blocks, source, target, 128, threads=1)
    wanted = mlx.dequantize_rows(blocks[kept], source, 128)
    decoded = ggml.dequantize_rows(rows[kept], FORMATS[target.name], 128)
    assert np.isfinite(decoded).all()
    assert error == np.abs(decoded - wanted).max(initial=0)
    assert kind != "exact" or error == 0
