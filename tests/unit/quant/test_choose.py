"""A method is kept where held-out inputs say that it helps, and the report says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from edgellm_quant import blas, ggml, mlx
from edgellm_quant.errors import ShapeError
from edgellm_quant.formats import FORMATS
from edgellm_quant.formats.mlx import MLXFormat
from edgellm_quant.methods import gptq
from edgellm_quant.methods.choose import EFFORTS, Settings, TensorEncoder
from edgellm_quant.statistics import RowStatistics, TensorStatistics

FMT = FORMATS["IQ4_NL"]
QUICK = Settings(sweeps=1, dampings=(0.01, 0.3), sample=16, fewest=100)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Products of small matrices gain nothing from more."""
    with blas.one_thread():
        yield


def mean_square(x: np.ndarray) -> np.ndarray:
    return (x.T @ x / len(x)).astype(np.float32)


def group(start: int, stop: int, fit: np.ndarray, held: np.ndarray | None = None) -> RowStatistics:
    seen = fit if held is None else np.concatenate([fit, held])
    importance = np.square(seen).mean(axis=0).astype(np.float32)
    other = None if held is None else mean_square(held)
    return RowStatistics(start, stop, len(seen), importance, mean_square(fit), other)


def inputs(tokens: int, seed: int, mixing_seed: int = 0) -> np.ndarray:
    mixing = np.random.default_rng(mixing_seed).normal(size=(64, 64))
    mixing += 2 * np.random.default_rng(mixing_seed + 1).normal(size=(1, 64))
    return np.random.default_rng(seed).normal(size=(tokens, 64)) @ mixing


def weights(rows: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(rows, 64)).astype(np.float32)


def output_error(w: np.ndarray, blocks: np.ndarray, x: np.ndarray) -> float:
    e = (w - ggml.dequantize_rows(blocks, FMT, 64)).astype(np.float64)
    return float(np.square(x @ e.T).sum() / np.square(x @ w.T.astype(np.float64)).sum())


def test_outputs_on_other_inputs_are_nearer() -> None:
    w, test = weights(96), inputs(2000, seed=7)
    statistics = TensorStatistics(64, (group(0, 96, inputs(3000, 1), inputs(1000, 2)),))
    encoder = TensorEncoder(FMT, statistics, settings=QUICK)
    blocks = np.concatenate([encoder.encode(w[at : at + 40], at) for at in range(0, 96, 40)])
    report = encoder.report()
    [found] = report.groups
    assert (found.start, found.stop, found.method) == (0, 96, "gptq")
    assert found.damping in QUICK.dampings
    plain = ggml.quantize_rows(w, FMT, statistics.groups[0].importance)
    ours, theirs = output_error(w, blocks, test), output_error(w, plain, test)
    assert ours < 0.7 * theirs
    assert report.error / report.importance_error == pytest.approx(ours / theirs, rel=0.4)
    every = TensorEncoder(FMT, statistics, "importance", dataclasses.replace(QUICK, sample=96))
    every.encode(w)
    assert every.report().importance_error == pytest.approx(theirs, rel=0.05)


def test_what_held_out_inputs_do_not_confirm_is_not_used() -> None:
    w = weights(32)
    fit, held = inputs(3000, 1), inputs(1000, 2, mixing_seed=50)  # correlated in other ways
    statistics = TensorStatistics(64, (group(0, 32, fit, held),))
    hardly = dataclasses.replace(QUICK, dampings=(0.0001,))
    encoder = TensorEncoder(FMT, statistics, settings=hardly)
    blocks = encoder.encode(w)
    importance = statistics.groups[0].importance
    [found] = encoder.report().groups
    assert found.damping is None
    if found.method == "searched":
        wanted = gptq.search(w, FMT, importance)
        assert 0 < found.error < found.importance_error
    else:
        wanted = ggml.quantize_rows(w, FMT, importance)
        assert 0 < found.error == found.importance_error
    np.testing.assert_array_equal(blocks, wanted)


def test_groups_are_chosen_for_apart() -> None:
    w = weights(60)
    few = group(20, 40, inputs(60, 3), None)  # fewer tokens than it takes
    diagonal = RowStatistics(40, 60, 5000, np.ones(64, np.float32))
    first = group(0, 20, inputs(3000, 1), inputs(900, 2))
    encoder = TensorEncoder(FMT, TensorStatistics(64, (first, few, diagonal)), settings=QUICK)
    blocks = encoder.encode(w)
    assert [each.method for each in encoder.report().groups] == ["gptq", "searched", "searched"]
    for each in (few, diagonal):
        wanted = gptq.search(w[each.start : each.stop].copy(), FMT, each.importance)
        np.testing.assert_array_equal(blocks[each.start : each.stop], wanted)


def test_other_methods_are_those_of_ggml() -> None:
    w = weights(8)
    statistics = TensorStatistics(64, (group(0, 8, inputs(500, 1)),))
    plain = TensorEncoder(FMT, statistics, "rtn").encode(w)
    np.testing.assert_array_equal(plain, ggml.quantize_rows(w, FMT))
    np.testing.assert_array_equal(TensorEncoder(FMT, None).encode(w), plain)
    encoder = TensorEncoder(FMT, statistics, "importance")
    wanted = ggml.quantize_rows(w, FMT, statistics.groups[0].importance)
    np.testing.assert_array_equal(encoder.encode(w), wanted)
    assert encoder.report().error == encoder.report().importance_error


@pytest.mark.parametrize("effort", sorted(EFFORTS))
def test_mlx_without_held_out_inputs(effort: str) -> None:
    fmt, w, test = MLXFormat("affine", 4, 64, "F16"), weights(24), inputs(2000, 9)
    statistics = TensorStatistics(64, (group(0, 24, inputs(3000, 1)),))
    encoder = TensorEncoder(fmt, statistics, settings=EFFORTS[effort])
    found = mlx.dequantize_rows(encoder.encode(w), fmt, 64)
    plain = mlx.dequantize_rows(mlx.quantize_rows(w, fmt), fmt, 64)
    assert np.square(test @ (w - found).T).sum() < 0.7 * np.square(test @ (w - plain).T).sum()
    assert encoder.report().groups[0].method == "gptq"


def test_statistics_of_another_shape_are_refused() -> None:
    statistics = TensorStatistics(64, (group(0, 8, inputs(500, 1)),))
    with pytest.raises(ShapeError, match="statistics of 8 rows of 64 values for the rows 0 to 8"):
        TensorEncoder(FMT, statistics).encode(weights(9))
    with pytest.raises(ShapeError, match="of 32 values"):
        TensorEncoder(FMT, statistics).encode(weights(4)[:, :32].copy())


def test_a_look_at_some_rows_chooses_as_encoding_them_does() -> None:
    w = weights(24)
    statistics = TensorStatistics(64, (group(0, 24, inputs(3000, 1), inputs(1000, 2)),))
    looking, encoding = (TensorEncoder(FMT, statistics, settings=QUICK) for _ in range(2))
    looking.look(w)
    encoding.encode(w)
    assert looking.report() == encoding.report()
    assert looking.report().error < looking.report().importance_error
