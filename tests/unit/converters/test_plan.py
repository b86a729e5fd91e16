"""Plans put tensors together from pieces, in every direction; numpy does the same by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_converters.architectures.base import Place, Side, TensorRule, Transform
from edgellm_converters.plan import Step, make_plan
from edgellm_converters.streams import Recoder, step_format, stream
from edgellm_quant.formats import FORMATS, Format
from edgellm_quant.ggml import dequantize_rows, quantize_rows

HERE = Path("model")
F32 = FORMATS["F32"]
Array = np.ndarray[Any, Any]


class Held:
    """Tensors in memory, by the protocol of those of a checkpoint."""

    path = HERE

    def __init__(self, arrays: dict[str, Array], fmt: Format = F32) -> None:
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self._rows = {
            name: array.reshape(1 if array.ndim == 1 else -1, array.shape[-1])
            for name, array in arrays.items()
        }
        self._fmt = fmt

    def format(self, name: str) -> Format:
        return self._fmt if self.shapes[name][1:] else F32

    published = format

    def rows(self, name: str, start: int, stop: int) -> Array:
        values = np.ascontiguousarray(self._rows[name][start:stop], np.float32)
        fmt = self.format(name)
        if fmt is F32:
            return values.view(np.uint8)
        return quantize_rows(values, FORMATS[fmt.name])


def run(
    arrays: dict[str, Array], rules: list[TensorRule], source: Side, target: Side
) -> dict[str, Array]:
    held = Held(arrays)
    return {step.target: read(held, step) for step in plan(arrays, rules, source, target)}


def plan(
    arrays: dict[str, Array], rules: list[TensorRule], source: Side, target: Side
) -> list[Step]:
    shapes = {name: array.shape for name, array in arrays.items()}
    return make_plan(HERE, rules, shapes, source, target)


def read(held: Held, step: Step) -> Array:
    slabs = [slab.reshape(-1).view(np.uint8) for slab in stream(held, step, Recoder(F32))]
    return np.concatenate(slabs).view(np.float32).reshape(step.shape)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_experts_are_stacked_and_taken_apart() -> None:
    experts = {f"experts.{n}.up": numbers(3, 4, seed=n) for n in range(5)}
    rules = [
        TensorRule(Place("up_exps", (5, 3, 4), n * 3, 3), Place(f"experts.{n}.up", (3, 4)))
        for n in range(5)
    ]
    found = run(experts, rules, Side.HF, Side.GGUF)
    assert np.array_equal(found["up_exps"], np.stack(list(experts.values())))
    back = run(found, rules, Side.GGUF, Side.HF)
    assert back.keys() == experts.keys()
    assert all(np.array_equal(back[name], values) for name, values in experts.items())


def interleaved(heads: int, size: int, columns: int) -> list[TensorRule]:
    """Queries, keys and values by head in one matrix there, in three matrices here."""
    whole = (heads * 3 * size, columns)
    return [
        TensorRule(
            Place(name, (heads * size, columns), head * size, size),
            Place("qkv", whole, (head * 3 + at) * size, size),
        )
        for head in range(heads)
        for at, name in enumerate("qkv")
    ]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_a_fused_matrix_is_cut_by_head(heads: int, size: int, columns: int) -> None:
    fused = numbers(heads * 3 * size, columns)
    found = run({"qkv": fused}, interleaved(heads, size, columns), Side.HF, Side.GGUF)
    wanted = fused.reshape(heads, 3, size, columns)
    for at, name in enumerate("qkv"):
        assert np.array_equal(found[name], wanted[:, at].reshape(heads * size, columns))
    back = run(found, interleaved(heads, size, columns), Side.GGUF, Side.HF)
    assert np.array_equal(back["qkv"], fused)


def test_pieces_that_follow_each_other_are_read_as_one() -> None:
    rules = interleaved(4, 2, 3)
    step = plan({"qkv": numbers(24, 3)}, rules, Side.HF, Side.GGUF)[0]
    assert [(piece.row, piece.rows) for piece in step.pieces] == [(0, 2), (6, 2), (12, 2), (18, 2)]
    halves = [TensorRule(Place("x", (6, 3), row, 3), Place("y", (6, 3), row, 3)) for row in (0, 3)]
    step = plan({"y": numbers(6, 3)}, halves, Side.HF, Side.GGUF)[0]
    assert [(piece.row, piece.rows) for piece in step.pieces] == [(0, 6)]


def test_transposed_matrices_and_parts_of_them() -> None:
    whole = TensorRule(
        Place("a", (5, 3)),
        Place("b", (3, 5)),
        transform=Transform.TRANSPOSED,
        mlx=Place("c", (5, 3)),
        mlx_transform=Transform.TRANSPOSED,
    )
    values = numbers(3, 5)
    for side, name in ((Side.GGUF, "a"), (Side.MLX, "c")):
        found = run({"b": values}, [whole], Side.HF, side)
        assert np.array_equal(found[name], values.T)
        assert np.array_equal(run(found, [whole], side, Side.HF)["b"], values)
    # What both sides have transposed moves between them as it is.
    step = plan({"a": values.T}, [whole], Side.GGUF, Side.MLX)[0]
    assert step.moves_rows
    # By head: (heads, size, rank) becomes (heads, rank, size).
    heads, size, rank = 3, 2, 4
    rules = [
        TensorRule(
            Place("k", (heads, rank, size), head * rank, rank),
            Place("kv", (heads * size, rank), head * size, size),
            transform=Transform.TRANSPOSED,
        )
        for head in range(heads)
    ]
    fused = numbers(heads * size, rank)
    found = run({"kv": fused}, rules, Side.HF, Side.GGUF)
    assert np.array_equal(found["k"], fused.reshape(heads, size, rank).swapaxes(1, 2))
    assert np.array_equal(run(found, rules, Side.GGUF, Side.HF)["kv"], fused)


def test_a_transposed_matrix_comes_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm_converters.streams.SLAB_VALUES", 8)
    rule = TensorRule(Place("a", (7, 3)), Place("b", (3, 7)), transform=Transform.TRANSPOSED)
    values = numbers(3, 7)
    held = Held({"b": values})
    (step,) = plan({"b": values}, [rule], Side.HF, Side.GGUF)
    slabs = [slab.view(np.float32) for slab in stream(held, step, Recoder(F32))]
    assert [len(slab) for slab in slabs] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate(slabs), values.T)


def test_first_rows_that_only_one_side_has_are_zeros_there() -> None:
    rule = TensorRule(Place("position", (4, 3)), Place("positions", (6, 3), 2, 4))
    values = numbers(6, 3)
    found = run({"positions": values}, [rule], Side.HF, Side.GGUF)
    assert np.array_equal(found["position"], values[2:])
    back = run(found, [rule], Side.GGUF, Side.HF)["positions"]
    assert np.array_equal(back[2:], values[2:])
    assert not back[:2].any()


def test_vectors_are_cut_and_reordered_by_their_values() -> None:
    heads, size = 3, 4
    rules = [
        TensorRule(
            Place("q", (heads * size,)),
            Place("qkv", (2 * heads * size,), 0, heads * size),
            transform=Transform.ROPE,
            head_dim=size,
        ),
        TensorRule(Place("k", (heads * size,)), Place("qkv", (24,), heads * size, heads * size)),
    ]
    values = numbers(24)
    found = run({"qkv": values}, rules, Side.HF, Side.GGUF)
    wanted = values[:12].reshape(heads, 2, size // 2).swapaxes(1, 2).reshape(-1)
    assert np.array_equal(found["q"], wanted)
    assert np.array_equal(found["k"], values[12:])
    assert np.array_equal(run(found, rules, Side.GGUF, Side.HF)["qkv"], values)


def test_one_plus_w() -> None:
    rule = TensorRule(Place("a", (3,)), Place("b", (3,)), transform=Transform.PLUS_ONE)
    values = np.array([0.0, -0.5, 2.0], np.float32)
    found = run({"b": values}, [rule], Side.HF, Side.GGUF)
    assert found["a"].tolist() == [1.0, 0.5, 3.0]
    assert run(found, [rule], Side.GGUF, Side.MLX)["b"].tolist() == values.tolist()


def test_quantized_rows_move_as_blocks_and_are_decoded_to_be_transposed() -> None:
    values = numbers(64, 64)
    held = Held({"w": values}, FORMATS["Q8_0"])
    rope = TensorRule(
        Place("a", (64, 64)), Place("w", (64, 64)), transform=Transform.ROPE, head_dim=16
    )
    turned = TensorRule(Place("a", (64, 64)), Place("w", (64, 64)), transform=Transform.TRANSPOSED)
    moved = make_plan(HERE, [rope], held.shapes, Side.HF, Side.GGUF)[0]
    assert step_format(held, moved).name == "Q8_0"
    blocks = np.concatenate(list(stream(held, moved, Recoder(FORMATS["Q8_0"]))))
    order = np.arange(64).reshape(4, 2, 8).swapaxes(1, 2).reshape(-1)
    assert np.array_equal(blocks, quantize_rows(values, FORMATS["Q8_0"])[order])
    computed = make_plan(HERE, [turned], held.shapes, Side.HF, Side.GGUF)[0]
    assert step_format(held, computed).name == "F32"
    decoded = dequantize_rows(quantize_rows(values, FORMATS["Q8_0"]), FORMATS["Q8_0"], 64)
    assert np.array_equal(read(held, computed), decoded.T)


def test_rules_that_leave_a_gap_are_a_mistake_of_ours() -> None:
    gap = [TensorRule(Place("a", (6, 2), row, 2), Place("b", (6, 2), row, 2)) for row in (0, 4)]
    with pytest.raises(ValueError, match="gap"):
        plan({"b": numbers(6, 2)}, gap, Side.HF, Side.GGUF)
    with pytest.raises(ValueError, match="end at row 2"):
        plan({"b": numbers(6, 2)}, gap[:1], Side.HF, Side.GGUF)
