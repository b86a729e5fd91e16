"""`edgellm convert` and `edgellm quantize` as a person or a program meets them."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import pytest

import edgellm
import tiny
from edgellm.cli.main import run
from edgellm.cli.progress import terminated_like_interrupted
from edgellm.errors import NotFoundError, UsageError
from llama_model import opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.llama(tmp_path / "hf", hidden=256, feed_forward=288)


def test_convert_there_and_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf, back = tmp_path / "x.gguf", tmp_path / "back"
    assert run(["convert", str(folder), "-o", str(gguf)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{gguf}: llama, ")
    assert err == ""
    assert run(["convert", str(gguf), "-o", str(back), "--to", "hf"]) == 0
    assert sorted(p.name for p in back.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    settings = json.loads((back / "tokenizer_config.json").read_text())
    assert settings["bos_token"] == "<s>"
    assert settings["chat_template"] == tiny.SETTINGS_SPM["chat_template"]


def test_convert_json_is_what_the_file_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.gguf"
    assert run(["convert", str(folder), "-o", str(target), "--dtype", "F16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    data = target.read_bytes()
    assert found["output"] == str(target)
    assert found["bytes"] == len(data)
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["architecture"] == "llama"
    assert found["tensors"] == 21
    assert found["types"] == {"F16": 16, "F32": 5}
    assert found["seconds"] > 0


def test_quantize_says_type_and_fallbacks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "q.gguf"
    assert run(["quantize", str(folder), "--bits", "4", "-o", str(target), "--method", "rtn"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("--bits 4 is the type Q4_K_M\n")
    assert "288 columns are no multiple of 256" in out
    with opened(target) as model:
        assert len(model.greedy([1, 259], 4)) == 4


def test_quantize_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "q.gguf"
    args = ["quantize", str(folder), "--type", "q5_k_s", "-o", str(target), "--json"]
    args += ["--effort", "fast"]
    assert run(args) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["type"] == "Q5_K_S"
    assert found["method"] == "rtn"
    assert found["receipt"] is None
    assert sum(found["types"].values()) == found["tensors"] == 21
    assert {f["tensor"] for f in found["fallbacks"]} >= {"blk.0.ffn_down.weight"}
    assert found["bits_per_weight"] == pytest.approx(
        8 * target.stat().st_size / found["parameters"], abs=1e-3
    )


def test_from_a_folder_or_from_its_gguf_is_the_same(folder: Path, tmp_path: Path) -> None:
    edgellm.convert(folder, tmp_path / "f32.gguf", dtype="f32")
    first = edgellm.quantize(folder, tmp_path / "a.gguf", "Q4_K_M", method="rtn").conversion
    second = edgellm.quantize(
        tmp_path / "f32.gguf", tmp_path / "b.gguf", bits=4, method="rtn"
    ).conversion
    from edgellm_converters.checkpoints.gguf import GGUFCheckpoint

    assert first.types == second.types
    with GGUFCheckpoint(first.output) as one, GGUFCheckpoint(second.output) as two:
        for name in one.names:
            assert one.info(name).format == two.info(name).format
            assert one.raw(name).tobytes() == two.raw(name).tobytes()
        assert one.header.metadata["general.file_type"] == 15
        assert two.header.metadata["general.file_type"] == 15


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["convert", "nowhere/at/all", "-o", "x.gguf"], 3, "nowhere/at/all"),
        (["convert", ".", "-o", "x.gguf"], 3, "config.json"),
        (["quantize", ".", "-o", "x.gguf"], 2, "exactly one of --type, --bits"),
        (["quantize", ".", "-o", "x.gguf", "--bits", "9"], 2, "9"),
        (["quantize", ".", "-o", "x.gguf", "--type", "Q4_K_X"], 2, "Q4_K_X"),
        (["convert", ".", "-o", "x.gguf", "--dtype", "f16", "--bits", "4"], 2, "exclude"),
        (["quantize", ".", "-o", "x-mlx", "--fit", "rpi5-8gb"], 2, "llama.cpp alone"),
        (["convert", ".", "-o", "x", "--bits", "4"], 2, "holds no quantized"),
        (["convert", ".", "-o", "x-mlx", "--bits", "7"], 2, "2, 3, 4, 5, 6, 8"),
        (["convert", ".", "-o", "x-mlx", "--type", "Q4_K_M"], 2, "no type of MLX"),
        (
            ["convert", ".", "-o", "x-mlx", "--type", "mxfp4", "--group-size", "64"],
            2,
            "mxfp4 has groups of 32, not of 64",
        ),
        (["convert", ".", "-o", "x.gguf", "--bits", "4", "--group-size", "32"], 2, "--to mlx"),
        (["convert", ".", "-o", "x-mlx", "--split-size", "2GB"], 2, "only GGUF is split"),
        (["convert", ".", "-o", "x.gguf", "--to", "hf", "--dtype", "q8_0"], 2, "holds no"),
    ],
)
def test_wrong_commands(
    args: list[str],
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(args) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_importance_types_are_refused(folder: Path, tmp_path: Path) -> None:
    args = ["quantize", str(folder), "--type", "IQ2_XXS", "-o", str(tmp_path / "x.gguf")]
    assert run([*args, "--effort", "fast"]) == 2
    assert not (tmp_path / "x.gguf").exists()


def test_the_python_interface_checks_its_values(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    for wrong in ({"to": "onnx"}, {"dtype": "f8"}, {"bits": 1}, {"threads": 0}):
        with pytest.raises(UsageError):
            edgellm.convert(folder, target, **wrong)  # type: ignore[arg-type]
    assert edgellm.convert(folder, target, dtype="AUTO", bits=8).recipe == "Q8_0"
    with pytest.raises(UsageError):
        edgellm.quantize(folder, target)
    with pytest.raises(NotFoundError):
        edgellm.quantize("no-such-model", target, bits=4)


def test_a_closed_terminal_is_no_matter_to_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminated_like_interrupted():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_quantize_writes_no_file_where_a_folder_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quantize", str(folder), "--bits", "8", "-o", f"{tmp_path}/out/"]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
