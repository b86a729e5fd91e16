"""Malformed GGUF containers: each gives one sentence, whatever the header says."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm_converters.checkpoints.gguf import GGUFCheckpoint, ValueType, read_header
from edgellm_converters.errors import CorruptFileError, SourceNotFoundError
from hostile import ggufbytes as g

HUGE = (1 << 64) - 1


def one_tensor(**changes: object) -> g.File:
    return g.small().with_tensor("a", **changes)


def raw(*parts: bytes) -> bytes:
    return b"".join(parts)


def preamble(n_tensors: int = 0, n_pairs: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs)


# name -> (a file or its bytes, what the sentence must say)
CASES: dict[str, tuple[g.File | bytes, str]] = {
    "empty file": (b"", "empty"),
    "one byte": (b"G", "beyond the 1 bytes"),
    "magic": (replace(g.small(), magic=b"GGML"), "not a GGUF file"),
    "short wrong magic": (b"PK", "not a GGUF file"),
    "version 0": (replace(g.small(), version=0), "GGUF version 0"),
    "version 1": (replace(g.small(), version=1), "GGUF version 1"),
    "version 4": (replace(g.small(), version=4), "GGUF version 4"),
    "big-endian": (replace(g.small(), version=0x03000000), "big-endian"),
    "2^64-1 tensors": (replace(g.small(), n_tensors=HUGE), "tensors, more than"),
    "2^64-1 pairs": (replace(g.small(), n_pairs=HUGE), "metadata pairs, more than"),
    "more tensors than bytes": (replace(g.small(), n_tensors=60_000), "than the file can hold"),
    "more pairs than bytes": (replace(g.small(), n_pairs=60_000), "than the file can hold"),
    "a pair too many": (replace(g.small(), n_pairs=len(g.small().pairs) + 1), "at byte"),
    "a tensor too many": (replace(g.small(), n_tensors=4), "at byte"),
    "empty key": (g.small().with_pair(g.pair("", g.U32, 1)), "is empty"),
    "key with NUL": (g.small().with_pair(g.pair("a\0b", g.U32, 1)), "NUL"),
    "key not UTF-8": (g.small().with_pair(g.pair(b"\xff", g.U32, 1)), "not UTF-8"),
    "long key": (g.small().with_pair(g.pair("k" * 65536, g.U32, 1)), "65536 bytes long"),
    "key twice": (
        replace(g.small(), pairs=[*g.small().pairs, g.pair("x.words", g.U32, 1)]),
        "'x.words' stands twice",
    ),
    "key of huge length": (raw(preamble(n_pairs=1), struct.pack("<Q", HUGE), b"k" * 90), "long"),
    "value type 13": (g.small().with_pair(g.Pair("k", 13, b"")), "unknown type 13"),
    "value type 2^32-1": (g.small().with_pair(g.Pair("k", 2**32 - 1, b"")), "unknown type"),
    "array element type": (g.small().with_pair(g.array("k", 13, [], 0)), "unknown type 13"),
    "array of arrays": (g.small().with_pair(g.array("k", g.ARRAY, [], 0)), "array of arrays"),
    "array of 2^64-1": (g.small().with_pair(g.array("k", g.U8, [], HUGE)), "elements, more"),
    "array longer than file": (g.small().with_pair(g.array("k", g.U64, [], 1 << 20)), "beyond"),
    "strings longer than file": (
        g.small().with_pair(g.array("k", g.STRING, [], 1 << 20)),
        "longer than the file",
    ),
    "string of huge length": (
        g.small().with_pair(g.Pair("k", g.STRING, struct.pack("<Q", HUGE))),
        "bytes long",
    ),
    "string in array of huge length": (
        g.small().with_pair(g.Pair("k", g.ARRAY, struct.pack("<IQQ", g.STRING, 1, HUGE))),
        "beyond",
    ),
    "first string of two of huge length": (
        g.small().with_pair(g.Pair("k", g.ARRAY, struct.pack("<IQQQ", g.STRING, 2, HUGE, 0))),
        "beyond",
    ),
    "string of 2^63 in array": (
        g.small().with_pair(g.Pair("k", g.ARRAY, struct.pack("<IQQQ", g.STRING, 2, 2**63, 0))),
        "beyond",
    ),
    "string not UTF-8": (g.small().with_pair(g.pair("k", g.STRING, b"\xc3")), "not UTF-8"),
    "array string not UTF-8": (
        g.small().with_pair(g.array("k", g.STRING, [b"a", b"\xc3", b"b"])),
        "not UTF-8",
    ),
    "character across a long string's length": (
        # The length 0xA9 would be the second byte of the character that C3 begins.
        g.small().with_pair(g.array("k", g.STRING, [b"\xc3", b"b" * 0xA9])),
        "not UTF-8",
    ),
    "long string not UTF-8": (
        g.small().with_pair(g.array("k", g.STRING, [b"a", b"b" * 300 + b"\xff"])),
        "not UTF-8",
    ),
    "boolean 2": (g.small().with_pair(g.pair("k", g.BOOL, 2)), "boolean"),
    "boolean in array": (g.small().with_pair(g.array("k", g.BOOL, [1, 255])), "boolean"),
    "alignment of type u64": (
        g.small().with_pair(g.pair("general.alignment", g.U64, 32)),
        "uint32",
    ),
    "alignment array": (g.small().with_pair(g.array("general.alignment", g.U32, [32])), "uint32"),
    "alignment 0": (g.small().with_pair(g.pair("general.alignment", g.U32, 0)), "power of two"),
    "alignment 24": (g.small().with_pair(g.pair("general.alignment", g.U32, 24)), "power of two"),
    "alignment 2^20": (g.small().with_pair(g.pair("general.alignment", g.U32, 1 << 20)), "beyond"),
    "alignment 2^31": (
        replace(g.small(), tensors=[]).with_pair(g.pair("general.alignment", g.U32, 1 << 31)),
        "more than 1048576",
    ),
    "tensor twice": (
        replace(g.small(), tensors=[*g.small().tensors, g.Tensor("a", (1,))]),
        "tensor 'a' stands twice",
    ),
    "tensor without name": (one_tensor(name=""), "is empty"),
    "tensor name of 64 bytes": (one_tensor(name="n" * 64), "64 bytes long"),
    "tensor name with NUL": (one_tensor(name="a\0"), "NUL"),
    "no dimensions": (one_tensor(dims=(), n_dims=0, data=b"1234", kind=g.GGML_F32), "0 dimensions"),
    "5 dimensions": (one_tensor(dims=(32, 1, 1, 1, 1)), "5 dimensions"),
    "2^32-1 dimensions": (one_tensor(n_dims=2**32 - 1), "dimensions"),
    "dimension 0": (one_tensor(dims=(32, 0), data=b""), "impossible shape"),
    "dimension 2^42+1": (one_tensor(dims=((1 << 42) + 1,), data=b"", kind=0), "beyond"),
    "dimension 2^63": (one_tensor(dims=(1 << 63,), data=b"", kind=0), "impossible shape"),
    "product 2^64": (one_tensor(dims=(1 << 32, 1 << 32), data=b"", kind=0), "impossible shape"),
    "product 2^128": (one_tensor(dims=(1 << 62, 1 << 62, 16), data=b"", kind=0), "impossible"),
    "tensor type 4, removed": (one_tensor(kind=4, data=b""), "unknown type 4"),
    "tensor type 1000": (one_tensor(kind=1000, data=b""), "unknown type 1000"),
    "row no multiple of block": (one_tensor(dims=(33, 2)), "no multiple"),
    "offset beyond file": (one_tensor(offset=1 << 40), "beyond"),
    "offset 2^64-32": (one_tensor(offset=(1 << 64) - 32), "beyond"),
    "offset unaligned": (g.small().with_tensor("b", offset=100), "no multiple of the alignment"),
    "overlap": (g.small().with_tensor("b", offset=32), "overlaps"),
    "same place": (g.small().with_tensor("b", offset=0), "overlaps"),
    "hole": (one_tensor(offset=32), "not at 0"),
}


@pytest.mark.parametrize("case", CASES)
def test_malformed_container_gives_one_sentence(case: str, tmp_path: Path) -> None:
    file, words = CASES[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.build())
    with pytest.raises(CorruptFileError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert words in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_well_formed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(g.small().build())
    header = read_header(path)
    assert (header.version, header.alignment) == (3, 32)
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["x.numbers"] == [1, -2, 3]
    assert header.metadata["x.flags"] == [False, True]
    assert header.metadata["x.words"] == ["", "a", "سلام", "long " * 40]
    assert header.metadata.first("x.words", 3) == ["", "a", "سلام"]
    assert header.metadata.first("x.flags", 1) == [False]
    assert header.metadata.first("x.numbers", 9) == [1, -2, 3]
    assert header.metadata.first("general.architecture", 1) == "llama"
    assert header.metadata.stored("x.words").length == 4
    assert header.metadata.byte_strings("x.words")[2:] == ["سلام".encode(), b"long " * 40]
    assert header.metadata[f"x.of_type_{g.F64}"] == 1.0
    assert header.metadata[f"x.of_type_{g.BOOL}"] is True
    assert header.value_types["x.words"] == (ValueType.ARRAY, ValueType.STRING)
    assert header.value_types["llama.block_count"] == (ValueType.UINT32, None)
    assert [(t.name, t.shape, t.format.name) for t in header.tensors] == [
        ("a", (2, 32), "Q8_0"),
        ("b", (5,), "F32"),
        ("c", (2, 1, 3), "F16"),
    ]
    with GGUFCheckpoint(path) as checkpoint:
        assert checkpoint.raw("a").tobytes() == bytes(range(68))
        assert checkpoint.raw_rows("a", 1, 2).tobytes() == bytes(range(34, 68))
        assert checkpoint.load("b").tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert checkpoint.load("c").tolist() == [[[0.0, 1.0, 2.0]], [[3.0, 4.0, 5.0]]]
        assert checkpoint.load_rows("c", 1, 2).tolist() == [[3.0, 4.0, 5.0]]


def test_version_2_and_wide_alignment_are_read(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    file = replace(g.small(), version=2, alignment=256)
    path.write_bytes(file.with_pair(g.pair("general.alignment", g.U32, 256)).build())
    header = read_header(path)
    assert (header.version, header.alignment) == (2, 256)
    assert all(tensor.offset % 256 == 0 for tensor in header.tensors)


def test_header_across_slabs_is_read(tmp_path: Path) -> None:
    """The buffer grows in the middle of an array of strings, and of a string."""
    words = ["x" * (index % 300) for index in range(30_000)]
    path = tmp_path / "good.gguf"
    file = g.small().with_pair(g.array("many", g.STRING, words))
    file = file.with_pair(g.pair("one", g.STRING, "é" * 1_500_000))
    path.write_bytes(file.build())
    header = read_header(path)
    assert header.metadata["many"] == words
    assert header.metadata["one"] == "é" * 1_500_000


@pytest.mark.parametrize("cut", [None, "pair", "tensor"])
def test_truncation_at_every_byte_of_the_header(cut: str | None, tmp_path: Path) -> None:
    file = {
        None: g.small(),
        "pair": replace(g.small(), tensors=[]),
        "tensor": replace(g.small(), pairs=[]),
    }[cut]
    whole = file.build()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole)
    read_header(path)
    for length in range(len(file.header()) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(CorruptFileError):
            read_header(path)


def test_truncation_at_every_byte_of_the_data(tmp_path: Path) -> None:
    file = g.small()
    path = tmp_path / "cut.gguf"
    path.write_bytes(file.build())
    for length in range(len(file.build()), len(file.header()) - 1, -1):
        os.truncate(path, length)
        if length >= file.last_data_byte():
            # Only padding is lost: every byte of data is there.
            with GGUFCheckpoint(path) as checkpoint:
                assert checkpoint.load("c").ravel().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        else:
            with pytest.raises(CorruptFileError):
                read_header(path)


def test_file_cut_while_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(g.small().build())
    with GGUFCheckpoint(path) as checkpoint:
        os.truncate(path, checkpoint.info("b").offset + 7)
        checkpoint.raw("a")
        with pytest.raises(CorruptFileError, match="became shorter"):
            checkpoint.raw("b")


def folder(tmp_path: Path) -> Path:
    return tmp_path


def missing(tmp_path: Path) -> Path:
    return tmp_path / "no.gguf"


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file" / "no.gguf"


def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("make", [folder, missing, below_a_file, pipe])
def test_no_regular_file(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        read_header(make(tmp_path))


def test_rows_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(g.small().build())
    with GGUFCheckpoint(path) as checkpoint:
        for start, stop in ((-1, 1), (0, 3), (2, 1)):
            with pytest.raises(IndexError):
                checkpoint.raw_rows("a", start, stop)
        with pytest.raises(KeyError):
            checkpoint.raw("z")
