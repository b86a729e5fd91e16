"""What the graphs of other families tell: experts, fused matrices, encoders, heads of their own."""

from __future__ import annotations

import signal
from pathlib import Path

import gguf
import numpy as np
import pytest

import tiny
from edgellm.backends.llama_cpp.observe import ObservedModel
from edgellm.quantization.inputs import find_inputs
from edgellm.quantization.statistics import Gathered, collect
from edgellm_converters.pipeline import convert

WRITERS = tiny.MODELS | tiny.ENCODERS | tiny.TRANSLATORS
SIZE = 40


def gathered(name: str, path: Path, texts: int = 4) -> Gathered:
    convert(WRITERS[name](path / "hf"), path / "x.gguf", dtype="f32")
    tensors = gguf.GGUFReader(path / "x.gguf").tensors
    wanted = {each.name: "hessian" for each in tensors if len(each.shape) > 1}
    rng = np.random.default_rng(5)
    chunks = [rng.integers(7, 90, SIZE).tolist() for _ in range(texts)]
    (found,) = collect(path / "x.gguf", chunks, wanted, memory=1 << 30, threads=1)
    return found


def test_experts_share_the_tokens_of_the_dense_expert_beside_them(tmp_path: Path) -> None:
    """Each token goes to two of four experts and to the shared one, with the same input."""
    found = gathered("qwen2-moe", tmp_path, texts=12).statistics
    for layer in range(2):
        (shared,) = found[f"blk.{layer}.ffn_gate_shexp.weight"].groups
        for name in ("ffn_gate_exps", "ffn_up_exps"):
            experts = found[f"blk.{layer}.{name}.weight"].groups
            assert len(experts) == 4
            assert sum(each.tokens for each in experts) == 2 * shared.tokens
            assert min(each.tokens for each in experts) >= 64
            total = sum(each.tokens * each.importance.astype(np.float64) for each in experts)
            np.testing.assert_allclose(total, 2 * shared.tokens * shared.importance, rtol=1e-5)
        gate, up = (found[f"blk.{layer}.ffn_{name}_exps.weight"].groups for name in ("gate", "up"))
        for one, other in zip(gate, up, strict=True):
            assert one.importance is other.importance
            assert one.hessian is other.hessian


@pytest.mark.parametrize("name", ["phi3", "gpt2", "falcon", "modern-bert"])
def test_a_fused_matrix_has_rows_that_are_plain_and_heads_of_values(
    name: str, tmp_path: Path
) -> None:
    found = gathered(name, tmp_path)
    assert not [note for note in found.notes.values() if "average" in note]
    plain, *heads = found.statistics["blk.1.attn_qkv.weight"].groups
    assert len(heads) == {"phi3": 2, "gpt2": 4, "falcon": 1, "modern-bert": 4}[name]
    assert len({each.stop - each.start for each in heads}) == 1
    for each in (plain, *heads):
        assert each.hessian is not None
        diagonal = np.diag(each.hessian) * 0.75 + np.diag(each.held_out) * 0.25
        np.testing.assert_allclose(each.importance, diagonal, rtol=1e-4)
    # Values beside rows of their own: no head has the plain statistics.
    assert not any(np.allclose(each.hessian, plain.hessian, rtol=0.05) for each in heads)


def test_an_encoder_sees_the_whole_text_with_what_stands_around_it(tmp_path: Path) -> None:
    """Attention that is not causal: the first token's average changes with the last token."""
    convert(WRITERS["bert"](tmp_path / "hf"), tmp_path / "x.gguf", dtype="f32")
    name = "blk.0.attn_v.weight"
    found = []
    for last in (20, 30):
        chunks = [[10, 11, 12, last]]
        (each,) = collect(tmp_path / "x.gguf", chunks, {name: "hessian"}, memory=1 << 30)
        found.append(each.statistics[name])
        assert not each.notes
        assert each.tokens == 6
    assert len(found[0].groups) == 4
    assert all(group.tokens == 6 for group in found[0].groups)
    model = ObservedModel(tmp_path / "x.gguf", longest=8, threads=1)
    rows = []

    def see(node: object) -> bool:
        rows.append(np.array(node.read()[0, :, 0]))  # (heads, tokens)
        return False

    try:
        for last in (20, 30):
            model.clear()
            text = model.sequence([10, 11, 12, last])
            model.evaluate(text, lambda node: node.op == "SOFT_MAX", see)
    finally:
        model.close()
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    assert np.allclose(rows[0].sum(axis=1), 1)


def test_matrices_of_heads_meet_inputs_of_their_own(tmp_path: Path) -> None:
    """Latent attention: a matrix for each head, and values that no name is known for."""
    found = gathered("deepseek-v2-lite", tmp_path).statistics
    heads = found["blk.0.attn_k_b.weight"].groups
    assert len(heads) == 4
    assert all(each.tokens == 4 * SIZE for each in heads)
    assert len({each.importance.tobytes() for each in heads}) == 4


def test_what_is_no_product_is_noted(tmp_path: Path) -> None:
    found = gathered("lfm2", tmp_path)
    assert "blk.0.shortconv.conv.weight" not in found.statistics
    assert found.notes["blk.0.shortconv.conv.weight"] == "is multiplied with nothing"
    assert found.statistics["blk.0.shortconv.in_proj.weight"].groups[0].hessian is not None


def test_an_encoder_beside_a_decoder_is_gathered_in_both(tmp_path: Path) -> None:
    found = gathered("t5", tmp_path)
    for name in (
        "enc.blk.0.attn_q",
        "dec.blk.0.attn_q",
        "dec.blk.1.cross_attn_k",
        "dec.blk.1.ffn_down",
    ):
        assert found.statistics[f"{name}.weight"].groups[0].hessian is not None, name
    # Both halves name their averages alike.
    assert "more than one" in found.notes["dec.blk.0.attn_v.weight"]


def test_a_shared_input_is_found_by_the_graph_alone(tmp_path: Path) -> None:
    """Of a block whose halves stand side by side, the feed-forward takes what attention takes."""
    convert(WRITERS["falcon"](tmp_path / "hf"), tmp_path / "x.gguf", dtype="f32")
    model = ObservedModel(tmp_path / "x.gguf", longest=8, threads=1)
    try:
        nodes = model.graph(model.sequence([10, 11, 12]))
    finally:
        model.close()
    wanted = ["blk.0.attn_qkv.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"]
    inputs, notes = find_inputs(nodes, wanted)
    assert not notes
    assert [[weight.name for weight in each.weights] for each in inputs] in (
        [wanted[:2], wanted[2:]],
        [wanted[1::-1], wanted[2:]],
    )
    assert [each.times for each in inputs] == [1, 1]
    assert [each.columns for each in inputs] == [64, 256]


def test_an_interruption_is_raised_and_the_model_can_go_on(tmp_path: Path) -> None:
    convert(WRITERS["llama"](tmp_path / "hf"), tmp_path / "x.gguf", dtype="f32")
    model = ObservedModel(tmp_path / "x.gguf", longest=8, threads=1)
    seen = []

    def see(node: object) -> bool:
        seen.append(node.name)
        signal.raise_signal(signal.SIGINT)
        return True

    try:
        with pytest.raises(KeyboardInterrupt):
            model.evaluate([1, 10, 11], lambda node: node.op == "MUL_MAT", see)
        assert len(seen) == 1
        assert model.graph([1, 10, 11])
    finally:
        model.close()
