"""What the rows of a tied embedding are worth where they are looked up, and in front of logits."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm.backends.llama_cpp.swap import SwapModel
from edgellm.quantization.lookup import lookup_share, with_lookup
from edgellm.quantization.sensitivity import divergences, references
from edgellm_converters.pipeline import convert
from edgellm_quant.statistics import RowStatistics, TensorStatistics

NAME = "token_embd.weight"
RANDOM = np.random.default_rng(5)
CHUNKS = [[1, *map(int, RANDOM.integers(3, 200, 63))] for _ in range(6)]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_share_is_what_a_copy_with_two_matrices_shows(scale: float, tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "tied", tied=True)
    tensors = tiny.read_safetensors(folder)
    embedding = tensors["model.embed_tokens.weight"]
    embedding *= scale / embedding.std()
    tiny.write_safetensors(folder / "model.safetensors", tensors)
    model = tmp_path / "tied.gguf"
    convert(folder, model, dtype="f32")
    found = lookup_share(model, NAME, CHUNKS, seed=7)

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    tiny.write_safetensors(folder / "model.safetensors", tensors | {"lm_head.weight": embedding})
    untied = tmp_path / "untied.gguf"
    convert(folder, untied, dtype="f32")
    size = 0.05 * np.sqrt((embedding**2).mean(axis=1, keepdims=True))
    noise = np.random.default_rng(7).standard_normal(embedding.shape, dtype=np.float32) * size
    changed = (embedding + noise).view(np.uint8)
    with closing(SwapModel(untied, 64)) as swapped:
        pairs = references(swapped, CHUNKS)
        swapped.write(NAME, changed)
        looked_up = float(divergences(swapped, pairs, None).mean())
        swapped.write("output.weight", changed)
        both = float(divergences(swapped, pairs, None).mean())
    assert both > looked_up > 0
    assert found == pytest.approx(min(10, looked_up / (both - looked_up)), rel=0.01)


def test_the_cost_of_looking_up_has_no_direction() -> None:
    hessian = np.diag(np.float32([6, 3, 0]))
    group = RowStatistics(0, 5, 10, np.float32([6, 3, 0]), hessian, 2 * hessian)
    (found,) = with_lookup(TensorStatistics(3, (group,)), 0.5).groups
    np.testing.assert_allclose(found.importance, [7.5, 4.5, 1.5])
    assert found.hessian is not None
    assert found.held_out is not None
    np.testing.assert_allclose(found.hessian, np.diag([7.5, 4.5, 1.5]))
    np.testing.assert_allclose(found.held_out, np.diag([13.5, 7.5, 1.5]))
