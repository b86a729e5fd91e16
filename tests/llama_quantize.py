"""Run llama_model_quantize, the reference for bytes, on tiny generated files."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgellm_quant.facts import ModelFacts
from edgellm_quant.formats import get_format
from edgellm_quant.ggml import quantize_rows
from edgellm_quant.library import library


def write_model(
    path: Path, facts: ModelFacts, tensors: Mapping[str, np.ndarray], source: str
) -> None:
    """Write float32 arrays; matrices are stored as `source`, vectors as float32."""
    import gguf

    writer = gguf.GGUFWriter(path, facts.architecture)
    writer.add_block_count(facts.n_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(facts.n_heads)
    writer.add_head_count_kv(facts.n_heads_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(32)
    if facts.n_experts:
        writer.add_expert_count(facts.n_experts)
        writer.add_expert_used_count(2)
    for name, array in tensors.items():
        if array.ndim == 1 or source == "F32":
            writer.add_tensor(name, array)
            continue
        fmt = get_format(source)
        blocks = quantize_rows(array.reshape(-1, array.shape[-1]), fmt, threads=1)
        blocks = blocks.reshape(*array.shape[:-1], -1)
        kind = gguf.GGMLQuantizationType(fmt.ggml_type)
        writer.add_tensor(name, blocks, raw_shape=blocks.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _GGUFParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p)]


def read_tensors(path: Path) -> dict[str, tuple[int, np.ndarray]]:
    """Give ggml type number and bytes of every tensor, as ggml's own reader finds them."""
    lib = library()
    address, wide, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t

    def function(name: str, result: object, *arguments: object) -> Any:
        found = getattr(lib, name)
        found.restype, found.argtypes = result, arguments
        return found

    context = function("gguf_init_from_file", address, ctypes.c_char_p, _GGUFParams)(
        bytes(path), _GGUFParams(True, None)
    )
    assert context, path
    start = function("gguf_get_data_offset", size, address)(context)
    data = np.fromfile(path, np.uint8, offset=start)
    found = {}
    for at in range(function("gguf_get_n_tensors", wide, address)(context)):
        name = function("gguf_get_tensor_name", ctypes.c_char_p, address, wide)(context, at)
        kind = function("gguf_get_tensor_type", ctypes.c_int, address, wide)(context, at)
        first = function("gguf_get_tensor_offset", size, address, wide)(context, at)
        length = function("gguf_get_tensor_size", size, address, wide)(context, at)
        found[name.decode()] = (kind, data[first : first + length])
    function("gguf_free", None, address)(context)
    return found


def quantize_file(
    source: Path,
    target: Path,
    file_type: int,
    importance: Mapping[str, np.ndarray] | None = None,
    threads: int = 2,
) -> bool:
    """Let llama.cpp quantize a file; False if it refuses."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = threads
    params.allow_requantize = True
    if importance is not None:
        entry = llama_cpp.llama_model_imatrix_data
        array = (entry * (len(importance) + 1))()
        for at, (name, values) in enumerate(importance.items()):
            data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            array[at] = entry(name.encode(), data, values.size)
        params.imatrix = ctypes.cast(array, type(params.imatrix))
    status = llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params))
    return bool(status == 0)
