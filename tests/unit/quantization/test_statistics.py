"""Statistics of a running model against a forward pass in numpy that shares nothing with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

import tiny
from edgellm.backends.base import CancelledError
from edgellm.backends.llama_cpp.observe import ObservedModel
from edgellm.errors import BackendError, ContextOverflowError, UsageError
from edgellm.quantization.statistics import Gathered, Kind, collect
from edgellm_converters.pipeline import convert
from edgellm_quant.statistics import TensorStatistics
from reference_llama import Reference

PLENTY = 1 << 30
# Shares of a matrix's largest value: float32 sums in another order.
CLOSE = 2e-5
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Recorder(Reference):
    """A forward pass that keeps what each weight and each row of attention meets."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.met: dict[str, list[np.ndarray]] = {}
        self.looked: dict[str, list[np.ndarray]] = {}

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        self.met.setdefault(name, []).append(x)
        return super()._linear(name, x)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        found = super()._norm(x, name)
        if name == "model.norm":
            self.met.setdefault("head", []).append(found)
        return found

    def _probabilities(self, at: str, q: np.ndarray, keys: np.ndarray) -> np.ndarray:
        found = super()._probabilities(at, q, keys)
        self.looked.setdefault(at, []).append(found)
        return found


def inputs_of(folder: Path, tokens: list[int]) -> Recorder:
    recorder = Recorder(folder)
    for token in tokens:
        recorder.step(token)
    return recorder


def mean(parts: list[np.ndarray]) -> np.ndarray:
    """Give X'X over the rows of all parts, by their number, in float64."""
    x = np.concatenate(parts).astype(np.float64)
    return x.T @ x / len(x)


def mean_of_averages(recorders: list[Recorder], layer: int, group: int, share: int) -> np.ndarray:
    """Give the sum over a group's heads of (A X)'(A X), by the number of tokens."""
    at = f"model.layers.{layer}.self_attn."
    total, tokens = 0.0, 0
    for recorder in recorders:
        x = np.stack(recorder.met[f"{at}v_proj"]).astype(np.float64)
        for head in range(group * share, (group + 1) * share):
            averages = np.stack([a[head] @ x[: a.shape[1]] for a in recorder.looked[at]])
            total = total + averages.T @ averages
        tokens += len(x)
    return total / tokens


def texts(count: int = 6, *, low: int = 20, high: int = 45) -> list[list[int]]:
    rng = np.random.default_rng(7)
    sizes = rng.integers(low, high, count)
    return [[1, *rng.integers(3, 250, size).tolist()] for size in sizes]


def weights_of(path: Path, kind: Kind = "hessian") -> dict[str, Kind]:
    return {each.name: kind for each in gguf.GGUFReader(path).tensors if len(each.shape) > 1}


def gathered(path: Path, **options: object) -> tuple[dict[str, TensorStatistics], list[Gathered]]:
    options = {"memory": PLENTY, "threads": 1, "chunks": texts()} | options
    wanted = options.pop("wanted", None) or weights_of(path)
    passes = list(collect(path, options.pop("chunks"), wanted, **options))
    found: dict[str, TensorStatistics] = {}
    for each in passes:
        assert not found.keys() & each.statistics.keys()
        found |= each.statistics
    return found, passes


def assert_close(found: np.ndarray | None, wanted: np.ndarray) -> None:
    assert found is not None
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= CLOSE * np.abs(wanted).max()


def write(path: Path, make: Callable[[Path], Path]) -> tuple[Path, Path]:
    folder = make(path / "hf")
    convert(folder, path / "x.gguf", dtype="f32")
    return folder, path / "x.gguf"


MODELS = {
    "grouped": lambda folder: tiny.llama(folder),
    "tied": lambda folder: tiny.llama(folder, tied=True, bias=True),
    "wide-heads": lambda folder: tiny.llama(folder, head_dim=32),
}


@pytest.mark.parametrize("name", MODELS)
def test_statistics_are_those_of_a_forward_pass_in_numpy(name: str, tmp_path: Path) -> None:
    folder, path = write(tmp_path, MODELS[name])
    found, passes = gathered(path)
    assert len(passes) == 1
    recorders = [inputs_of(folder, text) for text in texts()]
    sides = {
        "hessian": [r for at, r in enumerate(recorders) if at % 4 != 3],
        "held_out": [r for at, r in enumerate(recorders) if at % 4 == 3],
    }
    tokens = sum(map(len, texts()))
    head = "token_embd.weight" if name == "tied" else "output.weight"
    for layer in range(2):
        plain = {
            f"blk.{layer}.{ours}.weight": f"model.layers.{layer}.{theirs}"
            for ours, theirs in NAMES.items()
        } | {head: "head"}
        for ours, theirs in plain.items():
            (group,) = found[ours].groups
            assert group.tokens == tokens
            for side, of in sides.items():
                assert_close(getattr(group, side), mean([np.stack(r.met[theirs]) for r in of]))
            assert_close(
                group.importance, np.diag(mean([np.stack(r.met[theirs]) for r in recorders]))
            )
        values = found[f"blk.{layer}.attn_v.weight"]
        assert len(values.groups) == 2
        for number, group in enumerate(values.groups):
            assert group.tokens == tokens
            for side, of in sides.items():
                assert_close(getattr(group, side), mean_of_averages(of, layer, number, 2))
            assert_close(group.importance, np.diag(mean_of_averages(recorders, layer, number, 2)))


def test_passes_under_little_memory_give_the_same(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    whole, _ = gathered(path)
    # Three matrices for the values and their neighbours, each twice, and one in the making.
    parts, passes = gathered(path, memory=4 * 64 * 64 * 7)
    assert len(passes) > 3
    assert [each.passed for each in passes] == list(range(1, len(passes) + 1))
    assert list(parts) == list(whole)
    for name, statistics in whole.items():
        if name.endswith("ffn_down.weight"):  # 96 wide: too large for so little
            continue
        for one, other in zip(statistics.groups, parts[name].groups, strict=True):
            assert one.hessian is not None
            assert np.array_equal(one.hessian, other.hessian)
            assert np.array_equal(one.held_out, other.held_out)
            assert np.array_equal(one.importance, other.importance)


def test_what_does_not_fit_is_importance_alone_and_noted(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    whole, _ = gathered(path)
    found, passes = gathered(path, memory=4 * 64 * 64 * 3)
    notes = {name: note for each in passes for name, note in each.notes.items()}
    assert found["blk.0.attn_v.weight"].groups[0].hessian is not None
    assert len(found["blk.0.attn_v.weight"].groups) == 1
    assert "without the attention's average" in notes["blk.0.attn_v.weight"]
    down = found["blk.0.ffn_down.weight"].groups[0]
    assert down.hessian is None
    assert "importance alone" in notes["blk.0.ffn_down.weight"]
    assert np.array_equal(down.importance, whole["blk.0.ffn_down.weight"].groups[0].importance)


def test_weights_that_share_an_input_share_the_arrays(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    found, _ = gathered(path)
    for one, other in (("attn_q", "attn_k"), ("ffn_gate", "ffn_up")):
        first, second = (found[f"blk.1.{name}.weight"].groups[0] for name in (one, other))
        assert first.hessian is second.hessian
        assert first.held_out is second.held_out


def test_importance_alone_is_gathered_without_matrices(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    full, _ = gathered(path)
    found, passes = gathered(path, wanted=weights_of(path, "importance"), memory=0)
    assert len(passes) == 1
    plain = full["blk.0.attn_q.weight"].groups[0].importance
    assert np.array_equal(found["blk.0.attn_v.weight"].groups[0].importance, plain)
    for name, statistics in found.items():
        assert all(group.hessian is None for group in statistics.groups)
        if "attn_v" not in name:
            assert np.array_equal(statistics.groups[0].importance, full[name].groups[0].importance)


def test_tensors_that_the_caller_has_are_left_out(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    whole, _ = gathered(path)
    rest: dict[str, Kind] = {"blk.0.attn_v.weight": "hessian", "blk.1.ffn_up.weight": "hessian"}
    found, _ = gathered(path, wanted=rest)
    assert found.keys() == rest.keys()
    for name, statistics in found.items():
        for one, other in zip(statistics.groups, whole[name].groups, strict=True):
            assert np.array_equal(one.hessian, other.hessian)


def test_a_text_in_parts_is_the_same_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large vocabulary makes for small batches: attention then sees earlier parts too."""
    _, path = write(tmp_path, tiny.llama)
    chunks = texts(3, low=80, high=110)
    whole, _ = gathered(path, chunks=chunks)
    monkeypatch.setattr("edgellm.backends.llama_cpp.observe.LOGITS_BYTES", 0)
    parts, _ = gathered(path, chunks=chunks)
    for name, statistics in whole.items():
        for one, other in zip(statistics.groups, parts[name].groups, strict=True):
            assert one.hessian is not None
            assert_close(other.hessian, one.hessian)


def test_the_first_token_is_added_where_it_is_not_there(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    with_it, _ = gathered(path)
    without, _ = gathered(path, chunks=[text[1:] for text in texts()])
    first, second = (each["output.weight"].groups[0] for each in (with_it, without))
    assert np.array_equal(first.importance, second.importance)


@pytest.mark.parametrize("few", [0, 1])
def test_values_take_fewer_tokens_of_each_side(few: int, tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    chunks = texts(8)
    found, _ = gathered(path, chunks=chunks, attention_tokens=few)
    for group in found["blk.0.attn_v.weight"].groups:
        assert group.tokens == len(chunks[0]) + len(chunks[3])
        assert group.held_out is not None
    assert found["blk.0.attn_q.weight"].groups[0].tokens == sum(map(len, chunks))


def test_without_chunks_to_hold_out_there_is_nothing_to_judge_by(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    found, _ = gathered(path, held_out=0)
    assert all(group.held_out is None for each in found.values() for group in each.groups)


def test_progress_counts_the_tokens_of_all_passes(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    seen: list[tuple[int, int]] = []
    _, passes = gathered(
        path, memory=4 * 64 * 64 * 7, progress=lambda done, total: seen.append((done, total))
    )
    total = sum(map(len, texts())) * len(passes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)
    assert {each.tokens for each in passes} == {sum(map(len, texts()))}


def test_it_stops_when_told(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    stop = False

    def progress(done: int, total: int) -> None:
        nonlocal stop
        stop = True

    with pytest.raises(CancelledError):
        gathered(path, progress=progress, cancelled=lambda: stop)


def test_what_a_callback_raises_is_raised(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    model = ObservedModel(path, longest=8, threads=1)

    def see(_node: object) -> bool:
        raise KeyError("of the callback")

    try:
        for ask in (lambda node: node.op == "MUL_MAT", see):
            model.clear()
            with pytest.raises(KeyError, match="of the callback"):
                model.evaluate([1, 5, 6], ask, see)
        # It can be used as before.
        assert any(node.op == "SOFT_MAX" for node in model.graph([1, 5, 6]))
    finally:
        model.close()
        model.close()


def test_evaluation_ends_where_nothing_more_is_needed(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    model = ObservedModel(path, longest=8, threads=1)
    asked: list[str] = []

    def ask(node: object) -> bool:
        asked.append(node.name)
        return node.op == "MUL_MAT"

    try:
        model.evaluate([1, 5, 6], ask, lambda _node: False)
        first = len(asked)
        model.clear()
        model.evaluate([1, 5, 6], ask, lambda _node: True)
    finally:
        model.close()
    assert first < len(asked) / 10


@pytest.mark.parametrize(
    ("chunks", "error", "says"),
    [
        ([], UsageError, "no calibration text"),
        ([[]], UsageError, "no tokens"),
        ([[1, 2, 10**6]], UsageError, "beyond its vocabulary"),
        ([[1, -1]], UsageError, "beyond its vocabulary"),
        ([[5] * 128], ContextOverflowError, "129 tokens for a context of 128"),
    ],
)
def test_texts_that_cannot_be_evaluated_are_refused(
    chunks: list[list[int]], error: type[Exception], says: str, tmp_path: Path
) -> None:
    _, path = write(tmp_path, tiny.llama)
    with pytest.raises(error, match=says):
        gathered(path, chunks=chunks)


def test_a_weight_that_nothing_is_multiplied_with_is_noted(tmp_path: Path) -> None:
    _, path = write(tmp_path, tiny.llama)
    found, passes = gathered(path)
    assert "token_embd.weight" not in found
    assert passes[0].notes == {"token_embd.weight": "is multiplied with nothing"}
    only, passes = gathered(path, wanted={"no.such.weight": "hessian"})
    assert not only
    assert passes[0].notes == {"no.such.weight": "is multiplied with nothing"}


def test_inputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    tensors = tiny.read_safetensors(folder)
    tensors["model.layers.1.mlp.up_proj.weight"] *= np.float32(1e24)
    tiny.write_safetensors(folder / "model.safetensors", tensors)
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    with pytest.raises(BackendError, match=r"blk\.1\.ffn_down\.weight.*not finite"):
        gathered(tmp_path / "x.gguf")
