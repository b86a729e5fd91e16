"""The scales of lattice formats, found in libggml's own blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edgellm_quant import blas, ggml
from edgellm_quant.formats import FORMATS
from edgellm_quant.methods import gptq
from edgellm_quant.methods.hessian import factor, row_losses
from edgellm_quant.methods.lattice import SCALES


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with blas.one_thread():
        yield


def random_blocks(name: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (6, FORMATS[name].type_size), dtype=np.uint8)
    blocks[:, :2] = rng.normal(size=(6, 1)).astype("<f2").view(np.uint8)
    return blocks


@pytest.mark.parametrize("name", sorted(SCALES))
def test_values_grow_with_the_scales(name: str) -> None:
    scales, fmt = SCALES[name], FORMATS[name]
    blocks = random_blocks(name, 1)
    before = ggml.dequantize_rows(blocks, fmt, 256).reshape(6, scales.groups, -1)
    old = scales.read(blocks)
    new = np.random.default_rng(2).integers(0, 2**scales.bits, old.shape, dtype=np.uint8)
    moved = blocks.copy()
    scales.write(moved, new)
    np.testing.assert_array_equal(scales.read(moved), new)
    ratio = np.take(scales.table, new) / np.take(scales.table, old)
    after = ggml.dequantize_rows(moved, fmt, 256).reshape(before.shape)
    np.testing.assert_allclose(after, before * ratio[..., None], rtol=1e-5)
    scales.write(moved, old)
    np.testing.assert_array_equal(moved, blocks)


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ3_S"])
def test_sweeps_make_rows_better(name: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1500, 512)) @ (rng.normal(size=(512, 512)) / 16 + np.eye(512))
    h = (x.T @ x / 1500).astype(np.float32)
    w = rng.normal(size=(6, 512)).astype(np.float32)
    w[0, 256:] = 0
    factors, importance = factor(h, 0.01, 256), np.diagonal(h).copy()
    losses = []
    for sweeps in range(3):
        blocks = gptq.encode(w, FORMATS[name], factors, importance, sweeps)
        values = ggml.dequantize_rows(blocks, FORMATS[name], 512)
        losses.append(row_losses(factors.sort_columns(w - values), factors.hessian))
    assert (losses[1] <= losses[0] * (1 + 1e-5)).all()
    assert (losses[2] <= losses[1] * (1 + 1e-5)).all()
    assert losses[1].sum() < 0.97 * losses[0].sum()
