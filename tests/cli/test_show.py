"""`edgellm show`: a GGUF file or a folder, for people and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tiny
from edgellm.cli.main import run
from edgellm.device.profiles import Profile
from edgellm.models import store

HOSTILE = "a\x1b[2Jb\nc\x9bd\u202ee"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A llama of 2 layers: one matrix F32, one F16, one Q8_0."""
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny نمونه")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(1000)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_float64("test.nan", math.nan)
    writer.add_float64("test.infinity", -math.inf)
    writer.add_float32("test.small", 1e-5)
    writer.add_string("test.hostile", HOSTILE)
    writer.add_array("test.long", list(range(1000)))
    writer.add_array("test.short", [1.5, 2.5])
    writer.add_chat_template("{{ messages }}\n\x1b]0;title\x07end")
    writer.add_tensor("a.weight", np.zeros((8, 64), np.float32))
    writer.add_tensor("b.weight", np.zeros((4, 64), np.float16))
    blocks = np.zeros((2, 68), np.uint8)  # two rows of two Q8_0 blocks
    writer.add_tensor("c.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert run(["show", *arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert not any(c in out for c in "\x1b\x9b\u202e")
    body = json.loads(out, parse_constant=no_constant)
    assert isinstance(body, dict)
    return body


def test_a_gguf_file_as_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = as_json(capsys, str(model))
    metadata, memory = body.pop("metadata"), body.pop("memory")
    parameters = 8 * 64 + 4 * 64 + 2 * 64
    size = model.stat().st_size
    assert body == {
        "name": None,
        "source": None,
        "path": str(model),
        "format": "gguf",
        "architecture": "llama",
        "type": "Q8_0",
        "parameters": parameters,
        "bytes": size,
        "bits_per_weight": 8 * size / parameters,
        "context_length": 1000,
        "tensors": [
            {"name": "a.weight", "type": "F32", "shape": [8, 64]},
            {"name": "b.weight", "type": "F16", "shape": [4, 64]},
            {"name": "c.weight", "type": "Q8_0", "shape": [2, 64]},
        ],
        "chat_template": "{{ messages }}\n\x1b]0;title\x07end",
        "receipt": None,
        "adapter": None,
    }
    weights = 2048 + 512 + 136
    # keys and values of 2 heads of 16 numbers in 2 layers, 2 bytes each, for 1024 tokens
    cache = 2 * 2 * 16 * 2 * 2 * 1024
    assert (memory["context"], memory["cache_type"]) == (1000, "f16")
    assert (memory["weights"], memory["kv_cache"]) == (weights, cache)
    assert memory["total"] == weights + cache + memory["compute"] + memory["process"]
    assert (memory["fits"], memory["largest_context"]) == (True, 1000)
    assert memory["available"] > memory["total"]
    assert metadata["general.name"] == "Tiny نمونه"
    assert metadata["test.nan"] == "nan"
    assert metadata["test.infinity"] == "-inf"
    assert metadata["test.hostile"] == HOSTILE
    assert metadata["test.long"] == {"length": 1000, "first": [0, 1, 2, 3, 4, 5]}
    assert metadata["test.short"] == [1.5, 2.5]


def test_full_gives_arrays_whole(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = as_json(capsys, str(model), "--full")
    assert body["metadata"]["test.long"] == list(range(1000))


def test_memory_grows_with_the_context(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = as_json(capsys, str(model), "--ctx", "2000")
    assert body["memory"]["context"] == 2000
    assert body["memory"]["kv_cache"] == 2 * 2 * 16 * 2 * 2 * 2048
    # 18 bytes for 32 numbers
    body = as_json(capsys, str(model), "--ctx", "2000", "--cache-type", "q4_0")
    assert body["memory"]["kv_cache"] == 2 * 2 * 18 * 2048


def test_a_device_that_is_too_small(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 38 MiB are for the program
    monkeypatch.setattr("edgellm.api.show.get_profile", lambda _: Profile("this", 2**20, 0))
    memory = as_json(capsys, str(model))["memory"]
    assert (memory["fits"], memory["largest_context"]) == (False, 0)
    assert run(["show", str(model)]) == 0
    assert "fits this device no: 1.0 MB of memory are free" in capsys.readouterr().out


@pytest.mark.parametrize("context", ["0", "-1", "99999999999999999999"])
def test_a_context_out_of_range(
    model: Path, capsys: pytest.CaptureFixture[str], context: str
) -> None:
    assert run(["show", str(model), "--ctx", context]) == 2
    assert "out of range" in capsys.readouterr().err


def test_a_gguf_file_for_people(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(model)]) == 0
    out = capsys.readouterr().out
    assert not any(c in out for c in "\x1b\x9b\x07\u202e")
    lines = out.splitlines()
    for line in (
        "architecture     llama",
        "parameters       896 (896)",
        "context length   1000",
        "  test.nan = nan",
        "  test.small = 1e-05",
        "  test.long = [0, 1, 2, 3, 4, 5, ... 1000 in all]",
        "  test.hostile = a\\x1b[2Jb\\nc\\x9bd\\u202ee",
        "  F32          1  2.0 kB",
        "  {{ messages }}",
        "  \\x1b]0;title\\x07end",
    ):
        assert line in lines
    assert "a.weight" not in out


def test_all_tensors_where_asked_for(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(model), "--tensors"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Q8_0", "2", "x", "64", "c.weight"] in rows


def test_a_name_in_the_store(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.models_dir().mkdir(parents=True)
    model.rename(store.models_dir() / "mine.gguf")
    assert as_json(capsys, "mine")["path"] == str(store.models_dir() / "mine.gguf")


def test_the_default_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show"]) == 3
    assert "hint: edgellm pull smollm2-135m-instruct" in capsys.readouterr().err


def test_the_model_that_the_environment_names(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGELLM_MODEL", str(model))
    assert as_json(capsys)["path"] == str(model)


def test_a_damaged_file_is_one_sentence(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = model.read_bytes()
    model.write_bytes(raw[: len(raw) // 2])
    assert run(["show", str(model), "--json"]) == 5
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["code"] == "corrupt_file"
    assert captured.err.startswith(f"edgellm: {model}: ")


# --- Hugging Face folders --------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hf"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "hidden_size": 64,
        "max_position_embeddings": 100_000,
        "odd": ["\ud800", math.nan],
    }
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps(
        {"w": {"dtype": "BF16", "shape": [3, 64], "data_offsets": [0, 384]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(384)
    )
    return folder


def test_a_folder_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = as_json(capsys, str(folder))
    assert body["format"] == "huggingface"
    assert body["architecture"] == "LlamaForCausalLM"
    assert body["type"] == "BF16"
    assert body["parameters"] == 192
    assert body["bytes"] == (folder / "model.safetensors").stat().st_size
    assert body["context_length"] == 100_000
    assert body["tensors"] == [{"name": "w", "type": "BF16", "shape": [3, 64]}]
    assert body["metadata"]["hidden_size"] == 64
    assert body["metadata"]["odd"] == ["\ud800", "nan"]
    assert body["chat_template"] is None
    # one head of 16 numbers, keys and values, 2 layers, 2 bytes; at most 4096 tokens by default
    assert body["memory"]["kv_cache"] == 16 * 2 * 2 * 2 * 4096
    assert run(["show", str(folder)]) == 0


def test_the_chat_template_of_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tokenizer_config.json").write_text('{"chat_template": "in the config"}')
    assert as_json(capsys, str(folder))["chat_template"] == "in the config"
    (folder / "chat_template.jinja").write_text("in a file")
    assert as_json(capsys, str(folder))["chat_template"] == "in a file"


@pytest.mark.parametrize(
    ("name", "raw", "status", "sentence"),
    [
        ("config.json", b"{", 1, "not valid JSON"),
        ("config.json", b"[" * 100_000, 1, "not valid JSON"),
        ("config.json", b"[]", 1, "not an object"),
        ("config.json", b"\xff", 1, "not valid JSON"),
        ("chat_template.jinja", b"\xff", 1, "not UTF-8"),
        ("model.safetensors", b"\xff" * 20, 5, "model.safetensors"),
    ],
)
def test_a_damaged_folder_is_one_sentence(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    raw: bytes,
    status: int,
    sentence: str,
) -> None:
    (folder / name).write_bytes(raw)
    assert run(["show", str(folder)]) == status
    err = capsys.readouterr().err
    assert sentence in err
    assert err.startswith(f"edgellm: {folder / name}")


def test_a_part_of_a_split_model_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["convert", str(tiny.llama(tmp_path / "hf")), "-o", str(tmp_path / "x.gguf")]
    assert run([*args, "--split-size", "100kB"]) == 0
    second = sorted(tmp_path.glob("*.gguf"))[1]
    capsys.readouterr()
    assert run(["show", str(second)]) == 0
    assert "part             2 of " in capsys.readouterr().out


def test_a_safetensors_file_is_not_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["show", str(folder / "model.safetensors")]) == 5
    assert f"hint: give its folder, {folder}" in capsys.readouterr().err


def test_a_long_object_is_cut_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["settings"] = {f"layer {number}": "value" for number in range(50)}
    (folder / "config.json").write_text(json.dumps(config))
    assert run(["show", str(folder)]) == 0
    line = next(line for line in capsys.readouterr().out.split("\n") if "settings" in line)
    assert line.endswith("...")
    assert len(line) < 200
    assert run(["show", str(folder), "--full"]) == 0
    assert "layer 49" in capsys.readouterr().out
    assert len(as_json(capsys, str(folder))["metadata"]["settings"]) == 50


def test_a_folder_without_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(tmp_path)]) == 3
    assert "there is no config.json" in capsys.readouterr().err


# --- real models -----------------------------------------------------------------------------


def test_the_default_model(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = as_json(capsys, str(smollm2))
    assert body["architecture"] == "llama"
    assert body["type"] == "Q4_1"
    assert body["parameters"] == 134_515_008
    assert body["context_length"] == 8192
    assert len(body["tensors"]) == 272
    assert "<|im_start|>" in body["chat_template"]
    assert body["memory"]["kv_cache"] == 30 * 3 * 64 * 2 * 2 * 4096
    assert body["metadata"]["tokenizer.ggml.tokens"]["length"] == 49_152


def test_a_real_folder(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = as_json(capsys, str(shared / "models" / "stories260K-hf"))
    assert body["parameters"] == 260_032
    assert body["bits_per_weight"] > 32
