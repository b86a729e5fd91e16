"""GGUF adapters that are damaged, hostile or of another model: a sentence, and never a crash."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.models.adapter import prepare_adapters
from edgellm_converters import errors
from hostile import ggufbytes as g
from hostile.test_mutations import QUICK, VALUES, bounded, changed
from hostile.test_native import load_natively

RANK = 4
Q, DOWN, EMBEDDING = "blk.0.attn_q.weight", "blk.0.ffn_down.weight", "token_embd.weight"
A, B = f"{Q}.lora_a", f"{Q}.lora_b"


def matrix(name: str, *dims: int, kind: int = g.GGML_F32) -> g.Tensor:
    source = random.Random(name)
    count = math.prod(dims)
    code = {g.GGML_F32: "f", g.GGML_F16: "e"}.get(kind)
    if code is None:
        return g.Tensor(name, dims, kind)
    values = [source.gauss(0, 0.1) for _ in range(count)]
    return g.Tensor(name, dims, kind, struct.pack(f"<{count}{code}", *values))


def adapter() -> g.File:
    pairs = [
        g.pair("general.architecture", g.STRING, "llama"),
        g.pair("general.type", g.STRING, "adapter"),
        g.pair("general.base_model.0.name", g.STRING, "someone/model"),
        g.pair("adapter.type", g.STRING, "lora"),
        g.pair("adapter.lora.alpha", g.F32, 8.0),
    ]
    return g.File(
        pairs,
        [
            matrix(A, g.EMBED, RANK),
            matrix(B, RANK, g.EMBED),
            matrix(f"{DOWN}.lora_a", g.FEED, RANK, kind=g.GGML_F16),
            matrix(f"{DOWN}.lora_b", RANK, g.EMBED, kind=g.GGML_F16),
        ],
    )


def renamed(old: str, new: str) -> g.File:
    file = adapter()
    tensors = [replace(t, name=str(t.name).replace(old, new)) for t in file.tensors]
    return replace(file, tensors=tensors)


def also(*tensors: g.Tensor) -> g.File:
    file = adapter()
    return replace(file, tensors=[*file.tensors, *tensors])


def value(name: str, number: float) -> g.File:
    (tensor,) = [t for t in adapter().tensors if t.name == name]
    data = struct.pack("<f", number) + tensor.content()[4:]
    return adapter().with_tensor(name, data=data)


def pair(key: str, kind: int, what: object) -> g.File:
    return adapter().with_pair(g.pair(key, kind, what))


CASES: dict[str, tuple[g.File, type[errors.ConvertersError], list[str]]] = {
    "a model": (g.model(), errors.UnsupportedError, ["no LoRA adapter", "'model'"]),
    "a vocabulary": (
        pair("general.type", g.STRING, "vocab"),
        errors.UnsupportedError,
        ["no LoRA adapter", "'vocab'"],
    ),
    "a type that is no text": (
        pair("general.type", g.U32, 3),
        errors.ConfigError,
        ["general.type is no text"],
    ),
    "a kind that is no text": (
        pair("adapter.type", g.F32, 1.0),
        errors.ConfigError,
        ["adapter.type is no text"],
    ),
    "another kind": (
        pair("adapter.type", g.STRING, "ia3"),
        errors.UnsupportedError,
        ["adapter.type is 'ia3'"],
    ),
    "no kind": (adapter().without("adapter.type"), errors.UnsupportedError, ["adapter.type"]),
    "aLoRA": (
        adapter().with_pair(g.array("adapter.alora.invocation_tokens", g.U32, [1, 2])),
        errors.UnsupportedError,
        ["aLoRA"],
    ),
    "a control vector": (
        pair("general.architecture", g.STRING, "controlvector"),
        errors.UnsupportedError,
        ["control vector"],
    ),
    "another architecture": (
        pair("general.architecture", g.STRING, "qwen2"),
        errors.UnsupportedError,
        ["'qwen2'", "'llama'", "someone/model"],
    ),
    "no architecture": (
        adapter().without("general.architecture"),
        errors.UnsupportedError,
        ["architecture"],
    ),
    "an architecture of numbers": (
        pair("general.architecture", g.U32, 1),
        errors.ConfigError,
        ["general.architecture is no text"],
    ),
    "alpha of text": (
        pair("adapter.lora.alpha", g.STRING, "8"),
        errors.ConfigError,
        ["adapter.lora.alpha"],
    ),
    "alpha of 64 bits": (
        pair("adapter.lora.alpha", g.F64, 8.0),
        errors.ConfigError,
        ["adapter.lora.alpha is no number of 32 bits"],
    ),
    "alpha NaN": (
        pair("adapter.lora.alpha", g.F32, math.nan),
        errors.ConfigError,
        ["adapter.lora.alpha is nan"],
    ),
    "alpha infinite": (
        pair("adapter.lora.alpha", g.F32, -math.inf),
        errors.ConfigError,
        ["adapter.lora.alpha is -inf"],
    ),
    "a split adapter": (
        pair("split.count", g.U16, 2),
        errors.UnsupportedError,
        ["an adapter in parts"],
    ),
    "half a pair": (
        replace(adapter(), tensors=adapter().tensors[1:]),
        errors.IncompletePlanError,
        [B, "no partner"],
    ),
    "no tensors": (replace(adapter(), tensors=[]), errors.IncompletePlanError, ["no tensors"]),
    "another tensor": (
        also(matrix("output.weight", 4, 4)),
        errors.UnsupportedError,
        ["output.weight"],
    ),
    "a norm that was trained": (
        also(matrix("blk.0.attn_norm.weight", g.EMBED)),
        errors.UnsupportedError,
        ["blk.0.attn_norm.weight"],
    ),
    "a norm": (
        also(
            matrix("blk.0.attn_norm.weight.lora_a", g.EMBED, 1),
            matrix("blk.0.attn_norm.weight.lora_b", 1, 1),
        ),
        errors.UnsupportedError,
        ["blk.0.attn_norm.weight, a norm"],
    ),
    "a layer too many": (
        renamed("blk.0", "blk.1"),
        errors.IncompletePlanError,
        ["blk.1.attn_q.weight", "does not have", "someone/model"],
    ),
    "a bias": (renamed(".weight", ".bias"), errors.UnsupportedError, ["blk.0.attn_q.bias"]),
    "the end of a name twice": (
        renamed(".weight.lora_a", ".weight.lora_b.lora_a"),
        errors.ConvertersError,
        ["lora_"],
    ),
    "another width": (
        adapter().with_tensor(A, dims=(g.EMBED * 2, RANK), data=None),
        errors.IncompletePlanError,
        [A, "[32, 64]", "[32, 32]"],
    ),
    "ranks that differ": (
        adapter().with_tensor(A, dims=(g.EMBED, 3), data=None),
        errors.IncompletePlanError,
        [A, "rank 4"],
    ),
    "turned": (
        adapter().with_tensor(A, dims=(RANK, g.EMBED)).with_tensor(B, dims=(g.EMBED, RANK)),
        errors.IncompletePlanError,
        [A],
    ),
    "a vector": (
        adapter().with_tensor(A, dims=(g.EMBED,), data=None),
        errors.IncompletePlanError,
        [A],
    ),
    "experts where there are none": (
        adapter()
        .with_tensor(A, dims=(g.EMBED, RANK, 2), data=None)
        .with_tensor(B, dims=(RANK, g.EMBED, 2), data=None),
        errors.IncompletePlanError,
        [A, "[2, 32, 32]"],
    ),
    "a rank beyond all": (
        adapter()
        .with_tensor(A, dims=(g.EMBED, 9000), data=None)
        .with_tensor(B, dims=(9000, g.EMBED), data=None),
        errors.UnsupportedError,
        ["rank 9000", "8192"],
    ),
    "a type that is not multiplied": (
        adapter().with_tensor(A, kind=g.GGML_Q4_0, data=None),
        errors.UnsupportedError,
        [A, "Q4_0"],
    ),
    "the tied embedding": (
        also(
            matrix(f"{EMBEDDING}.lora_a", RANK, len(g.spm_tokens()[0])),
            matrix(f"{EMBEDDING}.lora_b", RANK, g.EMBED),
        ),
        errors.UnsupportedError,
        [EMBEDDING, "output matrix too"],
    ),
    "not a number": (value(B, math.nan), errors.NotFiniteError, [B, "NaN"]),
    "infinite": (value(B, math.inf), errors.NotFiniteError, [B]),
    "a tensor outside": (
        adapter().with_tensor(B, offset=1 << 40),
        errors.CorruptFileError,
        ["lora_b"],
    ),
    "a magic of something else": (
        replace(adapter(), magic=b"GGUX"),
        errors.CorruptFileError,
        ["GGUX"],
    ),
}
# Refused above because llama.cpp would end the process over it, or compute nonsense.
CRASHES = ["a type that is no text", "alpha of text", "alpha of 64 bits", "the tied embedding"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    path.write_bytes(g.model().build())
    return path


def check(base: Path) -> Callable[[Path], object]:
    return lambda path: prepare_adapters([(str(path), 1.0)], base)


def test_a_good_adapter_passes_and_runs(base: Path, tmp_path: Path) -> None:
    files = [
        adapter(),
        adapter().without("adapter.lora.alpha"),
        pair("adapter.lora.alpha", g.F32, 0.0),
    ]
    eights = adapter().with_tensor(A, kind=g.GGML_Q8_0, data=None)
    paths = []
    for number, file in enumerate([*files, eights]):
        paths.append(tmp_path / f"{number}.gguf")
        paths[-1].write_bytes(file.build())
        (found,) = prepare_adapters([(str(paths[-1]), 2.0)], base)
        assert (found.rank, found.scale, found.path) == (RANK, 2.0, paths[-1])
    assert load_natively(paths, base) == ["loaded"] * len(paths)


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(case: str, base: Path, tmp_path: Path) -> None:
    file, kind, words = CASES[case]
    path = tmp_path / "lora.gguf"
    path.write_bytes(file.build())
    with pytest.raises(kind) as caught:
        check(base)(path)
    text = f"{caught.value}\n{caught.value.hint or ''}"
    assert all(word in text for word in words), text
    assert str(path) in text
    assert "\n" not in str(caught.value)


def test_what_is_refused_would_crash(base: Path, tmp_path: Path) -> None:
    """The check is there for a reason."""
    paths = [tmp_path / f"{number}.gguf" for number in range(len(CRASHES))]
    for path, case in zip(paths, CRASHES, strict=True):
        path.write_bytes(CASES[case][0].build())
    verdicts = load_natively(paths, base)
    assert all(verdict.startswith("crashed") for verdict in verdicts), verdicts


WHOLE = adapter().build()
HEADER = len(adapter().header())


@given(st.lists(st.tuples(st.integers(0, HEADER - 1), VALUES), min_size=1, max_size=3))
@QUICK
def test_mutated_adapter(base: Path, tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "mutated.gguf"
    path.write_bytes(changed(WHOLE, changes))
    bounded(check(base), path)


def test_mutated_adapters_that_pass_do_not_crash(base: Path, tmp_path: Path) -> None:
    source = random.Random(1)
    passed = []
    for number in range(1500):
        path = tmp_path / f"{number}.gguf"
        changes = [
            (source.randrange(HEADER), bytes([source.randrange(256)]))
            for _ in range(source.randrange(1, 3))
        ]
        path.write_bytes(changed(WHOLE, changes))
        if bounded(check(base), path):
            passed.append(path)
    assert passed
    verdicts = load_natively(passed[:120], base)
    assert not [verdict for verdict in verdicts if verdict.startswith("crashed")]


@pytest.mark.parametrize("end", [0, 4, HEADER // 2, HEADER, len(WHOLE) - 33])
def test_an_adapter_cut_short(end: int, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(WHOLE[:end])
    with pytest.raises(errors.CorruptFileError):
        check(base)(path)
