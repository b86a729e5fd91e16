"""Whole tiny files, quantized by llama_model_quantize and by us: types and bytes are equal."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_quant.facts import ModelFacts, TensorFacts
from edgellm_quant.formats import BY_TYPE, get_format
from edgellm_quant.ggml import dequantize_rows, recode_rows
from edgellm_quant.methods.importance import round_with_importance
from edgellm_quant.recipes import RECIPES, choose_types, needs_importance
from llama_quantize import quantize_file, read_tensors, write_model

LAYERS = 16  # the fewest for which every "first sixteenth" and "first eighth" is a layer or more


def dense(columns, *, tied):
    """Two or three rows a matrix: the rules look at columns only, and IQ encoders are slow."""
    rng = np.random.default_rng(columns)
    shapes = {"token_embd": (5, columns), "output_norm": (columns,)}
    if not tied:
        shapes["output"] = (5, columns)
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
            shapes[f"blk.{layer}.{part}"] = (2, columns)
        shapes[f"blk.{layer}.ffn_down"] = (3, 2 * columns)
        shapes[f"blk.{layer}.attn_norm"] = (columns,)
    return {
        f"{name}.weight": rng.standard_normal(shape, np.float32) / 16
        for name, shape in shapes.items()
    }


def experts():
    rng = np.random.default_rng(8)
    shapes = {"token_embd": (5, 256), "output": (5, 256), "output_norm": (256,)}
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp"):
            shapes[f"blk.{layer}.{part}"] = (2, 256)
        shapes[f"blk.{layer}.ffn_gate_exps"] = (8, 2, 256)
        shapes[f"blk.{layer}.ffn_down_exps"] = (8, 2, 256)
    return {
        f"{name}.weight": rng.standard_normal(shape, np.float32) / 16
        for name, shape in shapes.items()
    }


SOURCES = {
    "dense": (ModelFacts("llama", LAYERS, 8, 2), lambda: dense(256, tied=False), "F32"),
    "dense bf16 tied": (ModelFacts("llama", LAYERS, 4, 4), lambda: dense(256, tied=True), "BF16"),
    "576 wide f16 tied": (ModelFacts("llama", LAYERS, 9, 3), lambda: dense(576, tied=True), "F16"),
    "24 wide": (ModelFacts("llama", LAYERS, 9, 3), lambda: dense(24, tied=False), "F32"),
    "quantized": (ModelFacts("llama", LAYERS, 8, 8), lambda: dense(256, tied=True), "Q8_0"),
    "eight experts": (ModelFacts("llama", LAYERS, 8, 2, 8), experts, "F16"),
}


def rows_of(stored, shapes):
    return {
        name: (kind, data.reshape(int(np.prod(shapes[name][:-1])), -1))
        for name, (kind, data) in stored.items()
    }


@pytest.fixture(scope="module", params=SOURCES)
def source(request, tmp_path_factory):
    facts, make, kind = SOURCES[request.param]
    path = tmp_path_factory.mktemp("source") / "model.gguf"
    arrays = make()
    write_model(path, facts, arrays, kind)
    shapes = {name: array.shape for name, array in arrays.items()}
    return path, facts, shapes, rows_of(read_tensors(path), shapes)


def ours(rows, source_type, target, shape, importance):
    """Encode the stored rows of a tensor as the pipeline does: rows of all experts in one go."""
    if BY_TYPE[source_type] == target:
        return rows
    if importance is None:
        return recode_rows(rows, BY_TYPE[source_type], target, shape[-1], threads=2)
    values = dequantize_rows(rows, BY_TYPE[source_type], shape[-1])
    if len(shape) == 3:
        importance = importance.reshape(shape[0], shape[-1])
    out = round_with_importance(values.reshape(shape), target, importance, threads=2)
    return out.reshape(len(rows), -1)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
def test_types_and_bytes(source, weighted, tmp_path):
    path, facts, shapes, stored = source
    tensors = [
        TensorFacts(name, shapes[name], BY_TYPE[kind].name) for name, (kind, _) in stored.items()
    ]
    rng = np.random.default_rng(1)
    importance = {
        name: rng.random(shape[-1] * (shape[0] if len(shape) == 3 else 1), np.float32) + 0.01
        for name, shape in shapes.items()
        if len(shape) > 1
    }
    compared = set()
    for recipe in RECIPES.values():
        if recipe.name == "Q1_0" and any(shape[-1] % 128 for shape in shapes.values()):
            continue  # llama.cpp refuses the file, and so does choose_types: tested elsewhere
        target = tmp_path / "out.gguf"
        choices = choose_types(recipe.name, tensors, facts, has_importance=weighted)
        needing = needs_importance(recipe.name, tensors, choices, facts.architecture)
        done = quantize_file(path, target, recipe.file_type, importance if weighted else None)
        assert done == (weighted or not needing), recipe.name
        if not done:
            continue
        theirs = rows_of(read_tensors(target), shapes)
        for tensor, choice in zip(tensors, choices, strict=True):
            number, expected = theirs[tensor.name]
            assert BY_TYPE[number] == choice.format, (recipe.name, tensor.name)
            kind, rows = stored[tensor.name]
            got = ours(
                rows,
                kind,
                choice.format,
                tensor.shape,
                importance.get(tensor.name) if weighted else None,
            )
            assert np.array_equal(got, expected), (recipe.name, tensor.name)
        compared.add(recipe.name)
    assert {"Q8_0", "Q4_0", "Q4_K_M", "F16", "BF16"} <= compared
    if weighted:
        assert len(compared) >= len(RECIPES) - 1


def test_one_thread_and_many_write_the_same_file(tmp_path):
    facts = ModelFacts("llama", LAYERS, 8, 2)
    path = tmp_path / "model.gguf"
    write_model(path, facts, {"blk.0.attn_q.weight": np.eye(300, 512, dtype=np.float32)}, "F32")
    recipe = RECIPES["Q4_K_S"]
    encoded = {}
    for threads in (1, 3):
        target = tmp_path / f"{threads}.gguf"
        assert quantize_file(path, target, recipe.file_type, threads=threads)
        encoded[threads] = read_tensors(target)["blk.0.attn_q.weight"][1]
    stored = read_tensors(path)["blk.0.attn_q.weight"][1].reshape(300, -1)
    mine = recode_rows(stored, get_format("F32"), get_format("Q4_K"), 512)
    assert np.array_equal(encoded[1], encoded[3])
    assert np.array_equal(encoded[1], mine.ravel())
