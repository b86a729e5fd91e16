"""`edgellm convert` with LoRA adapters, as a person or a program meets it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import adapter_folders as adapters
import edgellm
import tiny
from edgellm.cli.main import run
from edgellm.errors import UsageError
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint

MODULES = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its GGUF file and an adapter in it; it is the current one."""
    base = tiny.llama(tmp_path / "hf")
    adapters.write_peft(tmp_path / "lora", base, MODULES)
    edgellm.convert(base, tmp_path / "base.gguf")
    edgellm.convert(base, tmp_path / "q8.gguf", dtype="q8_0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_adapter_to_gguf_and_to_mlx(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "./lora", "-o", "lora.gguf", "--base", "./hf"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("lora.gguf: llama, 1.2 k weights, ")
    assert "from the adapter lora: 2 pairs of matrices, rank 4" in out
    assert err == ""
    args = ["convert", "./lora", "-o", "out", "--to", "mlx", "--base", "base.gguf", "--json"]
    assert run(args) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"] == "llama"
    assert found["tensors"] == 4
    assert found["types"] == {"F32": 4}
    assert found["adapter"] == {"path": "lora", "pairs": 2, "rank": 4, "merged": False}
    files = list((places / "out").iterdir())
    assert found["bytes"] == sum(file.stat().st_size for file in files)
    # What mlx-lm would read is an adapter again.
    assert run(["convert", "./out", "-o", "again.gguf", "--base", "./hf"]) == 0
    first, second = (places / name for name in ("lora.gguf", "again.gguf"))
    assert first.stat().st_size == pytest.approx(second.stat().st_size, abs=64)


def test_a_gguf_adapter_is_a_source_too(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Back to a folder of mlx-lm, and merged: what the folder it was made from gives."""
    edgellm.convert("./lora", "lora.gguf", base="./hf")
    edgellm.convert("./lora", "one", base="./hf", to="mlx")
    assert run(["convert", "lora.gguf", "-o", "two", "--to", "mlx", "--base", "./hf"]) == 0
    first, second = (tiny.read_safetensors(places / name) for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert all(np.allclose(first[name], second[name]) for name in first)
    edgellm.convert("./hf", "m1.gguf", lora="./lora", dtype="f32")
    edgellm.convert("./hf", "m2.gguf", lora="lora.gguf", dtype="f32")
    with GGUFCheckpoint(places / "m1.gguf") as one, GGUFCheckpoint(places / "m2.gguf") as two:
        assert all(np.allclose(one.load(n), two.load(n), atol=1e-6) for n in one.names)
    assert run(["convert", "lora.gguf", "-o", "x.gguf"]) == 2
    assert "--base MODEL" in capsys.readouterr().err


def test_what_an_adapter_is(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edgellm.convert("./lora", "lora.gguf", base="./hf")
    edgellm.convert("./lora", "own", base="./hf", to="mlx")
    for path, form, base, targets in (
        ("./lora", "peft", "someone/model", ["mlp.up_proj", "self_attn.q_proj"]),
        ("lora.gguf", "gguf", None, ["attn_q", "ffn_up"]),
        ("./own", "mlx-lm", None, ["mlp.up_proj", "self_attn.q_proj"]),
    ):
        assert run(["show", path, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["adapter"] == {
            "format": form, "base": base, "pairs": 2, "rank": 4, "alpha": 6.0, "targets": targets,
        }  # fmt: skip
        assert (found["parameters"], len(found["tensors"])) == (1152, 4)
        assert run(["show", path]) == 0
        out = capsys.readouterr().out
        assert "rank, alpha      4, 6\n" in out
        assert f"targets          {', '.join(targets)}\n" in out
    assert run(["show", "./hf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] is None


def test_merging(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [
        "convert",
        "hf/",
        "--lora",
        "lora",
        "-o",
        "m.gguf",
        "--bits",
        "8",
        "--lora-scale",
        "0.5",
    ]
    assert run(args) == 0
    assert "merged with the adapter lora: 2 pairs of matrices, rank 4" in capsys.readouterr().out
    assert run([*args[:-4], "--json", "--force"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["type"] is None
    assert found["adapter"] == {"path": "lora", "pairs": 2, "rank": 4, "merged": True}
    assert run(["convert", "hf/", "-o", "plain.gguf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] is None


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["lora/", "-o", "x.gguf"], 2, ["--base MODEL", "someone/model"]),
        (["lora/", "-o", "x", "--base", "hf/"], 2, ["--to mlx"]),
        (["lora/", "-o", "x.gguf", "--base", "hf/", "--bits", "4"], 2, ["--lora ADAPTER"]),
        (["lora/", "-o", "x.gguf", "--base", "hf/", "--dtype", "q8_0"], 2, ["float type"]),
        (["lora/", "-o", "x.gguf", "--base", "hf/", "--lora", "lora"], 2, ["alone"]),
        (["lora/", "-o", "x.gguf", "--base", "nowhere/at/all"], 3, ["nowhere/at/all"]),
        (["lora/", "-o", "x.gguf", "--base", "lora/"], 3, ["config.json", "a LoRA adapter"]),
        (["lora/", "-o", "lora", "--base", "hf/", "--to", "mlx"], 1, ["source"]),
        (["hf/", "-o", "x.gguf", "--base", "hf/"], 2, ["goes with an adapter"]),
        (["hf/", "-o", "x.gguf", "--lora", "nowhere"], 3, ["nowhere", "no such file"]),
        (["hf/", "-o", "x.gguf", "--lora", "base.gguf"], 1, ["base.gguf", "no LoRA adapter"]),
        (["hf/", "-o", "x.gguf", "--lora", "lora/adapter_config.json"], 3, ["give lora"]),
        (["hf/", "-o", "x.gguf", "--lora", "hf"], 3, ["adapter_config.json"]),
        (["hf/", "-o", "x.gguf", "--lora-scale", "2"], 2, ["--lora ADAPTER"]),
        (["hf/", "-o", "x.gguf", "--lora", "lora", "--lora-scale", "0"], 2, ["adds nothing"]),
        (["hf/", "-o", "x.gguf", "--lora", "lora", "--lora-scale", "nan"], 2, ["adds nothing"]),
        (["q8.gguf", "-o", "x.gguf", "--lora", "lora"], 1, ["Q8_0", "--dtype f32"]),
    ],
)
def test_wrong_commands(
    args: list[str],
    status: int,
    words: list[str],
    places: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(places.iterdir())
    assert run(["convert", *args]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert sorted(places.iterdir()) == before


@pytest.mark.parametrize(
    "args",
    [
        ["run", "./lora.gguf", "hello"],
        ["quantize", "lora.gguf", "--bits", "4", "-o", "x.gguf"],
        ["convert", "lora/", "-o", "x.gguf", "--base", "lora.gguf"],
    ],
)
def test_an_adapter_in_the_place_of_a_model(
    args: list[str],
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))  # `run` reads it
    assert run(["convert", "lora/", "-o", "lora.gguf", "--base", "hf/"]) == 0
    capsys.readouterr()
    before = sorted(places.iterdir())
    assert run(args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "lora.gguf: this is a LoRA adapter, not a model" in err
    assert "--lora lora.gguf" in err
    assert sorted(places.iterdir()) == before


@pytest.mark.parametrize("args", [["quantize", "./lora", "--bits", "4", "-o", "x.gguf"]])
def test_the_folder_of_an_adapter_in_the_place_of_a_model(
    args: list[str], places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 3
    err = capsys.readouterr().err
    assert "which holds a LoRA adapter" in err
    assert "edgellm convert MODEL --lora lora -o OUT" in err


def test_a_broken_adapter_ends_with_the_code_of_a_corrupt_file(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = places / "lora" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    for args in (["lora/", "--base", "hf/"], ["hf/", "--lora", "lora/"]):
        assert run(["convert", *args, "-o", "x.gguf", "--json"]) == 5
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["code"] == "corrupt_file"
        assert "adapter_model.safetensors" in error["message"]


def test_the_python_interface(places: Path) -> None:
    result = edgellm.convert("./lora", places / "x.gguf", base="./hf")
    assert result.adapted is not None
    merged = edgellm.convert("./hf", places / "y.gguf", lora="lora", lora_scale=2)
    assert merged.adapted is not None
    assert merged.adapted.merged
    with pytest.raises(UsageError):
        edgellm.convert("./hf", places / "z.gguf", base="./hf")
