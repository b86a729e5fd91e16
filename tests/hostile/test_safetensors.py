"""Malformed safetensors files, indexes and folders."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint
from edgellm_converters.errors import (
    ConvertersError,
    CorruptFileError,
    SourceNotFoundError,
    UnsupportedError,
)

INDEX = "model.safetensors.index.json"
GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
    "c": {"dtype": "F16", "shape": [], "data_offsets": [28, 30]},
}
DATA = (
    np.arange(6, dtype="<f4").tobytes()
    + struct.pack("<HH", 0x3F80, 0xC040)  # 1.0 and -3.0
    + np.float16(0.5).tobytes()
)


def build(header: object, data: bytes = DATA, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def with_a(**changes: object) -> bytes:
    return build(GOOD | {"a": GOOD["a"] | changes})


CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too few"),
    "only a length": (struct.pack("<Q", 0), "too few"),
    "length beyond the file": (build(GOOD, length=1 << 20), "beyond"),
    "length 2^64-1": (build(GOOD, length=(1 << 64) - 1), "beyond"),
    "length too small": (build(GOOD, length=20), "JSON"),
    "no JSON": (build(b"{" + b"x" * 40), "JSON"),
    "not UTF-8": (build(b'{"\xff": 1}  '), "JSON"),
    "a list": (build([1, 2, 3]), "not a JSON object"),
    "space before the object": (build(b"  " + json.dumps(GOOD).encode()), "not a JSON object"),
    "deep lists": (build(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "JSON"),
    "many lists": (build(b'{"a":[' + b"[]," * 300_000 + b"[]]}"), "more than"),
    "NaN": (build(b'{"a": NaN, "bbbb": 1}'), "JSON"),
    "a number of 10,000 digits": (build(b'{"a": ' + b"9" * 10_000 + b"}"), "JSON"),
    "tensor twice": (
        build(b'{"a": 1, "b": 2, "a": 3}'),
        "names 'a' twice",
    ),
    "dtype twice": (
        build(b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [], "data_offsets": [0, 4]}}'),
        "names 'dtype' twice",
    ),
    "metadata a list": (build(GOOD | {"__metadata__": [1]}), "__metadata__"),
    "metadata of numbers": (build(GOOD | {"__metadata__": {"a": 1}}), "__metadata__"),
    "entry a number": (build({"a": 1, "b": 2}), "needs exactly"),
    "entry without shape": (build({"a": {"dtype": "F32", "data_offsets": [0, 4]}}), "needs"),
    "entry with more": (with_a(extra=1), "needs exactly"),
    "empty name": (build({"": GOOD["a"]}), "empty"),
    "long name": (build({"n" * 1025: GOOD["a"]}), "too long"),
    "name with NUL": (build({"a\0": GOOD["a"]}), "NUL"),
    "name of half a character": (build({"\ud800": GOOD["a"]}), "no text"),
    "unknown dtype": (with_a(dtype="F33"), "unknown type 'F33'"),
    "dtype a number": (with_a(dtype=1), "unknown type"),
    "shape a number": (with_a(shape=6), "impossible shape"),
    "shape negative": (with_a(shape=[-2, -3]), "impossible shape"),
    "shape of floats": (with_a(shape=[2.0, 3.0]), "impossible shape"),
    "shape of booleans": (with_a(shape=[True, 6]), "impossible shape"),
    "shape 2^64": (with_a(shape=[1 << 64, 0]), "impossible shape"),
    "shape of a product beyond 2^64": (with_a(shape=[1 << 32, 1 << 32, 1 << 32]), "needs"),
    "17 dimensions": (with_a(shape=[1] * 15 + [2, 3]), "impossible shape"),
    "offsets of three": (with_a(data_offsets=[0, 24, 24]), "impossible data_offsets"),
    "offsets turned": (with_a(data_offsets=[24, 0]), "impossible data_offsets"),
    "offsets negative": (with_a(data_offsets=[-24, 0]), "impossible data_offsets"),
    "offsets too wide": (with_a(data_offsets=[0, 28]), "needs 24 bytes"),
    "hole before the first": (with_a(data_offsets=[4, 28]), "leaves a hole"),
    "overlap": (build(GOOD | {"b": GOOD["b"] | {"data_offsets": [20, 24]}}), "overlaps"),
    "hole": (build({"a": GOOD["a"], "c": GOOD["c"]}), "leaves a hole"),
    "same place": (build(GOOD | {"d": GOOD["b"]}), "overlaps"),
    "data too long": (build(GOOD, DATA + b"\0"), "but the file has"),
    "data too short": (build(GOOD, DATA[:-1]), "but the file has"),
    "GGUF": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "beyond"),
}


@pytest.mark.parametrize("case", CASES)
def test_malformed_file_gives_one_sentence(case: str, tmp_path: Path) -> None:
    content, words = CASES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError) as caught:
        SafetensorsCheckpoint.open(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert words in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_mlx_writes_null_for_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(build(GOOD | {"__metadata__": None}))
    assert SafetensorsCheckpoint.open(tmp_path).metadata == {}


def test_well_formed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(build(GOOD | {"__metadata__": {"format": "pt"}}))
    for checkpoint in (SafetensorsCheckpoint.open(path), SafetensorsCheckpoint.open(tmp_path)):
        assert list(checkpoint.tensors) == ["a", "b", "c"]
        assert checkpoint.metadata == {"format": "pt"}
        assert checkpoint.tensors["a"].shape == (2, 3)
        assert checkpoint.load("a").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert checkpoint.load_rows("a", 1, 2).tolist() == [[3, 4, 5]]
        assert checkpoint.load("b").tolist() == [1.0, -3.0]
        assert checkpoint.raw("b").dtype == np.uint16
        assert checkpoint.load("c").shape == ()
        assert checkpoint.load("c") == 0.5
        assert all(checkpoint.load(name).dtype == np.float32 for name in "abc")
        with pytest.raises(IndexError):
            checkpoint.load_rows("a", 1, 3)


def test_every_number_type(tmp_path: Path) -> None:
    kinds = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
    kinds |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}
    for kind, dtype in kinds.items():
        values = np.array([1, 0, 1], dtype=dtype)
        entry = {"dtype": kind, "shape": [3], "data_offsets": [0, values.nbytes]}
        path = tmp_path / f"{kind}.safetensors"
        path.write_bytes(build({"x": entry}, values.tobytes()))
        assert SafetensorsCheckpoint.open(path).load("x").tolist() == [1.0, 0.0, 1.0]
    entry = {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]}
    path.write_bytes(build({"x": entry}, b"\1\2\3"))
    checkpoint = SafetensorsCheckpoint.open(path)
    assert checkpoint.raw("x").tolist() == [1, 2, 3]
    with pytest.raises(UnsupportedError, match="F8_E4M3"):
        checkpoint.load("x")
    path.write_bytes(build({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\1"))
    with pytest.raises(UnsupportedError, match="F4"):
        SafetensorsCheckpoint.open(path)


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = build(GOOD)
    path.write_bytes(whole)
    for length in range(len(whole) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(CorruptFileError):
            SafetensorsCheckpoint.open(path)


def test_file_cut_while_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(build(GOOD))
    checkpoint = SafetensorsCheckpoint.open(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(CorruptFileError, match="became shorter"):
        checkpoint.load("b")


@given(st.lists(st.tuples(st.integers(0, len(build(GOOD)) - 31), st.integers(0, 255)), max_size=4))
@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_mutated_header(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    file = bytearray(build(GOOD))
    for position, value in changes:
        file[position] = value
    path = tmp_path / "model.safetensors"
    path.write_bytes(file)
    try:
        checkpoint = SafetensorsCheckpoint.open(path)
    except ConvertersError:
        return
    for name, tensor in checkpoint.tensors.items():
        assert checkpoint.raw(name).shape == tensor.shape


def shards(folder: Path) -> dict[str, str]:
    """Two shards and their index; gives the weight map."""
    one = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
    (folder / "one.safetensors").write_bytes(build({"x": one}, b"\1\2"))
    (folder / "two.safetensors").write_bytes(build({"y": one}, b"\3\4"))
    weight_map = {"x": "one.safetensors", "y": "two.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def test_shards_are_read(tmp_path: Path) -> None:
    shards(tmp_path)
    checkpoint = SafetensorsCheckpoint.open(tmp_path)
    assert {name: checkpoint.load(name).tolist() for name in checkpoint.tensors} == {
        "x": [1, 2],
        "y": [3, 4],
    }


BAD_INDEXES: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "JSON"),
    "a list": ("[]", "not a JSON object"),
    "no map": ('{"metadata": {}}', "weight_map"),
    "empty map": ('{"weight_map": {}}', "weight_map"),
    "map of numbers": ('{"weight_map": {"x": 1}}', "not a file beside it"),
    "above the folder": ('{"weight_map": {"x": "../one.safetensors"}}', "not a file beside it"),
    "absolute": ('{"weight_map": {"x": "/etc/passwd"}}', "not a file beside it"),
    "in a subfolder": ('{"weight_map": {"x": "a/one.safetensors"}}', "not a file beside it"),
    "backslash": ('{"weight_map": {"x": "..\\\\one.safetensors"}}', "not a file beside it"),
    "a drive": ('{"weight_map": {"x": "C:one.safetensors"}}', "not a file beside it"),
    "two dots": ('{"weight_map": {"x": ".."}}', "not a file beside it"),
    "pickle": ('{"weight_map": {"x": "pytorch_model.bin"}}', "not safetensors"),
    "the same twice": ('{"weight_map": {"x": "a", "x": "b"}}', "twice"),
}


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_malformed_index(case: str, tmp_path: Path) -> None:
    text, words = BAD_INDEXES[case]
    shards(tmp_path)
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CorruptFileError) as caught:
        SafetensorsCheckpoint.open(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"z": "one.safetensors"}, "no tensor 'z'"),
        ({"y": "one.safetensors"}, "no tensor 'y'"),
        ({"x": "two.safetensors"}, "no tensor 'x'"),
        ({"y": None}, None),
        ({"x": "two.safetensors", "y": "one.safetensors"}, "does not place tensor"),
    ],
)
def test_index_and_shards_disagree(
    changes: dict[str, str | None], words: str | None, tmp_path: Path
) -> None:
    weight_map = shards(tmp_path) | changes
    weight_map = {name: file for name, file in weight_map.items() if file}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    if words is None:
        # A shard that the index does not name is not opened.
        assert list(SafetensorsCheckpoint.open(tmp_path).tensors) == ["x"]
        return
    with pytest.raises(CorruptFileError, match=words):
        SafetensorsCheckpoint.open(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(SourceNotFoundError, match=r"two\.safetensors"):
        SafetensorsCheckpoint.open(tmp_path)


def test_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shards(folder)
    (folder / "two.safetensors").rename(tmp_path / "two.safetensors")
    (folder / "two.safetensors").symlink_to(tmp_path / "two.safetensors")
    with pytest.raises(CorruptFileError, match="symbolic link"):
        SafetensorsCheckpoint.open(folder)


def test_links_of_the_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    blobs.mkdir()
    folder.mkdir(parents=True)
    (blobs / "1234").write_bytes(build(GOOD))
    (folder / "model.safetensors").symlink_to("../../blobs/1234")
    assert list(SafetensorsCheckpoint.open(folder).tensors) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt"])
def test_pickle_is_never_loaded(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UnsupportedError, match="never loaded") as caught:
            SafetensorsCheckpoint.open(path)
        assert caught.value.hint


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"model\.safetensors"):
        SafetensorsCheckpoint.open(tmp_path)
    with pytest.raises(SourceNotFoundError):
        SafetensorsCheckpoint.open(tmp_path / "no.safetensors")
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(build(GOOD))
    with pytest.raises(SourceNotFoundError, match=r"index\.json"):
        SafetensorsCheckpoint.open(tmp_path)
