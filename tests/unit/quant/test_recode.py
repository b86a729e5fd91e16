"""The one way from any format to any other."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_quant import ggml, mlx
from edgellm_quant.errors import (
    ImportanceRequiredError,
    QuantError,
    ShapeError,
    UnknownTypeError,
    ValueRangeError,
)
from edgellm_quant.formats import FORMATS
from edgellm_quant.formats.mlx import MLXFormat
from edgellm_quant.recode import Outcome, how, recode_rows
from edgellm_quant.repack import repack_rows

MLX4, MLX8 = MLXFormat("affine", 4, 64, "F16"), MLXFormat("affine", 8, 32, "F16")
MLX4G32 = MLXFormat("affine", 4, 32, "F16")


def random(rows=6, columns=512, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def test_the_same_format_is_copied():
    blocks = ggml.quantize_rows(random(), FORMATS["Q4_K"])
    outcome = Outcome()
    same = recode_rows(blocks, FORMATS["Q4_K"], FORMATS["Q4_K"], 512, outcome=outcome)
    assert same is blocks
    assert outcome == Outcome("copied", 0.0)
    with pytest.raises(ShapeError, match="Q4_K rows of 256 values"):
        recode_rows(blocks, FORMATS["Q4_K"], FORMATS["Q4_K"], 256)


def test_formats_of_ggml_go_through_ggml():
    blocks = ggml.quantize_rows(random(), FORMATS["F16"])
    importance = np.arange(512, dtype=np.float32)
    for target in ("Q4_K", "F32", "IQ2_XXS"):
        outcome = Outcome()
        found = recode_rows(
            blocks, FORMATS["F16"], FORMATS[target], 512, importance, outcome=outcome
        )
        wanted = ggml.recode_rows(blocks, FORMATS["F16"], FORMATS[target], 512, importance)
        assert np.array_equal(found, wanted)
        assert outcome.how == "encoded"
    outcome = Outcome()
    recode_rows(
        ggml.quantize_rows(random(), FORMATS["Q8_0"]),
        FORMATS["Q8_0"],
        FORMATS["Q4_0"],
        512,
        outcome=outcome,
    )
    assert outcome.how == "requantized"
    with pytest.raises(ImportanceRequiredError):
        recode_rows(blocks, FORMATS["F16"], FORMATS["IQ2_XXS"], 512)


@pytest.mark.parametrize("name", ["F32", "BF16", "Q6_K", "Q4_0"])
def test_what_cannot_be_repacked_is_decoded_and_encoded(name):
    source = FORMATS[name]
    blocks = ggml.quantize_rows(random(), source)
    outcome = Outcome()
    found = recode_rows(blocks, source, MLX4, 512, outcome=outcome)
    assert np.array_equal(found, mlx.quantize_rows(ggml.dequantize_rows(blocks, source, 512), MLX4))
    assert outcome.how == how(source, MLX4) == ("requantized" if name[0] == "Q" else "encoded")
    with pytest.raises(QuantError, match="MLX4G64 is encoded without an importance"):
        recode_rows(blocks, source, MLX4, 512, np.ones(512, np.float32))


def test_what_can_be_repacked_is():
    for name, expected in (("Q4_0", "exact"), ("Q4_K", "near")):
        source = FORMATS[name]
        blocks = ggml.quantize_rows(random(), source)
        outcome = Outcome()
        found = recode_rows(blocks, source, MLX4G32, 512, np.ones(512), outcome=outcome)
        rows, error = repack_rows(blocks, source, MLX4G32, 512)
        assert np.array_equal(found, rows)
        assert outcome == Outcome(expected, error)
        assert how(source, MLX4G32) == expected


def test_rows_whose_values_do_not_allow_it_are_quantized_anew():
    q8_0 = FORMATS["Q8_0"]
    exact = recode_rows(ggml.quantize_rows(random(3), q8_0), q8_0, MLX8, 512)
    rows = np.concatenate([exact, mlx.quantize_rows(random(2), MLX8)])[[0, 3, 1, 4, 2]]
    outcome = Outcome()
    found = recode_rows(rows, MLX8, q8_0, 512, outcome=outcome)
    assert outcome == Outcome("requantized", 0.0)
    anew = ggml.quantize_rows(mlx.dequantize_rows(rows, MLX8, 512), q8_0)
    assert np.array_equal(found[[1, 3]], anew[[1, 3]])
    assert np.array_equal(found[[0, 2, 4]], ggml.quantize_rows(random(3), q8_0))
    outcome = Outcome()
    slabs = [recode_rows(rows[at : at + 2], MLX8, q8_0, 512, outcome=outcome) for at in (0, 2, 4)]
    assert np.array_equal(found, np.concatenate(slabs))
    assert outcome.how == "requantized"


def test_mlx_is_decoded_to_numbers():
    rows = mlx.quantize_rows(random(), MLX4)
    for name in ("F32", "F16"):
        outcome = Outcome()
        found = recode_rows(rows, MLX4, FORMATS[name], 512, outcome=outcome)
        wanted = ggml.quantize_rows(mlx.dequantize_rows(rows, MLX4, 512), FORMATS[name])
        assert np.array_equal(found, wanted)
        assert outcome.how == how(MLX4, FORMATS[name]) == "encoded"


def test_scales_that_are_no_numbers_are_refused_whatever_the_way():
    q4_0 = FORMATS["Q4_0"]
    blocks = ggml.quantize_rows(random(), q4_0)
    blocks[2, :2] = np.array([np.nan], "<f2").view(np.uint8)
    for target in (MLX4G32, MLX4, FORMATS["Q8_0"]):
        with pytest.raises(ValueRangeError):
            recode_rows(blocks, q4_0, target, 512)


def test_an_outcome_keeps_the_worst():
    outcome = Outcome()
    for step, expected in (
        ("copied", "copied"),
        ("exact", "exact"),
        ("copied", "exact"),
        ("near", "near"),
        ("requantized", "requantized"),
        ("encoded", "requantized"),
    ):
        outcome.add(step, 0.5 if step == "near" else 0.0)
        assert outcome.how == expected
    assert outcome.max_abs_error == 0.5


def test_what_has_no_codec_is_refused():
    with pytest.raises(UnknownTypeError, match="no decoder for I32"):
        recode_rows(np.zeros((1, 2048), np.uint8), FORMATS["I32"], MLX4, 512)
    with pytest.raises(UnknownTypeError, match="MLX_NVFP4 can be decoded only"):
        recode_rows(random().view(np.uint8), FORMATS["F32"], MLXFormat("nvfp4", 4, 16, "U8"), 512)
    with pytest.raises(UnknownTypeError, match="no encoder for Q8_K"):
        recode_rows(mlx.quantize_rows(random(), MLX4), MLX4, FORMATS["Q8_K"], 512)
