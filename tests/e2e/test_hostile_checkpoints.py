"""Broken and hostile checkpoints through the command: the exit code and one sentence for each."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm.cli.main import run
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"


def sharded(folder: Path) -> Path:
    """A Llama in two shards and an index."""
    tiny.llama(folder)
    tensors = tiny.read_safetensors(folder)
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    half = len(names) // 2
    places = {}
    for file, share in ((ONE, names[:half]), (TWO, names[half:])):
        tiny.write_safetensors(folder / file, {name: tensors[name] for name in share})
        places |= dict.fromkeys(share, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def cut(folder: Path) -> None:
    file = folder / TWO
    os.truncate(file, file.stat().st_size - 1)


def rewrite(change: Callable[[tiny.Tensors], object]) -> Callable[[Path], None]:
    """Change the tensors of the second shard."""

    def apply(folder: Path) -> None:
        header = (folder / TWO).read_bytes()
        size = int.from_bytes(header[:8], "little")
        names = [name for name in json.loads(header[8 : 8 + size]) if name != "__metadata__"]
        everything = tiny.read_safetensors(folder)
        found = {name: everything[name] for name in names}
        change(found)
        tiny.write_safetensors(folder / TWO, found)

    return apply


def put(row: int, column: int, value: float) -> Callable[[Path], None]:
    return rewrite(lambda tensors: tensors[UP].__setitem__((row, column), value))


def layers(count: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["num_hidden_layers"] = count
        (folder / "config.json").write_text(json.dumps(config))

    return change


def place(file: str) -> Callable[[Path], None]:
    """Say in the index that a tensor is in another file."""

    def change(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"][UP] = file
        (folder / INDEX).write_text(json.dumps(index))

    return change


def linked(name: str) -> Callable[[Path], None]:
    """Let a file of the folder be a link to one outside of it."""

    def change(folder: Path) -> None:
        outside = folder.parent / f"outside-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return change


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / TWO).rename(outside)
    (folder / TWO).symlink_to(outside)


def twice_in_a_header(folder: Path) -> None:
    """The same key twice in the JSON of a header: readers disagree about which one counts."""
    data = (folder / TWO).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size]
    again = json.dumps(UP) + ": " + json.dumps(json.loads(header)[UP]) + ", "
    text = b"{" + again.encode() + header[1:]
    (folder / TWO).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def twice_in_shards(folder: Path) -> None:
    first = tiny.read_safetensors(folder)["model.embed_tokens.weight"]
    rewrite(lambda tensors: tensors.update({"model.embed_tokens.weight": first}))(folder)


CASES: dict[str, tuple[Callable[[Path], object], int, str, list[str]]] = {
    # what is done, exit status, code, words of the sentence
    "a missing shard": (
        lambda folder: (folder / TWO).unlink(),
        3,
        "not_found",
        [TWO, "no such file"],
    ),
    "a shard that is cut short": (cut, 5, "corrupt_file", [TWO, "the data end at byte"]),
    "a shard of nothing": (
        lambda folder: os.truncate(folder / TWO, 0),
        5,
        "corrupt_file",
        [TWO, "0 bytes"],
    ),
    "a tensor of another shape": (
        rewrite(lambda tensors: tensors.update({UP: tensors[UP][:-1]})),
        1,
        "failed",
        [UP, "[95, 64]", "[96, 64]"],
    ),
    "a config with more layers": (
        layers(3),
        1,
        "failed",
        ["9 tensors are missing", "model.layers.2.", "..."],
    ),
    "a config with fewer layers": (
        layers(1),
        1,
        "failed",
        ["9 tensors have no place", "model.layers.1."],
    ),
    "a config with a billion layers": (
        layers(10**9),
        1,
        "failed",
        ["config.json", "1000000000 layers"],
    ),
    "NaN": (
        put(3, 5, np.nan),
        1,
        "failed",
        [UP, "1 value is NaN or infinite", "row 3, column 5 (NaN)"],
    ),
    "infinity": (put(95, 63, -np.inf), 1, "failed", [UP, "row 95, column 63 (-infinity)"]),
    "a tensor twice in a header": (twice_in_a_header, 5, "corrupt_file", [TWO, UP, "twice"]),
    "a tensor in two shards": (
        twice_in_shards,
        5,
        "corrupt_file",
        [TWO, "model.embed_tokens.weight", "does not place"],
    ),
    "an index that names a shard without the tensor": (
        place(ONE),
        5,
        "corrupt_file",
        [TWO, UP, "does not place"],
    ),
    "an index that points above the folder": (
        place("../" + TWO),
        5,
        "corrupt_file",
        [INDEX, UP, "not a file beside it"],
    ),
    "an index that points anywhere": (
        place("/etc/passwd"),
        5,
        "corrupt_file",
        [INDEX, "'/etc/passwd'"],
    ),
    "an index that names another kind of file": (
        place("tokenizer.json"),
        5,
        "corrupt_file",
        [INDEX, "not safetensors"],
    ),
    "a configuration outside": (
        linked("config.json"),
        5,
        "corrupt_file",
        ["config.json", "leads out of its folder"],
    ),
    "a tokenizer outside": (
        linked("tokenizer.json"),
        5,
        "corrupt_file",
        ["tokenizer.json", "leads out of its folder"],
    ),
    "a link out of the folder": (link_out, 5, "corrupt_file", [TWO, "leads out of its folder"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_checkpoint_has_its_code_and_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, status, code, words = CASES[case]
    folder = sharded(tmp_path / "hf")
    change(folder)
    before = sorted(tmp_path.iterdir())
    assert run(["convert", str(folder), "-o", str(tmp_path / "x.gguf"), "--json"]) == status
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["code"] == code
    assert str(folder) in error["message"]
    for word in words:
        assert word in error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 500 + len(str(folder))
    assert error["message"] in err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_the_shards_are_in_order_else(tmp_path: Path) -> None:
    """What the cases above begin with converts to the very file of the model in one piece."""
    one = convert(tiny.llama(tmp_path / "one"), tmp_path / "x.gguf")
    sharded(tmp_path / "again")
    (tmp_path / "two").mkdir()
    (tmp_path / "one").rename(tmp_path / "moved")
    (tmp_path / "again").rename(tmp_path / "one")
    assert convert(tmp_path / "one", tmp_path / "y.gguf").sha256 == one.sha256


# -- GGUF in parts --------------------------------------------------------------------------------


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("x-*-of-*.gguf"))


def same_tensors_again(folder: Path) -> None:
    """The last part becomes the second one once more, but for its number."""
    _, second, last = parts(folder)
    data = second.read_bytes()
    at = data.index(b"split.no") + len("split.no") + 4
    assert data[at : at + 2] == b"\1\0"
    last.write_bytes(data[:at] + b"\2\0" + data[at + 2 :])


def of_another_model(folder: Path) -> None:
    """A part of the same name and number, of a model with another number of tensors."""
    (folder / "other").mkdir()
    convert(tiny.llama(folder / "other" / "hf", tied=True), folder / "other" / "o.gguf")
    convert(folder / "other" / "o.gguf", folder / "other" / "x.gguf", split_size=150_000)
    (folder / "other" / "x-00002-of-00003.gguf").replace(folder / "x-00002-of-00003.gguf")


SPLIT: dict[str, tuple[Callable[[Path], object], int, str, list[str]]] = {
    "a missing part": (
        lambda folder: parts(folder)[1].unlink(),
        3,
        "not_found",
        ["x-00002-of-00003.gguf", "part 2 of 3"],
    ),
    "a part that is cut short": (
        lambda folder: os.truncate(parts(folder)[2], parts(folder)[2].stat().st_size - 100),
        5,
        "corrupt_file",
        ["x-00003-of-00003.gguf", "beyond"],
    ),
    "a tensor in two parts": (
        same_tensors_again,
        5,
        "corrupt_file",
        ["x-00003-of-00003.gguf", "x-00002-of-00003.gguf too"],
    ),
    "a part of another model": (
        of_another_model,
        5,
        "corrupt_file",
        ["x-00002-of-00003.gguf", "split.tensors.count is 20"],
    ),
    "a part with another name": (
        lambda folder: parts(folder)[0].rename(folder / "first.gguf"),
        5,
        "corrupt_file",
        ["first.gguf", "part 1 of 3"],
    ),
}


@pytest.mark.parametrize("case", SPLIT)
def test_broken_parts_have_their_code_and_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, status, code, words = SPLIT[case]
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x.gguf", split_size=190_000)
    assert len(parts(tmp_path)) == 3
    change(tmp_path)
    opened = parts(tmp_path)[0] if len(parts(tmp_path)) > 2 or "missing" in case else None
    before = sorted(tmp_path.iterdir())
    source = str(opened or tmp_path / "first.gguf")
    assert run(["convert", source, "-o", str(tmp_path / "y.gguf"), "--json"]) == status
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == code
    for word in words:
        assert word in error["message"]
    assert "\n" not in error["message"]
    assert sorted(tmp_path.iterdir()) == before


# -- NaN and infinity -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_nan_is_refused_unless_allowed(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.llama(tmp_path / "hf", dtype=dtype)
    found = tiny.read_safetensors(folder)
    found[UP][[2, 2, 90], [7, 8, 0]] = np.nan, np.inf, -np.inf
    tiny.write_safetensors(folder / "model.safetensors", found, dtype)
    args = ["convert", str(folder), "-o", str(tmp_path / "x.gguf")]
    assert run(args) == 1
    err = capsys.readouterr().err
    assert f"3 values are NaN or infinite in the tensor {UP}, the first in row 2, column 7" in err
    assert "--allow-nan" in err
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    for to in (dtype.lower(), "f32", "f16", "bf16"):
        assert run([*args, "--allow-nan", "--force", "--dtype", to, "--json"]) == 0
        (note,) = [n for n in json.loads(capsys.readouterr().out)["notes"] if "NaN" in n]
        assert f"3 values are NaN or infinite in the tensor {UP}" in note
        with GGUFCheckpoint(tmp_path / "x.gguf") as checkpoint:
            values = checkpoint.load("blk.1.ffn_up.weight")
        assert np.isnan(values[2, 7])
        assert (values[2, 8], values[90, 0]) == (np.inf, -np.inf)
        assert np.isfinite(values).sum() == values.size - 3
    assert run([*args, "--allow-nan", "--force", "--dtype", "q8_0"]) == 1
    assert "Q8_0 cannot hold" in capsys.readouterr().err


def test_nan_in_a_gguf_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.llama(tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf")
    with GGUFCheckpoint(tmp_path / "x.gguf") as checkpoint:
        offset = checkpoint.info("output_norm.weight").offset
    data = bytearray((tmp_path / "x.gguf").read_bytes())
    struct.pack_into("<f", data, offset + 4 * 9, float("nan"))
    (tmp_path / "x.gguf").write_bytes(data)
    for target in ("y.gguf", "y"):
        assert run(["convert", str(tmp_path / "x.gguf"), "-o", str(tmp_path / target)]) == 1
        err = capsys.readouterr().err
        assert "output_norm.weight, the first in row 0, column 9 (NaN)" in err
        args = ["convert", str(tmp_path / "x.gguf"), "-o", str(tmp_path / target), "--allow-nan"]
        assert run(args) == 0
        assert "output_norm.weight" in capsys.readouterr().out
    assert np.isnan(tiny.read_safetensors(tmp_path / "y")["model.norm.weight"][9])


@pytest.mark.parametrize("target", ["y.gguf", "y", "y-mlx"])
def test_nan_in_the_scale_of_a_block(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x.gguf", dtype="q8_0")
    with GGUFCheckpoint(tmp_path / "x.gguf") as checkpoint:
        tensor = checkpoint.info("blk.1.ffn_up.weight")
    data = bytearray((tmp_path / "x.gguf").read_bytes())
    block = tensor.offset + 5 * tensor.row_bytes + 34  # the second block of row 5
    data[block : block + 2] = b"\x01\x7e"
    (tmp_path / "x.gguf").write_bytes(data)
    args = ["convert", str(tmp_path / "x.gguf"), "-o", str(tmp_path / target)]
    assert run(args) == 1
    err = capsys.readouterr().err
    assert "32 values are NaN or infinite in the tensor blk.1.ffn_up.weight" in err
    assert "row 5, column 32 (NaN)" in err
    assert not (tmp_path / target).exists()
    if target != "y-mlx":  # nothing of MLX can be as wrong
        assert run([*args, "--allow-nan"]) == 0
        assert "32 values are NaN" in capsys.readouterr().out
    if target == "y.gguf":
        assert (tmp_path / target).read_bytes() == data


def test_nan_in_one_of_several_pieces_is_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Phi-3 keeps queries, keys and values in one matrix, of which GGUF may be made in pieces."""
    import tiny_families

    (spec,) = [spec for spec in tiny_families.FAMILIES if spec.name == "phi3"]
    folder = tiny.family(tmp_path / "hf", spec)
    found = tiny.read_safetensors(folder)
    name = "model.layers.0.self_attn.qkv_proj.weight"
    found[name][0, 1] = np.nan
    tiny.write_safetensors(folder / "model.safetensors", found)
    args = ["convert", str(folder), "-o", str(tmp_path / "x.gguf"), "--allow-nan"]
    assert run(args) == 0
    assert f"1 value is NaN or infinite in the tensor {name}" in capsys.readouterr().out
