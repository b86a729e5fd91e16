"""Relative errors against the formula written out, and which formats a tensor may get."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgellm_quant.candidates import candidates, mlx_candidates
from edgellm_quant.distortion import relative_error, round_values, sampled_errors, sampled_rows
from edgellm_quant.errors import UnknownTypeError
from edgellm_quant.facts import TensorFacts
from edgellm_quant.formats import FORMATS, MLXFormat
from edgellm_quant.ggml import dequantize_rows, quantize_rows
from edgellm_quant.statistics import RowStatistics, TensorStatistics

COLUMNS = 64


def gaussian(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, COLUMNS)).astype(np.float32)


def statistics(*borders: int, hessian: bool = False) -> TensorStatistics:
    groups = []
    for number, (start, stop) in enumerate(itertools.pairwise(borders)):
        inputs = gaussian(200, 5 + number) * np.linspace(0.1, 3, COLUMNS, dtype=np.float32)
        square = (inputs.T @ inputs / 200).astype(np.float32)
        importance = np.ascontiguousarray(square.diagonal())
        groups.append(RowStatistics(start, stop, 200, importance, square if hessian else None))
    return TensorStatistics(COLUMNS, tuple(groups))


@pytest.mark.parametrize("hessian", [False, True])
def test_the_error_is_the_trace_of_the_formula(hessian: bool) -> None:
    known = statistics(0, 3, 8, hessian=hessian)
    weights, stored = gaussian(8), gaussian(8, 1)
    lost = whole = 0.0
    for group in known.groups:
        square = group.hessian if group.hessian is not None else np.diag(group.importance)
        square = square.astype(np.float64)
        rows = weights[group.start : group.stop].astype(np.float64)
        change = rows - stored[group.start : group.stop]
        lost += float(np.trace(change @ square @ change.T))
        whole += float(np.trace(rows @ square @ rows.T))
    found = relative_error(weights, stored, known.of_rows(0, 8))
    assert found == pytest.approx(lost / whole, rel=1e-5)
    assert relative_error(weights, weights, known.of_rows(0, 8)) == 0
    plain = relative_error(weights, stored, [(0, 8, None)])
    assert plain == pytest.approx(((weights - stored) ** 2).sum() / (weights**2).sum(), rel=1e-5)
    assert relative_error(0 * weights, stored, [(0, 8, None)]) == 0


def test_a_sample_of_all_rows_is_the_whole_tensor() -> None:
    weights, fmt = gaussian(16), FORMATS["Q4_0"]
    known = statistics(0, 16)
    ((chosen, group),) = sampled_rows(16, COLUMNS, known)
    assert list(chosen) == list(range(16))
    blocks = quantize_rows(weights, fmt, known.groups[0].importance)
    stored = dequantize_rows(blocks, fmt, COLUMNS)
    found = sampled_errors([(weights, group)], [fmt, FORMATS["F16"]])
    assert found[fmt] == pytest.approx(
        relative_error(weights, stored, known.of_rows(0, 16)), rel=1e-6
    )
    assert found[FORMATS["F16"]] == 0


def test_samples_are_even_and_split_by_group() -> None:
    known = statistics(0, 500, 1000)
    sample = sampled_rows(1000, COLUMNS, known, most=10)
    assert [group for _, group in sample] == list(known.groups)
    rows = np.concatenate([chosen for chosen, _ in sample])
    assert (rows[0], rows[-1], len(rows)) == (0, 999, 10)
    assert len(sampled_rows(1000, 2**20, None)[0][0]) == 4


def test_an_importance_of_nothing_weighs_columns_alike() -> None:
    weights = gaussian(4)
    nothing = RowStatistics(0, 4, 0, np.zeros(COLUMNS, np.float32))
    np.testing.assert_array_equal(
        round_values(weights, FORMATS["Q4_0"], nothing),
        round_values(weights, FORMATS["Q4_0"], None),
    )
    assert relative_error(weights, 0 * weights, [(0, 4, nothing)]) == 1


def test_errors_of_mlx_fall_with_bits() -> None:
    formats = mlx_candidates(TensorFacts("w", (8, COLUMNS)))
    found = sampled_errors([(gaussian(8), None)], formats)
    affine = [found[MLXFormat("affine", bits, 64, "F16")] for bits in (2, 3, 4, 5, 6, 8)]
    assert all(more > 3 * less for more, less in itertools.pairwise(affine))
    assert MLXFormat("mxfp4", 4, 32, "U8") in found


def names(columns: int, *args: object, **options: object) -> set[str]:
    found = candidates(TensorFacts("w", (4, columns)), *args, **options)  # type: ignore[arg-type]
    assert list(found) == sorted(found, key=lambda each: each.bits_per_weight)
    assert all(each.holds(columns) for each in found)
    return {each.name for each in found}


def test_candidates_hold_the_rows() -> None:
    narrow = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4"}
    for columns in (576, 640, 896):
        for effort in ("fast", "balanced", "best"):
            assert names(columns, effort) == narrow
    assert names(32) == narrow - {"NVFP4"}
    assert names(1536, "fast") == {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"}
    assert names(1536) - names(1536, "fast") == {"IQ3_XXS", "IQ3_S", "IQ4_XS"}
    assert names(1536, "best") - names(1536) == narrow - {"Q8_0"} | {"IQ2_XXS", "IQ2_XS", "IQ2_S"}
    assert names(1536, "best", importance=False) & {"IQ2_S", "IQ3_XXS"} == set()
    assert names(100) == {"F16"}
    assert names(1536, also=["TQ2_0", "F16"]) == names(1536) | {"TQ2_0", "F16"}
    with pytest.raises(UnknownTypeError):
        mlx_candidates(TensorFacts("w", (4, 64)), dense="F8")


def test_candidates_of_mlx() -> None:
    fast = mlx_candidates(TensorFacts("w", (4, 128)), "fast")
    assert [fmt.name for fmt in fast] == [f"MLX{bits}G64" for bits in (2, 3, 4, 5, 6, 8)]
    wide = mlx_candidates(TensorFacts("w", (4, 128)))
    assert len(wide) == 6 * 3 + 1
    assert [fmt.name for fmt in mlx_candidates(TensorFacts("w", (4, 33)), dense="BF16")] == ["BF16"]


@pytest.mark.parametrize("hessian", [False, True])
def test_a_column_that_one_token_fills_does_not_hide_the_others(hessian: bool) -> None:
    importance = np.ones(32, np.float32)
    importance[5] = 1e6
    group = RowStatistics(0, 1, 100, importance, np.diag(importance) if hessian else None)
    weights = np.ones((1, 32), np.float32)
    stored = weights.copy()
    stored[0, 7] = 0.0  # an ordinary column is lost
    error = relative_error(weights, stored, [(0, 1, group)])
    assert error == pytest.approx(1 / (31 + 30))
