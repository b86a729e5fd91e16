"""Encoding and decoding rows: equal to gguf-py, whatever the threads; errors; odd values."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edgellm_quant import ggml
from edgellm_quant.errors import (
    ImportanceRequiredError,
    LibraryError,
    ShapeError,
    UnknownTypeError,
    ValueRangeError,
)
from edgellm_quant.formats import FORMATS, BlockFormat
from edgellm_quant.library import check_layout
from edgellm_quant.methods.importance import round_with_importance
from edgellm_quant.methods.rtn import round_to_nearest

ENCODED = [name for name, fmt in FORMATS.items() if ggml.can_encode(fmt)]
QUICK = [name for name in ENCODED if not name.startswith(("IQ1", "IQ2", "IQ3"))]
# What gguf-py's numpy code has.
PEER_ENCODES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]
PEER_DECODES = [name for name in ENCODED if name not in ("F32", "NVFP4", "Q1_0", "Q2_0")]


def random(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def weights_for(fmt, columns):
    return np.ones(columns, np.float32) if ggml.requires_importance(fmt) else None


@pytest.mark.parametrize("name", PEER_ENCODES)
def test_encodes_as_gguf_py(name):
    import gguf

    fmt = FORMATS[name]
    x = random(7, 512) * np.float32(3)
    x[0] = 0
    x[1] = np.float32(1e-4)
    peer = gguf.quants.quantize(x, gguf.GGMLQuantizationType(fmt.ggml_type)).view(np.uint8)
    assert np.array_equal(ggml.quantize_rows(x, fmt), peer)


@pytest.mark.parametrize("name", PEER_DECODES)
def test_decodes_as_gguf_py(name):
    import gguf

    fmt = FORMATS[name]
    blocks = ggml.quantize_rows(random(3, 512), fmt, weights_for(fmt, 512))
    kind = gguf.GGMLQuantizationType(fmt.ggml_type)
    peer = gguf.quants.dequantize(
        blocks.view(np.float16) if name == "F16" else blocks, kind
    ).astype(np.float32)
    ours = ggml.dequantize_rows(blocks, fmt, 512)
    # The order of multiplications may differ by a rounding; float32 has 24 bits.
    assert np.allclose(ours, peer, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("name", ENCODED)
def test_decoding_gives_the_values_back_within_the_bits(name):
    fmt = FORMATS[name]
    x = random(4, 512)
    back = ggml.dequantize_rows(ggml.quantize_rows(x, fmt, weights_for(fmt, 512)), fmt, 512)
    error = float(((back - x) ** 2).mean())
    if name in ("Q2_0", "TQ1_0", "TQ2_0"):  # for weights trained on these levels
        assert error < 0.75
        return
    # For a Gaussian source no code of b bits does better than 4^-b; these stay within 8 times.
    assert error <= 8 * 4**-fmt.bits_per_weight + 1e-4
    assert error >= 4**-fmt.bits_per_weight / 4 or fmt.bits_per_weight > 8


@pytest.mark.parametrize("name", QUICK)
def test_bytes_do_not_depend_on_threads_or_slabs(name):
    fmt = FORMATS[name]
    x = random(600, 512)  # several pieces for each thread
    one = ggml.quantize_rows(x, fmt, threads=1)
    assert np.array_equal(one, ggml.quantize_rows(x, fmt, threads=5))
    slabs = [ggml.quantize_rows(x[at : at + 77], fmt, threads=2) for at in range(0, 600, 77)]
    assert np.array_equal(one, np.concatenate(slabs))
    back = ggml.dequantize_rows(one, fmt, 512, threads=1)
    assert np.array_equal(back, ggml.dequantize_rows(one, fmt, 512, threads=3))


@pytest.mark.parametrize("source", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
def test_recoding_is_decoding_and_encoding(source):
    fmt, target = FORMATS[source], FORMATS["Q5_0"]
    blocks = ggml.quantize_rows(random(300, 512), fmt)
    values = ggml.dequantize_rows(blocks, fmt, 512)
    expected = ggml.quantize_rows(values, target)
    assert np.array_equal(ggml.recode_rows(blocks, fmt, target, 512, threads=2), expected)
    # A view at an odd address, as a memory map may give it.
    odd = np.empty(blocks.size + 1, np.uint8)[1:].reshape(blocks.shape)
    odd[...] = blocks
    assert np.array_equal(ggml.recode_rows(odd, fmt, target, 512, threads=1), expected)


def test_threads_in_a_forked_child_work():
    x = random(600, 512)
    expected = ggml.quantize_rows(x, FORMATS["Q8_0"], threads=3)
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns that there are threads: the point
        child = os.fork()
    if child == 0:
        same = np.array_equal(ggml.quantize_rows(x, FORMATS["Q8_0"], threads=3), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_importance_moves_the_error_to_columns_that_matter_less():
    fmt = FORMATS["Q4_0"]
    x = random(64, 256)
    importance = np.where(np.arange(256) % 2 == 0, 100.0, 0.01).astype(np.float32)
    plain = ggml.dequantize_rows(round_to_nearest(x, fmt), fmt, 256) - x
    weighted = ggml.dequantize_rows(round_with_importance(x, fmt, importance), fmt, 256) - x
    assert (weighted[:, ::2] ** 2).mean() < 0.9 * (plain[:, ::2] ** 2).mean()
    assert (weighted[:, 1::2] ** 2).mean() > (plain[:, 1::2] ** 2).mean()


def test_each_expert_has_its_own_importance():
    fmt = FORMATS["Q4_K"]
    x = random(6, 256).reshape(2, 3, 256)
    importance = np.abs(random(2, 256, seed=1))
    both = round_with_importance(x, fmt, importance)
    assert both.shape == (2, 3, 144)
    for expert in range(2):
        alone = ggml.quantize_rows(x[expert], fmt, importance[expert])
        assert np.array_equal(both[expert], alone)
    with pytest.raises(ShapeError, match="does not belong"):
        round_with_importance(x, fmt, importance[0])


def test_stacks_and_vectors_are_rounded_row_by_row():
    fmt = FORMATS["Q8_0"]
    x = random(6, 64)
    rows = ggml.quantize_rows(x, fmt)
    assert np.array_equal(round_to_nearest(x.reshape(2, 3, 64), fmt), rows.reshape(2, 3, 68))
    assert np.array_equal(round_to_nearest(x[0], fmt), rows[0])


def test_no_rows_give_no_bytes():
    empty = np.empty((0, 256), np.float32)
    assert ggml.quantize_rows(empty, FORMATS["Q4_K"]).shape == (0, 144)
    assert ggml.dequantize_rows(np.empty((0, 144), np.uint8), FORMATS["Q4_K"], 256).shape == (
        0,
        256,
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_K", "IQ4_XS", "MXFP4"])
def test_values_that_are_no_numbers_are_refused_with_their_place(name, value):
    x = random(300, 512)
    x[211, 17] = value
    with pytest.raises(ValueRangeError, match=rf"row 211, column 17 is {value}, which {name}"):
        ggml.quantize_rows(x, FORMATS[name], threads=2)


@pytest.mark.parametrize("name", ENCODED)
def test_extreme_values_neither_crash_nor_give_infinities(name):
    # ggml's grid encoders abort the process when sums of squares overflow.
    fmt = FORMATS[name]
    x = random(2, 512)
    weights = np.ones(512, np.float32)
    for scale in (0.0, 1e-42, 1e-20, 1e4, 1e7, 1e8, 1e12, 1e20, 1e30, 1e38):
        for importance in (weights, weights * np.float32(1e15), weights * 0):
            with np.errstate(over="ignore"):
                values = np.clip(x * np.float32(scale), -3e38, 3e38)
            if scale == 1e8:  # the limit of the grid encoders itself
                values = np.sign(x) * np.float32(scale)
            try:
                blocks = ggml.quantize_rows(values, fmt, importance, threads=1)
            except ValueRangeError:
                assert scale > 1e4
                continue
            assert np.isfinite(ggml.dequantize_rows(blocks, fmt, 512)).all()


def test_float16_refuses_what_would_become_infinite():
    with pytest.raises(ValueRangeError, match="row 0, column 1 is 65520"):
        ggml.quantize_rows(np.array([[65519, 65520]], np.float32), FORMATS["F16"])


@pytest.mark.parametrize(
    ("importance", "error", "message"),
    [
        (np.ones(511, np.float32), ShapeError, r"shape \(512,\), not \(511,\)"),
        (np.full(512, np.nan, np.float32), ValueRangeError, "not from nan"),
        (np.full(512, -1, np.float32), ValueRangeError, "not from -1"),
        (np.full(512, 1e30, np.float32), ValueRangeError, "0 to 1e\\+15"),
    ],
)
def test_importance_is_checked(importance, error, message):
    with pytest.raises(error, match=message):
        ggml.quantize_rows(random(1, 512), FORMATS["IQ2_XS"], importance)


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ1_S"])
def test_types_that_need_importance_say_so(name):
    assert ggml.requires_importance(FORMATS[name])
    with pytest.raises(ImportanceRequiredError, match=name):
        ggml.quantize_rows(random(1, 256), FORMATS[name])


def test_types_without_encoder_or_decoder():
    for name in ("I32", "F64", "Q8_1", "Q8_K"):
        with pytest.raises(UnknownTypeError, match=f"no encoder for {name}"):
            ggml.quantize_rows(random(1, 256), FORMATS[name])
    for name in ("I32", "F64", "Q8_1"):
        assert not ggml.can_decode(FORMATS[name])
        blocks = np.zeros((1, FORMATS[name].row_bytes(256)), np.uint8)
        with pytest.raises(UnknownTypeError, match=f"no decoder for {name}"):
            ggml.dequantize_rows(blocks, FORMATS[name], 256)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(256, np.float32),
        np.zeros((1, 256), np.float64),
        np.zeros((256, 2), np.float32).T,
        np.zeros((1, 250), np.float32),
        np.zeros((1, 0), np.float32),
    ],
    ids=["vector", "float64", "not contiguous", "no whole block", "no columns"],
)
def test_wrong_arrays_are_refused(x):
    with pytest.raises(ShapeError):
        ggml.quantize_rows(x, FORMATS["Q4_K"])


@pytest.mark.parametrize(
    "blocks",
    [
        np.zeros((1, 143), np.uint8),
        np.zeros((1, 144), np.int8),
        np.zeros(144, np.uint8),
        np.zeros((144, 2), np.uint8).T,
    ],
    ids=["a byte short", "int8", "vector", "not contiguous"],
)
def test_wrong_blocks_are_refused(blocks):
    with pytest.raises(ShapeError, match=r"uint8 \(rows, 144\)"):
        ggml.dequantize_rows(blocks, FORMATS["Q4_K"], 256)


def test_a_library_that_disagrees_with_the_table_is_refused():
    with pytest.raises(LibraryError, match="calls type 12 'Q4_K', not 'Q4_X'"):
        check_layout(BlockFormat("Q4_X", 12, 256, 144))
    with pytest.raises(LibraryError, match="256 values in 144 bytes, not 256 in 140"):
        check_layout(BlockFormat("Q4_K", 12, 256, 140))


def test_a_missing_library_is_said_in_one_sentence(monkeypatch, tmp_path):
    from edgellm_quant.library import library

    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    with pytest.raises(LibraryError, match="no such ggml library") as caught:
        library.__wrapped__()
    assert caught.value.hint == "reinstall llama-cpp-python"
    (tmp_path / "libggml-base.so").write_bytes(b"not a library")
    (tmp_path / "libggml-base.dylib").write_bytes(b"not a library")
    with pytest.raises(LibraryError, match="cannot be opened"):
        library.__wrapped__()
