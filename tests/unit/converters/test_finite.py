"""NaN and infinity are found wherever they are, and nothing else is taken for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgellm_converters.checked import CheckedTensors
from edgellm_converters.errors import NotFiniteError
from edgellm_converters.finite import (
    INFINITY,
    PIECE,
    SCALES,
    is_finite,
    recode_not_finite,
    rows_are_finite,
    spell,
)
from edgellm_quant import mlx
from edgellm_quant.errors import ValueRangeError
from edgellm_quant.formats import FORMATS, BlockFormat, MLXFormat
from edgellm_quant.ggml import dequantize_rows

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def values_of(words: NDArray[np.unsignedinteger], name: str) -> NDArray[np.floating]:
    if name == "BF16":
        return (words.astype(np.uint32) << 16).view(np.float32)
    return words.view(KINDS[name])


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_number_of_two_bytes(name: str) -> None:
    """All 65,536 of them, one by one, against numpy's own idea of what is finite."""
    words = np.arange(1 << 16, dtype="<u2")
    wanted = np.isfinite(values_of(words, name))
    found = [is_finite(word.reshape(1, 1).view(np.uint8), FORMATS[name]) for word in words]
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("name", ["F64", "F32"])
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_bits_of_the_wider_ones(name: str, data: st.DataObject) -> None:
    size = FORMATS[name].type_size
    edge = {8: 0x7FF0 << 48, 4: 0x7F800000}[size]
    near = st.integers(-2, 2).map(lambda step: edge + step)
    bits = data.draw(st.one_of(st.integers(0, (1 << 8 * size) - 1), near))
    word = np.array([[bits | data.draw(st.sampled_from([0, 1 << (8 * size - 1)]))]], f"<u{size}")
    wanted = bool(np.isfinite(values_of(word, name)).all())
    assert is_finite(word.view(np.uint8), FORMATS[name]) == wanted


@pytest.mark.parametrize("at", [0, PIECE // 4 - 1, PIECE // 4, 3 * PIECE // 4, -1])
def test_one_among_many(at: int) -> None:
    values = np.full((4, PIECE // 4 + 1), -1.5, np.float32)
    assert is_finite(values.view(np.uint8), FORMATS["F32"])
    values.reshape(-1)[at] = -np.inf
    assert not is_finite(values.view(np.uint8), FORMATS["F32"])


@pytest.mark.parametrize("name", SCALES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_blocks_by_their_scales(name: str, data: st.DataObject) -> None:
    """Rows are finite where all values that ggml decodes of them are."""
    fmt = FORMATS[name]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    blocks = rng.integers(0, 256, (3, 2 * fmt.type_size)).astype(np.uint8)
    for offset in SCALES[name]:
        for start in (offset, fmt.type_size + offset):
            bits = data.draw(st.sampled_from([0, 0x3C00, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0xFC01]))
            row = data.draw(st.integers(0, 2))
            blocks[:, start : start + 2] = (0x00, 0x3C)
            blocks[row, start : start + 2] = np.array([bits], "<u2").view(np.uint8)
    columns = 2 * fmt.block_size
    wanted = bool(np.isfinite(dequantize_rows(blocks, fmt, columns)).all())
    assert rows_are_finite(blocks, fmt, columns) == wanted


def test_every_format_is_looked_at_or_known_not_to_be() -> None:
    unlooked = {fmt.name for fmt in FORMATS.values()} - SCALES.keys() - INFINITY.keys()
    whole = {"I8", "I16", "I32", "I64"}
    assert unlooked == whole | {"IQ1_M", "MXFP4", "NVFP4", "Q8_1", "Q8_K"}


@pytest.mark.parametrize("scale", ["F16", "BF16", "F32"])
def test_scales_and_biases_of_mlx(scale: str) -> None:
    fmt = MLXFormat("affine", 4, 32, scale)
    rng = np.random.default_rng(0)
    good = mlx.quantize_rows(rng.standard_normal((2, 64)).astype(np.float32), fmt)
    assert rows_are_finite(good, fmt, 64)
    width = FORMATS[scale].type_size
    for at in range(4):  # two scales and two biases
        bad = good.copy()
        bad[1, 32 + at * width : 32 + (at + 1) * width] = 0xFF
        assert not rows_are_finite(bad, fmt, 64)
    codes = good.copy()
    codes[:, :32] = 0xFF
    assert rows_are_finite(codes, fmt, 64)


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (-np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "-inf")]
)
def test_names(value: float, word: str) -> None:
    for name in ("F32", "F16", "F64"):
        cell = np.array([value], KINDS[name]).view(np.uint8)
        assert spell(cell, FORMATS[name]).startswith(word)


class Memory:
    """Tensors in memory, behind the face of a checkpoint."""

    path = Path("model")

    def __init__(self, arrays: dict[str, NDArray[np.float32]]) -> None:
        self.arrays = arrays
        self.shapes = {name: array.shape for name, array in arrays.items()}

    def format(self, name: str) -> BlockFormat:
        return FORMATS["F32"]

    def published(self, name: str) -> BlockFormat:
        return FORMATS["F32"]

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        array = self.arrays[name]
        return np.ascontiguousarray(array.reshape(-1, array.shape[-1])[start:stop]).view(np.uint8)


def test_the_whole_tensor_is_counted() -> None:
    values = np.zeros((10, 4), np.float32)
    values[[3, 3, 9], [1, 2, 0]] = np.nan, -np.inf, np.inf
    tensors = CheckedTensors(Memory({"w": values, "v": values[4]}), allow=False)
    assert tensors.rows("w", 0, 3).shape == (3, 16)
    assert tensors.rows("v", 0, 1).shape == (1, 16)
    with pytest.raises(NotFiniteError) as caught:
        tensors.rows("w", 2, 5)
    assert str(caught.value) == (
        "model: 3 values are NaN or infinite in the tensor w, the first in row 3, column 1 (NaN)"
    )
    assert caught.value.hint is not None
    assert "--allow-nan" in caught.value.hint


def test_what_is_allowed_is_noted_once() -> None:
    values = np.zeros((10, 4), np.float32)
    values[3, 1] = np.inf
    tensors = CheckedTensors(Memory({"w": values}), allow=True)
    for _ in range(2):  # as if two tensors of the target were made of it
        assert tensors.rows("w", 0, 10).tobytes() == values.tobytes()
    assert tensors.notes == [
        "1 value is NaN or infinite in the tensor w, the first in row 3, column 1 (infinity)"
    ]


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_encoding_keeps_them(name: str) -> None:
    values = np.array([[1.5, np.nan, -0.25], [-np.inf, np.inf, -np.nan]], np.float32)
    words = recode_not_finite(values.view(np.uint8), FORMATS[name], 3, 1)
    found = values_of(words.view(f"<u{FORMATS[name].type_size}"), name)
    assert np.array_equal(found, values, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(values))


def test_a_finite_value_that_is_too_large_is_still_refused() -> None:
    values = np.array([[1e9, np.nan]], np.float32)
    with pytest.raises(ValueRangeError, match=r"1000000000|1e\+09"):
        recode_not_finite(values.view(np.uint8), FORMATS["F16"], 2, 1)
