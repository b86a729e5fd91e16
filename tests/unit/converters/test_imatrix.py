"""imatrix files: bytes laid out by hand, whatever is broken, and llama.cpp's own tools."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from edgellm_converters.errors import (
    ConvertersError,
    CorruptFileError,
    OutputError,
    SourceNotFoundError,
    UnsupportedError,
)
from edgellm_converters.imatrix import Entry, Imatrix, imatrix_of, read_imatrix, write_imatrix
from edgellm_converters.pipeline import convert
from edgellm_quant.statistics import RowStatistics, TensorStatistics
from hostile import ggufbytes as g

TOOLS = "LLAMA_CPP_TOOLS"  # the folder of llama-imatrix and llama-quantize


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def gguf_bytes(*tensors: g.Tensor, **metadata: g.Pair) -> bytes:
    pairs = {
        "kind": g.pair("general.type", g.STRING, "imatrix"),
        "datasets": g.array("imatrix.datasets", g.STRING, ["a.txt", "متن.txt"]),
        "count": g.pair("imatrix.chunk_count", g.U32, 3),
        "size": g.pair("imatrix.chunk_size", g.U32, 512),
    } | metadata
    return g.File(pairs=list(pairs.values()), tensors=list(tensors)).build()


def sums(name: str = "w", rows: int = 2, data: bytes | None = None, kind: int = 0) -> g.Tensor:
    data = floats(2, 4, 9, 18)[: 8 * rows] if data is None else data
    return g.Tensor(f"{name}.in_sum2", (2, rows), kind, data)


def counts(name: str = "w", rows: int = 2, data: bytes | None = None, kind: int = 0) -> g.Tensor:
    data = floats(2, 9)[: 4 * rows] if data is None else data
    return g.Tensor(f"{name}.counts", (1, rows), kind, data)


def legacy_bytes(name: bytes = b"w", calls: int = 4, values: bytes = floats(4, 8)) -> bytes:
    head = struct.pack("<ii", 1, len(name)) + name
    return head + struct.pack("<ii", calls, len(values) // 4) + values


def test_the_gguf_form_is_read_as_laid_out(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(sums(), counts()))
    found = read_imatrix(path)
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("a.txt", "متن.txt"), 3, 512)
    assert found.entries["w"].values.tolist() == [[1, 2], [1, 2]]
    assert found.entries["w"].values.dtype == np.float32
    assert found.entries["w"].counts.tolist() == [2, 9]


def test_an_expert_that_nothing_came_to_has_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(sums(data=floats(0, 0, 9, 18)), counts(data=floats(0, 9))))
    assert read_imatrix(path).entries["w"].values.tolist() == [[1, 1], [1, 2]]


@pytest.mark.parametrize("end", [b"", struct.pack("<ii", 7, 0), struct.pack("<ii", 7, 1) + b"t"])
def test_the_older_form_is_read_as_laid_out(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(legacy_bytes() + end)
    found = read_imatrix(path)
    assert found.entries["w"].values.tolist() == [[1, 2]]
    assert found.entries["w"].counts.tolist() == [4]
    assert found.chunk_count == (7 if end else 0)
    assert found.datasets == (("t",) if end.endswith(b"t") else ())


def test_the_older_form_without_calls_holds_the_means(tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(legacy_bytes(calls=0))
    assert read_imatrix(path).entries["w"].values.tolist() == [[4, 8]]


NAN = floats(float("nan"), 1)
HOSTILE = {
    "empty": (b"", "ends within"),
    "no entries": (struct.pack("<i", 0), "0 entries"),
    "negative entries": (struct.pack("<i", -5), "-5 entries"),
    "2^31 entries": (struct.pack("<i", 2**31 - 1), "2147483647 entries"),
    "entries that are not there": (struct.pack("<i", 9) + legacy_bytes()[4:], "ends within"),
    "name of 2^31": (struct.pack("<ii", 1, 2**31 - 1), "bytes of a name"),
    "name of no bytes": (struct.pack("<ii", 1, 0) + bytes(8), "0 bytes of a name"),
    "name of -1 bytes": (struct.pack("<ii", 1, -1) + bytes(8), "-1 bytes of a name"),
    "name cut short": (struct.pack("<ii", 1, 20) + b"abc", "ends within a name"),
    "name with NUL": (legacy_bytes(b"a\0b"), "NUL"),
    "name not UTF-8": (legacy_bytes(b"\xff"), "not UTF-8"),
    "name twice": (
        struct.pack("<i", 2) + 2 * legacy_bytes()[4:],
        "stands twice",
    ),
    "calls below zero": (legacy_bytes(calls=-1), "-1 chunks"),
    "no values": (legacy_bytes(values=b""), "0 values"),
    "values beyond the file": (
        legacy_bytes()[: -8 - 4] + struct.pack("<i", 2**31 - 1) + bytes(8),
        "2147483647 values",
    ),
    "values below zero": (
        legacy_bytes()[: -8 - 4] + struct.pack("<i", -2) + bytes(8),
        "-2 values",
    ),
    "NaN": (legacy_bytes(values=NAN), "not finite"),
    "infinity": (legacy_bytes(values=floats(float("inf"), 1)), "not finite"),
    "negative square": (legacy_bytes(values=floats(-1, 1)), "negative"),
    "chunks below zero": (legacy_bytes() + struct.pack("<ii", -1, 0), "-1 chunks"),
    "data set beyond the file": (legacy_bytes() + struct.pack("<ii", 1, 99), "ends within"),
    "data set of 2^31": (legacy_bytes() + struct.pack("<ii", 1, 2**31 - 1), "data set's name"),
    "bytes after the end": (legacy_bytes() + struct.pack("<ii", 1, 0) + b"x", "follow the end"),
    "sums without counts": (gguf_bytes(sums(), counts("v"), sums("u"), counts("u")), "no w.counts"),
    "counts without sums": (gguf_bytes(sums(), counts(), counts("v")), "without the other"),
    "something else": (gguf_bytes(sums(), counts(), g.Tensor("x", (2, 1))), "counts: x"),
    "sums as float16": (gguf_bytes(sums(kind=1, data=bytes(8)), counts()), "not float32"),
    "counts as float16": (gguf_bytes(sums(), counts(kind=1, data=bytes(4))), "not float32"),
    "counts that do not divide": (
        gguf_bytes(sums(), counts(rows=3, data=floats(1, 1, 1))),
        "3 counts for 2 rows",
    ),
    "count below zero": (gguf_bytes(sums(), counts(data=floats(-1, 9))), "no number of vectors"),
    "count NaN": (gguf_bytes(sums(), counts(data=NAN)), "no number of vectors"),
    "count of 1e30": (gguf_bytes(sums(), counts(data=floats(1e30, 9))), "no number of vectors"),
    "sum below zero": (gguf_bytes(sums(data=floats(-1, 1, 1, 1)), counts()), "negative"),
    "sum NaN": (gguf_bytes(sums(data=2 * NAN), counts()), "not finite"),
    "data sets no list": (
        gguf_bytes(sums(), counts(), datasets=g.pair("imatrix.datasets", g.STRING, "a")),
        "no list of texts",
    ),
    "data sets numbers": (
        gguf_bytes(sums(), counts(), datasets=g.array("imatrix.datasets", g.U32, [1])),
        "no list of texts",
    ),
    "chunk count a text": (
        gguf_bytes(sums(), counts(), count=g.pair("imatrix.chunk_count", g.STRING, "3")),
        "not a number",
    ),
    "chunk size below zero": (
        gguf_bytes(sums(), counts(), size=g.pair("imatrix.chunk_size", g.I32, -3)),
        "not a number",
    ),
    "chunk count a truth": (
        gguf_bytes(sums(), counts(), count=g.pair("imatrix.chunk_count", g.BOOL, 1)),
        "not a number",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_broken_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    data, says = HOSTILE[name]
    path = tmp_path / "bad.imatrix"
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"bad\.imatrix") as caught:
        read_imatrix(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_is_no_imatrix(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(g.small().build())
    with pytest.raises(UnsupportedError, match="no imatrix"):
        read_imatrix(tmp_path / "x.gguf")
    with pytest.raises(SourceNotFoundError):
        read_imatrix(tmp_path / "none")


@given(st.sampled_from(["gguf", "dat"]), st.integers(0, 400), st.binary(min_size=1, max_size=8))
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_changed_bytes_are_read_or_refused(
    tmp_path: Path, form: str, at: int, change: bytes
) -> None:
    whole = gguf_bytes(sums(), counts()) if form == "gguf" else legacy_bytes() + bytes(8)
    at %= len(whole)
    path = tmp_path / "x"
    for data in (whole[:at] + change + whole[at + len(change) :], whole[:at]):
        path.write_bytes(data)
        try:
            found = read_imatrix(path)
        except ConvertersError:
            continue
        for entry in found.entries.values():
            assert np.isfinite(entry.values).all()
            assert entry.values.min() >= 0
            assert len(entry.counts) == len(entry.values)


NAMES = st.text("abc._سل", min_size=1, max_size=12)
SQUARES = st.floats(0, 2**30, width=32)


@st.composite
def imatrices(draw: st.DrawFn) -> Imatrix:
    entries = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        matrices, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        size = matrices * columns
        values = np.array(
            draw(st.lists(SQUARES, min_size=size, max_size=size)), np.float32
        ).reshape(matrices, columns)
        tokens = draw(st.lists(st.integers(1, 2**20), min_size=matrices, max_size=matrices))
        entries[name] = Entry(values, np.array(tokens, np.int64))
    texts = draw(st.lists(st.text("ab/ل", min_size=1, max_size=9), min_size=1, max_size=2))
    return Imatrix(entries, tuple(texts), draw(st.integers(0, 9)), draw(st.integers(1, 512)))


@given(imatrices(), st.booleans())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_is_written_is_read(tmp_path: Path, imatrix: Imatrix, legacy: bool) -> None:
    path = tmp_path / "x"
    write_imatrix(path, imatrix, legacy=legacy, force=True)
    found = read_imatrix(path)
    assert found.entries.keys() == imatrix.entries.keys()
    assert found.chunk_count == imatrix.chunk_count
    for name, entry in imatrix.entries.items():
        again = found.entries[name].of_shape(*entry.values.shape)
        np.testing.assert_allclose(again, entry.values, rtol=3e-7, atol=1e-37)
        if not legacy:
            assert found.entries[name].counts.tolist() == entry.counts.tolist()
    if not legacy:
        assert (found.datasets, found.chunk_size) == (imatrix.datasets, imatrix.chunk_size)


def test_shapes_that_do_not_fit_give_nothing() -> None:
    entry = Entry(np.ones((1, 6), np.float32), np.array([1]))
    assert entry.of_shape(2, 3) is not None
    assert entry.of_shape(2, 6) is not None
    assert entry.of_shape(1, 6) is not None
    assert entry.of_shape(1, 5) is None
    assert entry.of_shape(4, 3) is None


def test_nothing_is_overwritten_unasked_and_names_are_bounded(tmp_path: Path) -> None:
    one = Imatrix({"w": Entry(np.ones((1, 2), np.float32), np.array([1]))})
    write_imatrix(tmp_path / "x", one)
    with pytest.raises(OutputError, match="exists already"):
        write_imatrix(tmp_path / "x", one)
    with pytest.raises(UnsupportedError, match="without entries"):
        write_imatrix(tmp_path / "y", Imatrix({}))
    with pytest.raises(UnsupportedError, match="too long"):
        write_imatrix(tmp_path / "y", Imatrix({"w" * 60: one.entries["w"]}))
    assert not (tmp_path / "y").exists()


def test_statistics_become_a_row_for_each_matrix() -> None:
    def group(start: int, stop: int, value: float, tokens: int) -> RowStatistics:
        return RowStatistics(start, stop, tokens, np.full(2, value, np.float32))

    stack = TensorStatistics(2, (group(0, 4, 1.0, 10), group(4, 8, 3.0, 20)))
    found = imatrix_of({"experts": stack, "values": stack}, {"experts": 2}, chunk_size=8)
    assert found.entries["experts"].values.tolist() == [[1, 1], [3, 3]]
    assert found.entries["experts"].counts.tolist() == [10, 20]
    assert found.entries["values"].values.tolist() == [[2, 2]]
    assert found.entries["values"].counts.tolist() == [20]


@pytest.fixture(scope="module")
def tools() -> Path:
    folder = os.environ.get(TOOLS)
    if not folder:
        pytest.skip(f"{TOOLS} names no folder with llama-imatrix and llama-quantize")
    return Path(folder)


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["llama", "mixtral", "phi3"])
@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_llama_imatrix_gathers_the_same(name: str, form: str, tools: Path, tmp_path: Path) -> None:
    from edgellm.quantization.statistics import collect
    from llama_model import opened

    convert(tiny.MODELS[name](tmp_path / "hf"), tmp_path / "x.gguf", dtype="f32")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog said hello to all of them " * 20)
    run(
        tools / "llama-imatrix",
        "-m",
        tmp_path / "x.gguf",
        "-f",
        text,
        "-o",
        tmp_path / "im",
        "-c",
        64,
        "-b",
        64,
        "-t",
        1,
        "--no-ppl",
        "--process-output",
        "--output-format",
        form,
        "-fa",
        "off",
        "-ctk",
        "f32",
        "-ctv",
        "f32",
    )
    theirs = read_imatrix(tmp_path / "im")
    with opened(tmp_path / "x.gguf", vocab_only=True) as model:
        tokens = model.tokenize(text.read_text(), special=True, parse=False)
    chunks = [tokens[at : at + 64] for at in range(0, len(tokens) - 63, 64)]
    if tokens[0] == 1:
        chunks = [[1, *chunk[1:]] for chunk in chunks]
    wanted = dict.fromkeys(theirs.entries, "importance")
    (ours,) = collect(tmp_path / "x.gguf", chunks, wanted, memory=0, threads=1)
    assert ours.statistics.keys() == theirs.entries.keys()
    for name, entry in theirs.entries.items():
        groups = ours.statistics[name].groups
        values = entry.of_shape(len(groups), ours.statistics[name].columns)
        for group, other, count in zip(
            groups, values, np.broadcast_to(entry.counts, len(groups)), strict=True
        ):
            if form == "gguf":
                assert count == group.tokens
            if group.tokens >= ours.statistics[name].columns:
                np.testing.assert_allclose(group.importance, other, rtol=1e-4)


@pytest.mark.parametrize("legacy", [False, True])
def test_llama_quantize_takes_what_is_written(legacy: bool, tools: Path, tmp_path: Path) -> None:
    """Q4_0 with an importance that is not flat differs from Q4_0 without."""
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x.gguf", dtype="f32")
    rng = np.random.default_rng(1)
    names = [f"blk.{layer}.ffn_down.weight" for layer in range(2)]
    entries = {
        name: Entry(rng.exponential(1, (1, 96)).astype(np.float32) ** 3, np.array([64]))
        for name in names
    }
    imatrix = Imatrix(entries, ("a text",), 1, 64)
    write_imatrix(tmp_path / "im", imatrix, legacy=legacy)
    source, tool = tmp_path / "x.gguf", tools / "llama-quantize"
    said = run(tool, "--imatrix", tmp_path / "im", source, tmp_path / "a.gguf", "Q4_0", 1)
    assert "2 importance matrix entries" in said
    run(tool, source, tmp_path / "b.gguf", "Q4_0", 1)
    import gguf

    from edgellm_quant.formats import get_format
    from edgellm_quant.ggml import quantize_rows

    one, other, floating = (
        {each.name: each for each in gguf.GGUFReader(tmp_path / file).tensors}
        for file in ("a.gguf", "b.gguf", "x.gguf")
    )
    for name in names:
        assert one[name].data.tobytes() != other[name].data.tobytes()
        rows = np.array(floating[name].data, np.float32)
        wanted = quantize_rows(
            rows, get_format(one[name].tensor_type.name), entries[name].values[0]
        )
        assert wanted.tobytes() == one[name].data.tobytes()
