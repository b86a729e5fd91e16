"""Error compensation against its definition in float64, and against plain rounding."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest

from edgellm_quant import blas, ggml, mlx
from edgellm_quant.codes import LAYOUTS, join_groups, layout_of, split_groups
from edgellm_quant.errors import ShapeError, UnknownTypeError, ValueRangeError
from edgellm_quant.formats import FORMATS, Format
from edgellm_quant.formats.mlx import MLXFormat
from edgellm_quant.methods import gptq
from edgellm_quant.methods.columns import Solution
from edgellm_quant.methods.descent import descend
from edgellm_quant.methods.hessian import factor, row_losses

LATTICES = ("IQ2_XXS", "IQ3_S")  # ggml takes seconds to get ready for the others
MLX: tuple[Format, ...] = (
    MLXFormat("affine", 3, 64, "F16"),
    MLXFormat("affine", 4, 32, "BF16"),
    MLXFormat("mxfp4", 4, 32, "U8"),
)
CODED: list[Format] = [FORMATS[name] for name in sorted(LAYOUTS)] + list(MLX)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Products of small matrices gain nothing from more."""
    with blas.one_thread():
        yield


def inputs(columns: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs of uneven size."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(columns, columns)) / np.sqrt(columns) + np.eye(columns) / 2
    mixing *= np.exp(np.random.default_rng(99).normal(size=columns) / 2)
    mixing[:, :] += np.random.default_rng(98).normal(size=(1, columns)) / 4
    return (rng.normal(size=(tokens, columns)) @ mixing).astype(np.float32)


@functools.cache
def hessian(columns: int, tokens: int, seed: int = 0) -> np.ndarray:
    x = inputs(columns, tokens, seed)
    return x.T @ x / np.float32(tokens)


def weights(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(rows, columns)).astype(np.float32)


def decode(blocks: np.ndarray, fmt: Format, columns: int) -> np.ndarray:
    if isinstance(fmt, MLXFormat):
        return mlx.dequantize_rows(blocks, fmt, columns)
    return ggml.dequantize_rows(blocks, FORMATS[fmt.name], columns)


def test_factor_is_of_the_inverse() -> None:
    h = hessian(200, 900)
    factors = factor(h, 0.1, 200)
    wide = h.astype(np.float64)
    diagonal = np.diagonal(wide)
    wide += np.diag(0.1 * np.sqrt(diagonal * diagonal.mean()))
    u = factors.inverse.astype(np.float64)
    assert np.array_equal(u, np.triu(u))
    np.testing.assert_allclose(u.T @ u @ wide, np.eye(200), atol=1e-4)
    np.testing.assert_allclose(factors.hessian, wide, rtol=1e-5, atol=1e-6)


def test_columns_with_the_largest_inputs_come_first() -> None:
    h = hessian(96, 900)
    factors, whole = factor(h, 0.1, 32), factor(h, 0.1, 96)
    power = np.diagonal(h).reshape(3, 32).sum(axis=1)
    assert (np.diff(power[factors.order]) < 0).all()
    np.testing.assert_array_equal(
        factors.sort_columns(factors.sort_columns(whole.hessian).T), factors.hessian.T
    )
    w = weights(4, 96)
    assert np.array_equal(factors.sort_columns(w)[:, :32], w.reshape(4, 3, 32)[:, factors.order[0]])


@pytest.mark.parametrize("dead", [3, 64])
def test_columns_without_input_do_no_harm(dead: int) -> None:
    x = inputs(64, 500)
    x[:, :dead] = 0
    h = x.T @ x / np.float32(500)
    factors = factor(h, 0.05, 32)
    assert np.isfinite(factors.inverse).all()
    w = weights(8, 64)
    out = gptq.encode(w, FORMATS["Q8_0"], factors, np.diagonal(h).copy(), sweeps=2)
    assert np.abs(decode(out, FORMATS["Q8_0"], 64) - w).max() < 0.2


def test_fewer_tokens_than_columns_can_be_factored() -> None:
    factors = factor(hessian(128, 20), 0.0, 32)
    assert np.isfinite(factors.inverse).all()


def reference(w: np.ndarray, h: np.ndarray, layout: object, scales: np.ndarray) -> np.ndarray:
    """GPTQ of one row by its definition, column by column, with a full inverse at every step."""
    wanted, out = w.astype(np.float64).copy(), np.zeros(len(w))
    for at in range(len(w)):
        rest = np.linalg.inv(h[at:, at:])
        levels = scales[at]
        out[at] = levels[np.abs(levels - wanted[at]).argmin()]
        error = (wanted[at] - out[at]) / rest[0, 0]
        wanted[at:] -= error * rest[0]
    return out


def test_columns_are_rounded_as_the_definition_says() -> None:
    fmt = MLXFormat("affine", 4, 32, "F32")  # one block: scales come from the weights alone
    h = hessian(32, 400)
    factors = factor(h, 0.01, 32)
    w = weights(6, 32)
    out = gptq.encode(w, fmt, factors, np.diagonal(h).copy())
    layout = layout_of(fmt)
    assert layout is not None
    parts = layout.read(out[:, None])
    wide = factors.hessian.astype(np.float64)
    assert parts.d is not None
    assert parts.m is not None
    for row in range(6):
        levels = np.arange(16) * float(parts.d[row, 0]) + float(parts.m[row, 0])
        wanted = reference(w[row], wide, layout, np.tile(levels, (32, 1)))
        np.testing.assert_allclose(decode(out, fmt, 32)[row], wanted, atol=1e-5)


@pytest.mark.parametrize("fmt", CODED, ids=lambda fmt: fmt.name)
def test_without_correlation_each_value_gets_its_nearest_level(fmt: Format) -> None:
    w = weights(5, 512)
    ones = np.ones(512, np.float32)
    out = gptq.encode(w, fmt, factor(np.eye(512, dtype=np.float32), 0, gptq.block_of(fmt)), ones)
    layout = layout_of(fmt)
    assert layout is not None
    blocks = split_groups(out, fmt, 512) if isinstance(fmt, MLXFormat) else out
    parts = layout.read(blocks.reshape(5, 512 // layout.block, -1))
    every = np.repeat(layout.scales(parts)[..., None], layout.last + 1, axis=-1)
    every = every * layout.levels[: layout.last + 1]
    offsets = layout.offsets(parts)
    if offsets is not None:
        every = every + offsets[..., None]
    every = every.reshape(5, -1, 1, layout.last + 1)
    nearest = np.abs(every - w.reshape(5, -1, layout.group, 1)).min(axis=-1).reshape(5, 512)
    np.testing.assert_allclose(np.abs(decode(out, fmt, 512) - w), nearest, atol=2e-6)


@pytest.mark.parametrize("name", LATTICES)
def test_lattices_without_correlation_are_as_ggml_has_them(name: str) -> None:
    fmt, w, ones = FORMATS[name], weights(2, 512), np.ones(512, np.float32)
    out = gptq.encode(w, fmt, factor(np.eye(512, dtype=np.float32), 0, gptq.block_of(fmt)), ones)
    wanted = [ggml.quantize_rows(w[:, at : at + 256].copy(), fmt, ones[:256]) for at in (0, 256)]
    np.testing.assert_array_equal(out, np.concatenate(wanted, axis=1))


@pytest.mark.parametrize("fmt", [*CODED, *(FORMATS[n] for n in LATTICES)], ids=lambda f: f.name)
def test_losses_fall(fmt: Format) -> None:
    h, w = hessian(512, 1500), weights(16, 512)
    importance = np.diagonal(h).copy()
    factors = factor(h, 0.01, gptq.block_of(fmt))
    if isinstance(fmt, MLXFormat):
        plain = mlx.quantize_rows(w, fmt)
    else:
        plain = ggml.quantize_rows(w, FORMATS[fmt.name], importance)

    def loss(blocks: np.ndarray) -> float:
        errors = factors.sort_columns(w - decode(blocks, fmt, 512))
        return float(row_losses(errors, factors.hessian).sum())

    first = loss(gptq.encode(w, fmt, factors, importance, threads=1))
    second = loss(gptq.encode(w, fmt, factors, importance, sweeps=1, threads=2))
    assert second < first
    assert second < 0.95 * loss(plain)
    if layout_of(fmt) is not None:
        assert first < 0.95 * loss(plain)
        assert loss(gptq.encode(w, fmt, factors, importance, searched=False)) < loss(plain)


@pytest.mark.parametrize("fmt", CODED, ids=lambda fmt: fmt.name)
def test_no_sweep_makes_a_row_worse(fmt: Format) -> None:
    h, w = hessian(512, 1500), weights(8, 512)
    layout = layout_of(fmt)
    assert layout is not None
    if isinstance(fmt, MLXFormat):
        rows = split_groups(mlx.quantize_rows(w, fmt), fmt, 512)
    else:
        rows = ggml.quantize_rows(w, FORMATS[fmt.name])
    solution = Solution.read(layout, rows.reshape(8, 512 // layout.block, -1))
    wanted = np.array(w.T, order="C")
    before = row_losses(w - solution.values.T, h)
    for _ in range(3):
        descend(solution, wanted, h, 1)
        blocks = solution.write()
        found = layout.values(layout.read(blocks)).reshape(8, 512)
        np.testing.assert_allclose(found, solution.values.T, rtol=1e-5, atol=2e-6)
        after = row_losses(w - found, h)
        assert (after <= before * (1 + 1e-5)).all()
        before = after
    assert after.sum() < row_losses(w - decode_first(fmt, w), h).sum()


@pytest.mark.parametrize("fmt", CODED, ids=lambda fmt: fmt.name)
def test_scales_searched_for_lose_less(fmt: Format) -> None:
    w = weights(16, 512)
    w[0, :256] = 0
    importance = np.exp(np.random.default_rng(3).normal(size=512)).astype(np.float32)
    found = gptq.search(w, fmt, importance)

    def loss(values: np.ndarray) -> np.ndarray:
        return (np.square(w - values) * importance).sum(axis=1)

    if isinstance(fmt, MLXFormat):
        plain = mlx.quantize_rows(w, fmt)
    else:
        plain = ggml.quantize_rows(w, FORMATS[fmt.name], importance)
    values = decode(found, fmt, 512)
    assert (values[0, :256] == 0).all() or "Q1_0" in fmt.name
    assert loss(values).sum() <= loss(decode(plain, fmt, 512)).sum()


def decode_first(fmt: Format, w: np.ndarray) -> np.ndarray:
    if isinstance(fmt, MLXFormat):
        return decode(mlx.quantize_rows(w, fmt), fmt, w.shape[1])
    return decode(ggml.quantize_rows(w, FORMATS[fmt.name]), fmt, w.shape[1])


def test_threads_change_nothing() -> None:
    h, w = hessian(64, 400), weights(1200, 64)
    factors, importance = factor(h, 0.1, 32), np.diagonal(h).copy()
    one = gptq.encode(w, FORMATS["IQ4_NL"], factors, importance, 1, threads=1)
    two = gptq.encode(w, FORMATS["IQ4_NL"], factors, importance, 1, threads=2)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("fmt", MLX, ids=lambda fmt: fmt.name)
def test_groups_of_mlx_are_split_and_joined(fmt: MLXFormat) -> None:
    rows = mlx.quantize_rows(weights(3, 256), fmt)
    groups = split_groups(rows, fmt, 256)
    one = mlx.quantize_rows(weights(3, 256)[:, : fmt.group_size].copy(), fmt)
    np.testing.assert_array_equal(groups[:, 0], one)
    np.testing.assert_array_equal(join_groups(groups, fmt), rows)


def test_what_cannot_be_encoded_is_refused() -> None:
    factors = factor(np.eye(64, dtype=np.float32), 0, 32)
    ones = np.ones(64, np.float32)
    with pytest.raises(ShapeError, match=r"a Hessian of \(64, 64\) for rows of 32 values"):
        gptq.encode(weights(2, 32), FORMATS["Q4_0"], factors, ones[:32])
    with pytest.raises(ShapeError, match="contiguous float32"):
        gptq.encode(weights(2, 64).astype(np.float64), FORMATS["Q4_0"], factors, ones)
    with pytest.raises(UnknownTypeError, match="errors in F16"):
        gptq.encode(weights(2, 64), FORMATS["F16"], factors, ones)
    with pytest.raises(UnknownTypeError, match="IQ3_S has no scales"):
        gptq.search(weights(2, 256), FORMATS["IQ3_S"], np.ones(256, np.float32))
    with pytest.raises(ShapeError, match="another block than the 256 of Q4_K"):
        gptq.encode(weights(2, 64), FORMATS["Q4_K"], factors, ones)


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4])
def test_values_that_are_no_numbers_or_too_large_are_refused(value: float) -> None:
    w, ones = weights(2, 64), np.ones(64, np.float32)
    w[1, 5] = value
    with pytest.raises(ValueRangeError, match="the value in row 1, column 5 is"):
        gptq.encode(w, FORMATS["Q4_0"], factor(np.eye(64, dtype=np.float32), 0, 32), ones)
    with pytest.raises(ValueRangeError, match="the value in row 1, column 5 is"):
        gptq.search(w, FORMATS["Q4_0"], ones)


def test_what_is_no_hessian_is_refused() -> None:
    with pytest.raises(ValueRangeError, match="holds NaN"):
        factor(np.full((32, 32), np.nan, np.float32), 0.1, 32)
    wrong = np.full((32, 32), 1e9, np.float32)
    np.fill_diagonal(wrong, 1)
    with pytest.raises(ValueRangeError, match="far from positive"):
        factor(wrong, 0.1, 32)
