"""Tensors of ggml are read as the library lays them out, or not at all."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm.backends.llama_cpp import tensor
from edgellm.backends.llama_cpp.observe import ObservedModel
from edgellm.errors import BackendError
from edgellm_converters.pipeline import convert

FIELDS = tensor._Struct._fields_


def test_this_library_has_the_layout() -> None:
    tensor.check_layout()


@pytest.mark.parametrize("at", range(len(FIELDS) - 2))  # the last two are not read
def test_a_struct_with_two_fields_in_the_other_order_is_refused(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = list(FIELDS)
    if fields[at][0] in ("type", "buffer", "op", "flags", "data", "name", "extra"):
        fields[at], fields[at + 1] = fields[at + 1], fields[at]
    else:
        fields.insert(at, ("more", ctypes.c_int64))
    other = type("Other", (ctypes.Structure,), {"_fields_": fields})
    monkeypatch.setattr(tensor, "_Struct", other)
    with pytest.raises(BackendError, match="not known here"):
        tensor.check_layout.__wrapped__()


def test_values_are_read_with_their_strides(tmp_path: Path) -> None:
    """A product is the one of what was read of its operands, heads and all."""
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x.gguf", dtype="f32")
    model = ObservedModel(tmp_path / "x.gguf", longest=8, threads=1)
    compared = 0

    def see(node: tensor.Tensor) -> bool:
        nonlocal compared
        weight, x = (node.source(at) for at in range(2))
        assert weight is not None
        assert x is not None
        a, b = weight.read().astype(np.float64), x.read().astype(np.float64)
        a = np.repeat(a, b.shape[1] // a.shape[1], axis=1)  # heads that share keys
        np.testing.assert_allclose(
            node.read(), np.einsum("shik,shjk->shji", a, b), rtol=1e-3, atol=1e-4
        )
        compared += 1
        return True

    try:
        model.evaluate([1, 10, 11, 12], lambda node: node.op == "MUL_MAT", see)
    finally:
        model.close()
    # Seven weights and two products within attention in each layer, and the output.
    assert compared == 2 * 9 + 1
