"""Ask llama.cpp itself which types it would choose, without a model file.

libllama exports the functions that its own tests use for this, as C++; the names below are
theirs under the Itanium ABI (Linux and macOS).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from edgellm_quant.facts import ModelFacts, TensorFacts
from edgellm_quant.library import library

_COMPUTE = (
    "_Z25llama_quant_compute_typesP19quantize_state_impl11llama_ftypePP11ggml_tensorP9ggml_typem"
)
_INIT = "_Z16llama_quant_initPK11llama_modelPK27llama_model_quantize_params"
_FREE = "_Z16llama_quant_freeP19quantize_state_impl"
_MODEL = "_Z31llama_quant_model_from_metadataPK22llama_quant_model_desc"
_ALLOWS = "_Z38llama_quant_tensor_allows_quantizationPK19quantize_state_implPK11ggml_tensor"


class _Description(ctypes.Structure):
    _fields_ = [
        ("architecture", ctypes.c_char_p),
        *[
            (name, ctypes.c_uint32)
            for name in (
                "n_embd",
                "n_ff",
                "n_layer",
                "n_head",
                "n_head_kv",
                "n_expert",
                "n_embd_head_k",
                "n_embd_head_v",
            )
        ],
    ]


class _InitParams(ctypes.Structure):
    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


def _function(lib: ctypes.CDLL, name: str, result: object, *arguments: object) -> object:
    try:
        function = getattr(lib, name)
    except AttributeError:
        pytest.skip(f"this libllama does not export {name}")
    function.restype = result
    function.argtypes = arguments
    return function


class TypeOracle:
    """llama.cpp's choice for one model."""

    def __init__(self, facts: ModelFacts) -> None:
        import llama_cpp

        lib = llama_cpp.llama_cpp._lib
        address = ctypes.c_void_p
        make = _function(lib, _MODEL, address, ctypes.POINTER(_Description))
        init = _function(lib, _INIT, address, address, address)
        self._compute = _function(
            lib, _COMPUTE, None, address, ctypes.c_int, address, address, ctypes.c_size_t
        )
        self._allows = _function(lib, _ALLOWS, ctypes.c_bool, address, address)
        self._free_state = _function(lib, _FREE, None, address)
        self._free_model = _function(lib, "llama_model_free", None, address)
        self._description = _Description(
            facts.architecture.encode(),
            4096,
            11008,
            facts.n_layers,
            facts.n_heads,
            facts.n_heads_kv,
            facts.n_experts,
            128,
            128,
        )
        self._params = llama_cpp.llama_model_quantize_default_params()
        self._model = make(ctypes.byref(self._description))
        self._state = init(self._model, ctypes.byref(self._params))
        ggml = library()
        self._ggml_init = _function(ggml, "ggml_init", address, _InitParams)
        self._ggml_free = _function(ggml, "ggml_free", None, address)
        wide = ctypes.c_int64
        self._new = _function(
            ggml, "ggml_new_tensor_4d", address, address, ctypes.c_int, wide, wide, wide, wide
        )
        self._name = _function(ggml, "ggml_set_name", address, address, ctypes.c_char_p)

    def close(self) -> None:
        self._free_state(self._state)
        self._free_model(self._model)

    @contextmanager
    def _tensors(self, tensors: Sequence[TensorFacts]) -> Iterator[list[int]]:
        context = self._ggml_init(_InitParams(1024 * (len(tensors) + 1), None, True))
        try:
            made = []
            for tensor in tensors:
                sizes = (*reversed(tensor.shape), 1, 1, 1)[:4]
                made.append(self._new(context, 0, *sizes))
                self._name(made[-1], tensor.name.encode())
            yield made
        finally:
            self._ggml_free(context)

    def allows(self, tensors: Sequence[TensorFacts]) -> list[bool]:
        with self._tensors(tensors) as made:
            return [self._allows(self._state, one) for one in made]

    def types(self, file_type: int, tensors: Sequence[TensorFacts]) -> list[int]:
        """Give ggml type numbers; `tensors` in llama.cpp's order, all quantizable."""
        with self._tensors(tensors) as made:
            pointers = (ctypes.c_void_p * len(made))(*made)
            result = (ctypes.c_int * len(made))()
            self._compute(self._state, file_type, pointers, result, len(made))
            return list(result)
