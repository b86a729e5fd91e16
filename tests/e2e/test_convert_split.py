"""GGUF in parts: llama.cpp opens what is written, and what others write is read."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

import tiny
from edgellm.cli.main import run
from edgellm_converters import errors
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.checkpoints.gguf_split import part_path
from edgellm_converters.pipeline import convert
from edgellm_converters.writers import gguf_split
from edgellm_converters.writers.atomic import atomic_files
from edgellm_converters.writers.gguf import TensorSpec, file_bytes, gguf_file, pack
from edgellm_quant.formats import FORMATS
from llama_model import LlamaModel, opened

PROMPT = [1, 260, 270]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.llama(tmp_path / "hf")


def parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-of-*.gguf"))


@pytest.mark.parametrize("size", [46_000, 60_000, 150_000])
def test_parts_are_no_larger_than_asked_and_run(size: int, folder: Path, tmp_path: Path) -> None:
    whole = convert(folder, tmp_path / "whole.gguf", dtype="f16")
    result = convert(folder, tmp_path / "x.gguf", dtype="f16", split_size=size)
    files = [part.output for part in result.parts]
    assert files == parts_in(tmp_path)
    assert files == [part_path(tmp_path / "x.gguf", at, len(files)) for at in range(len(files))]
    assert len(files) > 1
    assert result.output == files[0]
    assert result.bytes == sum(part.bytes for part in result.parts)
    for part in result.parts:
        data = part.output.read_bytes()
        assert len(data) == part.bytes <= size
        assert hashlib.sha256(data).hexdigest() == part.sha256
    assert result.tensors == whole.tensors
    with opened(tmp_path / "whole.gguf") as one, opened(files[0]) as several:
        assert several.greedy(PROMPT, 8) == one.greedy(PROMPT, 8)


def test_llama_cpp_takes_the_parts_by_name(folder: Path, tmp_path: Path) -> None:
    result = convert(folder, tmp_path / "x.gguf", dtype="f16", split_size=60_000)
    files = [str(part.output).encode() for part in result.parts]
    LlamaModel(result.output, vocab_only=True).close()  # starts the backend
    paths = (ctypes.c_char_p * len(files))(*files)
    params = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_splits(paths, len(files), params)
    assert model
    # llama_model_n_params counts what was loaded, not what the header says
    assert llama_cpp.llama_model_n_params(model) == result.parameters
    llama_cpp.llama_model_free(model)


def test_the_digest_of_all_is_that_of_sha256sum(folder: Path, tmp_path: Path) -> None:
    result = convert(folder, tmp_path / "x.gguf", split_size=100_000)
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in parts_in(tmp_path)
    ]
    assert result.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_any_part_joins_again_to_the_same_file(folder: Path, tmp_path: Path) -> None:
    whole = convert(folder, tmp_path / "whole.gguf", dtype="f16")
    result = convert(tmp_path / "whole.gguf", tmp_path / "x.gguf", split_size=60_000)
    for at in (0, len(result.parts) - 1):
        joined = convert(result.parts[at].output, tmp_path / f"joined-{at}.gguf")
        assert joined.sha256 == whole.sha256
        assert joined.parts == ()
    again = convert(result.parts[1].output, tmp_path / "y.gguf", split_size=100_000)
    assert 1 < len(again.parts) < len(result.parts)
    back = convert(result.parts[1].output, tmp_path / "back")
    assert back.tensors == whole.tensors
    assert convert(tmp_path / "back", tmp_path / "z.gguf").types == whole.types


def test_a_model_that_fits_stays_one_file(folder: Path, tmp_path: Path) -> None:
    whole = convert(folder, tmp_path / "whole.gguf")
    result = convert(folder, tmp_path / "x.gguf", split_size=whole.bytes)
    assert (result.output, result.sha256) == (tmp_path / "x.gguf", whole.sha256)
    assert result.parts == ()
    assert len(convert(folder, tmp_path / "y.gguf", split_size=whole.bytes - 1).parts) == 2


def test_a_first_part_without_room_for_tensors(folder: Path, tmp_path: Path) -> None:
    """The vocabulary takes 9 kB and the largest tensor 90 kB: the first part is metadata alone."""
    whole = convert(folder, tmp_path / "whole.gguf")
    with GGUFCheckpoint(tmp_path / "whole.gguf") as checkpoint:
        largest = max(tensor.nbytes for tensor in checkpoint.header.tensors)
    result = convert(folder, tmp_path / "x.gguf", split_size=largest + 400)
    with GGUFCheckpoint(result.output) as checkpoint:
        assert checkpoint.header.tensors[0].path == result.parts[1].output
    with opened(tmp_path / "whole.gguf") as one, opened(result.output) as several:
        assert several.greedy(PROMPT, 4) == one.greedy(PROMPT, 4)
    assert whole.tensors == result.tensors


def test_parts_that_are_too_small(folder: Path, tmp_path: Path) -> None:
    for size, words in ((5_000, "the metadata take"), (30_000, "token_embd.weight alone takes")):
        with pytest.raises(errors.OutputError, match=words) as caught:
            convert(folder, tmp_path / "x.gguf", split_size=size)
        assert f"more than the {size} of a part" in str(caught.value)
    for target, size in (("x.gguf", 0), ("folder", 1000)):
        with pytest.raises(errors.ConvertersError, match="cannot be written"):
            convert(folder, tmp_path / target, split_size=size)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_more_parts_than_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_split, "MAX_PARTS", 2)
    with pytest.raises(errors.OutputError, match="more than 2"):
        convert(folder, tmp_path / "x.gguf", split_size=100_000)


def test_parts_written_by_the_gguf_package(tmp_path: Path) -> None:
    """An independent writer of the layout."""
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama", split_max_tensors=2)
    rng = np.random.default_rng(0)
    tensors = {f"t{at}": rng.standard_normal((3, 32)).astype(np.float32) for at in range(5)}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.add_uint32("x.number", 7)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = parts_in(tmp_path)
    assert len(files) == 3
    for file in files:
        with GGUFCheckpoint(file) as checkpoint:
            assert checkpoint.header.metadata["x.number"] == 7
            assert list(checkpoint.names) == list(tensors)
            for name, values in tensors.items():
                assert np.array_equal(checkpoint.load(name), values)


def test_sizes_are_those_of_files(tmp_path: Path) -> None:
    from edgellm_converters.checkpoints.gguf_values import StoredType, ValueType

    text, numbers = StoredType(ValueType.STRING), StoredType(ValueType.ARRAY, ValueType.INT16)
    entries = {
        "general.architecture": pack(text, "llama"),
        "x.کلید": pack(text, "سلام"),
        "x.numbers": pack(numbers, [1, 2, 3]),
    }
    tensors = [TensorSpec("a", (3, 5, 32), FORMATS["Q8_0"]), TensorSpec("b", (3,), FORMATS["F32"])]
    for alignment in (32, 64):
        path = tmp_path / f"{alignment}.gguf"
        with gguf_file(path, entries, tensors, alignment) as writer:
            for tensor in tensors:
                writer.begin()
                writer.write(np.zeros(tensor.nbytes, np.uint8))
            _, size = writer.finish()
        assert size == path.stat().st_size == file_bytes(entries, tensors, alignment)


# -- what is there already ------------------------------------------------------------------------


def test_existing_parts_stay_unless_forced(folder: Path, tmp_path: Path) -> None:
    result = convert(folder, tmp_path / "x.gguf", split_size=100_000)
    before = {part.output: part.sha256 for part in result.parts}
    result.parts[0].output.unlink()
    with pytest.raises(errors.OutputError, match=r"x-00002-of-.*exists already"):
        convert(folder, tmp_path / "x.gguf", split_size=100_000)
    assert not result.parts[0].output.exists()
    again = convert(folder, tmp_path / "x.gguf", split_size=100_000, force=True)
    assert {part.output: part.sha256 for part in again.parts} == before
    assert parts_in(tmp_path) == sorted(before)
    assert len(list(tmp_path.iterdir())) == 1 + len(before)


def test_no_part_is_written_over_its_source(folder: Path, tmp_path: Path) -> None:
    result = convert(folder, tmp_path / "x.gguf", split_size=100_000)
    before = [path.read_bytes() for path in parts_in(tmp_path)]
    with pytest.raises(errors.OutputError, match="this is the source"):
        convert(result.output, tmp_path / "x.gguf", split_size=100_000, force=True)
    with pytest.raises(errors.OutputError, match="this is the source"):
        convert(result.output, result.parts[1].output, dtype="f16", force=True)
    assert [path.read_bytes() for path in parts_in(tmp_path)] == before


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_what_was_there_comes_back_if_a_name_cannot_be_given(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [tmp_path / name for name in "abc"]
    for target in targets[:2]:
        target.write_text("old")
    replace = Path.replace
    at_first_part: list[bool] = []

    def fail(self: Path, to: Path) -> Path:
        if self.suffix == ".partial":
            at_first_part.append(targets[0].exists())
            if to == targets[fails]:
                raise OSError("no")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(errors.OutputError), atomic_files(targets, force=True):
        pass
    # While names are given, the first one is nobody's: no half of a model looks like a whole one.
    assert at_first_part
    assert not any(at_first_part)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}


# -- interruptions --------------------------------------------------------------------------------


def test_an_interrupted_split_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            assert len(list(tmp_path.glob(".*.partial"))) > 1  # it had begun
            assert parts_in(tmp_path) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "x.gguf", split_size=60_000, dtype="f16", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_leave_nothing_that_looks_finished(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, time\n"
        "from edgellm.cli.main import run\n"
        "from edgellm.cli.progress import ProgressBar\n"
        "ProgressBar.__call__ = lambda self, done, total: time.sleep(0.2)\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    target = str(tmp_path / "x.gguf")
    args = ["convert", str(folder), "-o", target, "--split-size", "100kB"]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *args], stderr=subprocess.PIPE, env=dict(os.environ)
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(number)
    child.communicate(timeout=30)
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert left == ["hf"]
    if number == signal.SIGKILL:  # nobody can clean up then
        assert child.returncode == -signal.SIGKILL
    else:
        assert child.returncode == 130
        assert list(tmp_path.glob(".*")) == []


# -- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_the_parts_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["convert", str(folder), "-o", str(tmp_path / "x.gguf"), "--split-size", "0.1MB"]
    assert run([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == str(parts_in(tmp_path)[0])
    assert [part["output"] for part in found["parts"]] == [str(p) for p in parts_in(tmp_path)]
    for part in found["parts"]:
        data = Path(part["output"]).read_bytes()
        assert part == {
            "output": part["output"],
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    assert run([*args, "--force"]) == 0
    out = capsys.readouterr().out
    assert f"{len(found['parts'])} parts" in out
    for part in found["parts"]:
        assert part["sha256"] in out
    quantized = ["quantize", found["output"], "--bits", "8", "-o", str(tmp_path / "q.gguf")]
    assert run([*quantized, "--split-size", "50000", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["parts"]) > 1


@pytest.mark.parametrize("size", ["0", "many", "-1", "2XB", "1e9", "0.2", ""])
def test_sizes_that_are_none(
    size: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["convert", str(folder), "-o", str(tmp_path / "x.gguf"), "--split-size", size]
    assert run(args) == 2
    assert "--split-size" in capsys.readouterr().err


def test_only_gguf_is_split(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(folder, tmp_path / "x.gguf")
    args = ["convert", str(tmp_path / "x.gguf"), "-o", str(tmp_path / "y"), "--split-size", "1GB"]
    assert run(args) == 2
    assert "only GGUF is split" in capsys.readouterr().err
